"""A mixture of experts: which tokens go to which, and the way there and back.

E experts; every token makes k choices among them. Nothing depends on what other rows a batch has:
an expert's capacity is counted, and its balance taken, in each row by itself. So one batch, k
micro-batches and n devices give the same numbers.

On the way, the rows of a batch are one list of N = B T tokens. A choice has the number
c = j N + n for the j-th choice of token n.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int

# --- Who goes where ------------------------------------------------------------------------------


def route(
    logits: Float[Array, "B T E"], per_token: int
) -> tuple[Float[Array, "B T k"], Int[Array, "B T k"], Float[Array, "B T E"]]:
    """(weights, experts, probabilities) of the `per_token` likeliest experts of each token.

        p = softmax(logits)        w_j = p_j / sum of p over the k chosen        (k > 1)

    (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024, arXiv:2401.04088.) A single choice
    keeps w = p (Fedus et al. 2021, arXiv:2101.03961, eq. 2): over itself it would always be 1, and
    teach the router nothing. Of equal experts the first is chosen. In float32 or wider.
    """
    probabilities = jax.nn.softmax(logits.astype(accumulator(logits.dtype)), axis=-1)
    _, experts = lax.top_k(lax.stop_gradient(probabilities), per_token)
    chosen = jax.nn.one_hot(experts, logits.shape[-1], dtype=bool)
    weights = jnp.sum(jnp.where(chosen, probabilities[:, :, None], 0), axis=-1)
    if per_token > 1:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return weights, experts, probabilities


def balance_loss(
    probabilities: Float[Array, "B T E"],
    experts: Int[Array, "B T k"],
    valid: Bool[Array, "B T"] | None = None,
) -> Float[Array, ""]:
    """How unevenly the experts are used: the sum over rows, each as often as it has tokens, of

        E sum_e f_e p_e        f_e = share of the row's choices that fall on e
                               p_e = mean of p over the row

    which is 1 for a row that uses all alike, and at most E (Fedus et al. 2021, arXiv:2101.03961,
    eq. 4 to 6; with k choices a token, each counts 1 / k). Tokens that are not valid are left out.
    f counts what was chosen, dropped or not, and has no gradient.
    """
    if valid is None:
        valid = jnp.ones(experts.shape[:2], bool)
    count, dtype = probabilities.shape[-1], probabilities.dtype
    tokens = jnp.maximum(jnp.sum(valid, axis=1, dtype=dtype), 1)
    chosen = jax.nn.one_hot(experts, count, dtype=bool) & valid[:, :, None, None]
    shares = jnp.sum(chosen, axis=(1, 2), dtype=dtype) / (tokens[:, None] * experts.shape[-1])
    sums = jnp.sum(jnp.where(valid[:, :, None], probabilities, 0), axis=1)
    return count * jnp.sum(shares * sums)


def capacity(factor: float, per_token: int, count: int, tokens: int) -> int:
    """How many choices of a row of so many tokens an expert takes: ceil(factor k tokens / E).

    Never more than there are tokens, for a token chooses an expert once at most.
    """
    share = np.float32(factor * per_token / count)  # rounded once, as in the twin
    return min(int(np.ceil(share * np.float32(tokens))), tokens)


def kept_choices(
    experts: Int[Array, "B T k"],
    valid: Bool[Array, "B T"] | None,
    count: int,
    capacity_factor: float,
    time_axes: tuple[str, ...] = (),
) -> Bool[Array, "B T k"]:
    """Which choices an expert takes: none of padding, and in each row no more than its capacity.

    The capacity is ceil(factor k (valid tokens of the row) / E). First choices of all tokens come
    before second ones, and earlier tokens before later ones (Lepikhin et al. 2020,
    arXiv:2006.16668). Where `shard_map` has divided time over `time_axes`, each device has its
    part of the rows; they tell one another how many choices fell on each expert.
    """
    if valid is None:
        valid = jnp.ones(experts.shape[:2], bool)
    chosen = jax.nn.one_hot(experts, count, dtype=bool) & valid[:, :, None, None]
    earlier = jnp.cumsum(chosen, axis=1, dtype=jnp.int32)
    totals = jnp.sum(chosen, axis=1, keepdims=True, dtype=jnp.int32)
    tokens = jnp.sum(valid, axis=1, dtype=jnp.float32)
    if time_axes:
        parts = lax.all_gather(totals, time_axes)
        before = jnp.arange(len(parts)) < lax.axis_index(time_axes)
        earlier += jnp.sum(jnp.where(before[:, None, None, None, None], parts, 0), axis=0)
        totals = jnp.sum(parts, axis=0)
        tokens = lax.all_gather(tokens, time_axes).sum(axis=0)
    ahead = earlier + jnp.cumsum(totals, axis=2) - totals
    place = jnp.sum(jnp.where(chosen, ahead, 0), axis=-1)  # from 1 on; 0 for padding
    share = np.float32(capacity_factor * experts.shape[2] / count)
    limit = jnp.ceil(share * tokens).astype(jnp.int32)
    return (place > 0) & (place <= limit[:, None, None])


class Dispatch(NamedTuple):
    """Where the choices stand among the R rows of tokens that the experts work on.

    The rows of an expert stand together, in the order of the choices' numbers. `choice_of_row` is
    k N at a row that nobody has, `row_of_choice` is R at a choice that no expert takes. `sizes`
    counts each expert's rows: they follow one another from row 0 on, or, where `slots` is not 0,
    expert e's begin at row `slots` e.
    """

    choice_of_row: Int[Array, "R"]
    row_of_choice: Int[Array, "M"]
    sizes: Int[Array, "E"]
    slots: int


def dispatch(experts: Int[Array, "N k"], count: int, slots: int = 0) -> Dispatch:
    """The rows of `count` experts; a choice that is not in [0, count) is of none of them.

    A token's choices differ. `slots` is how many rows each expert has room for; 0: any number, in
    N min(k, E) rows in all.
    """
    num_tokens, per_token = experts.shape
    choices, room = num_tokens * per_token, num_tokens * min(per_token, count)
    chosen = experts.T.reshape(choices)
    chosen = jnp.where((chosen >= 0) & (chosen < count), chosen, count)
    # Sorted by expert, and by number among those of one expert; what nobody takes comes last.
    order = jnp.argsort(chosen, stable=True).astype(jnp.int32)
    place = jnp.argsort(order).astype(jnp.int32)
    sizes = jnp.sum(jax.nn.one_hot(chosen, count, dtype=bool), axis=0, dtype=jnp.int32)
    if not slots:
        total = jnp.sum(sizes, dtype=jnp.int32)
        used = jnp.arange(room, dtype=jnp.int32) < total
        rows = jnp.where(place < total, place, room)
        return Dispatch(jnp.where(used, order[:room], choices), rows, sizes, 0)

    starts = jnp.cumsum(sizes, dtype=jnp.int32) - sizes
    numbers = jnp.arange(slots, dtype=jnp.int32)[None]
    at = jnp.minimum(starts[:, None] + numbers, choices - 1)
    choice_of_row = jnp.where(numbers < sizes[:, None], order[at], choices).reshape(-1)
    rows = slots * chosen + place - starts[jnp.minimum(chosen, count - 1)]
    row_of_choice = jnp.where(chosen < count, rows, slots * count)
    return Dispatch(choice_of_row, row_of_choice, sizes, slots)


# --- There and back ------------------------------------------------------------------------------


def to_experts(x: Float[Array, "N D"], plan: Dispatch) -> Float[Array, "R D"]:
    """The row of tokens at each of the experts' rows, 0 where nobody stands."""
    choices, num_tokens = len(plan.row_of_choice), len(x)
    token = plan.choice_of_row % max(num_tokens, 1)
    token = jnp.where(plan.choice_of_row < choices, token, num_tokens)
    return _take(x, token, plan.row_of_choice, max(choices // max(num_tokens, 1), 1))


def from_experts(
    rows: Float[Array, "R D"], weights: Float[Array, "N k"], plan: Dispatch
) -> Float[Array, "N D"]:
    """y_n = sum_j w_nj row(n, j), where a choice that no expert took adds 0."""
    num_tokens, per_token = weights.shape
    found = _take(rows, plan.row_of_choice, plan.choice_of_row, 1)
    found = found.reshape(per_token, num_tokens, rows.shape[1])
    weighted = weights.T[:, :, None] * found.astype(weights.dtype)
    return jnp.sum(weighted, axis=0).astype(rows.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _take(x: Array, index: Array, back: Array, copies: int) -> Array:
    """x[index], and 0 where the index is len(x).

    Each row of x is taken `copies` times at most, its i-th time to place back[i len(x) + row]. So
    the gradient is a gather too, where the derived rule would add row by row.
    """
    return _rows_or_zero(x, index)


def _take_forward(x: Array, index: Array, back: Array, copies: int) -> tuple[Array, Array]:
    return _take(x, index, back, copies), back


def _take_backward(copies: int, back: Array, dy: Array) -> tuple[Array, None, None]:
    found = _rows_or_zero(dy, back)
    return found.reshape(copies, len(back) // copies, dy.shape[1]).sum(axis=0), None, None


_take.defvjp(_take_forward, _take_backward)


def _rows_or_zero(x: Array, index: Array) -> Array:
    return x.at[index].get(mode="fill", fill_value=0)
