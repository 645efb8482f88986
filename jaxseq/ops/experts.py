"""A mixture of experts: which tokens go to which, the way there and back, and the products.

E experts; every token of N makes k choices among them. A choice has the number c = j N + n for the
j-th choice of token n, so that all first choices come before all second ones.
"""

import dataclasses
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
    logits: Float[Array, "N E"], per_token: int
) -> tuple[Float[Array, "N k"], Int[Array, "N k"], Float[Array, "N E"]]:
    """(weights, experts, probabilities) of the `per_token` likeliest experts of each token.

        p = softmax(logits)        w_j = p_j / sum of p over the k chosen        (k > 1)

    (Shazeer et al. 2017, arXiv:1701.06538; Jiang et al. 2024, arXiv:2401.04088.) A single choice
    keeps w = p (Fedus et al. 2021, arXiv:2101.03961, eq. 2): over itself it would always be 1, and
    teach the router nothing. Of equal experts the first is chosen. In float32 or wider.
    """
    probabilities = jax.nn.softmax(logits.astype(accumulator(logits.dtype)), axis=-1)
    _, experts = lax.top_k(lax.stop_gradient(probabilities), per_token)
    chosen = experts[:, :, None] == jnp.arange(logits.shape[1])[None, None]
    weights = jnp.sum(jnp.where(chosen, probabilities[:, None], 0), axis=-1)
    if per_token > 1:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return weights, experts, probabilities


def balance_loss(
    probabilities: Float[Array, "N E"],
    experts: Int[Array, "N k"],
    valid: Bool[Array, "N"] | None = None,
) -> Float[Array, ""]:
    """How unevenly the experts are used: 1 where all are used alike, at most E.

        E sum_e f_e p_e        f_e = share of all choices that fall on e        p_e = mean of p

    over the valid tokens (Fedus et al. 2021, arXiv:2101.03961, eq. 4 to 6; with k choices a token,
    each counts 1 / k). f counts what was chosen, dropped or not, and has no gradient; without a
    valid token the loss is 0.
    """
    if valid is None:
        valid = jnp.ones(len(experts), bool)
    count = probabilities.shape[1]
    tokens = jnp.maximum(jnp.sum(valid, dtype=probabilities.dtype), 1)
    chosen = (experts[:, :, None] == jnp.arange(count)[None, None]) & valid[:, None, None]
    shares = jnp.sum(chosen, axis=(0, 1), dtype=probabilities.dtype) / (tokens * experts.shape[1])
    means = jnp.sum(jnp.where(valid[:, None], probabilities, 0), axis=0) / tokens
    return count * jnp.sum(shares * means)


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


def dispatch(
    experts: Int[Array, "N k"],
    valid: Bool[Array, "N"] | None,
    count: int,
    capacity_factor: float = 0.0,
) -> Dispatch:
    """The rows of `count` experts.

    An expert takes at most ceil(capacity_factor k (valid tokens) / E) choices: those with the
    lowest numbers, that is first choices of all tokens before second ones, and earlier tokens
    before later ones (Lepikhin et al. 2020, arXiv:2006.16668). 0: it takes all.
    """
    num_tokens, per_token = experts.shape
    choices = num_tokens * per_token
    chosen = experts.T.reshape(choices)
    if valid is not None:
        chosen = jnp.where(jnp.tile(valid, per_token), chosen, count)
    # Sorted by expert, and by number among those of one expert; padding comes last.
    order = jnp.argsort(chosen, stable=True).astype(jnp.int32)
    place = jnp.argsort(order).astype(jnp.int32)
    sizes = jnp.sum(chosen[:, None] == jnp.arange(count)[None], axis=0, dtype=jnp.int32)
    if not capacity_factor:
        total = jnp.sum(sizes, dtype=jnp.int32)
        used = jnp.arange(choices, dtype=jnp.int32) < total
        rows = jnp.where(place < total, place, choices)
        return Dispatch(jnp.where(used, order, choices), rows, sizes, 0)

    share = np.float32(capacity_factor * per_token / count)  # rounded once, as in the twin
    slots = limit = min(int(np.ceil(share * np.float32(num_tokens))), num_tokens)
    if valid is not None:
        limit = jnp.ceil(share * jnp.sum(valid, dtype=jnp.float32)).astype(jnp.int32)
        limit = jnp.minimum(limit, slots)
    starts = jnp.cumsum(sizes, dtype=jnp.int32) - sizes
    expert = jnp.minimum(chosen, count - 1)
    slot = place - starts[expert]
    kept = (chosen < count) & (slot < limit)
    sizes = jnp.minimum(sizes, limit)
    numbers = jnp.arange(slots, dtype=jnp.int32)[None]
    at = jnp.minimum(starts[:, None] + numbers, choices - 1)
    choice_of_row = jnp.where(numbers < sizes[:, None], order[at], choices).reshape(-1)
    row_of_choice = jnp.where(kept, expert * slots + slot, count * slots)
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


# --- Products there ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is fixed when the products are traced; `slots` as in `Dispatch`."""

    slots: int
    dtype: jnp.dtype
    wide: jnp.dtype


def grouped_linear(
    x: Float[Array, "R D"],
    kernel: Float[Array, "E D F"],
    sizes: Int[Array, "E"],
    *,
    slots: int = 0,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "R F"]:
    """y_r = x_r W_e for the group e that row r is in; 0, and 0 gradient, for a row in none.

    The first sizes[0] rows are of group 0, the next sizes[1] of group 1, and so on; if `slots` is
    not 0, group e begins at row `slots` e. Operands of the product, and of the two products of its
    gradient, are cast to `dtype` (None keeps x's), products are summed in float32 or wider, and y
    has x's dtype.
    """
    return _product(
        x, kernel, sizes, Rule(slots, jnp.dtype(dtype or x.dtype), accumulator(x.dtype))
    )


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(x: Array, kernel: Array, sizes: Array, rule: Rule) -> Array:
    """With a gradient rule because the derived one multiplies float32 by `dtype`.

    dx_r = dy_r W_e^T        dW_e = sum over the rows of group e of x_r^T dy_r
    """
    return _product_forward(x, kernel, sizes, rule)[0]


def _product_forward(x: Array, kernel: Array, sizes: Array, rule: Rule) -> tuple[Array, tuple]:
    low = x.astype(rule.dtype)
    y = lax.platform_dependent(
        *(low, kernel, sizes),
        cpu=partial(_rows_on_cpu, rule, "RD,DF->RF"),
        default=partial(_rows, rule, "RD,DF->RF"),
    )
    return y.astype(x.dtype), (low, kernel, sizes)


def _product_backward(rule: Rule, saved: tuple, dy: Array) -> tuple[Array, Array, None]:
    x, kernel, sizes = saved
    low = dy.astype(rule.dtype)
    dx = lax.platform_dependent(
        *(low, kernel, sizes),
        cpu=partial(_rows_on_cpu, rule, "RF,DF->RD"),
        default=partial(_rows, rule, "RF,DF->RD"),
    )
    dkernel = lax.platform_dependent(
        *(x, low, sizes), cpu=partial(_kernels_on_cpu, rule), default=partial(_kernels, rule)
    )
    return dx.astype(dy.dtype), dkernel.astype(kernel.dtype), None


_product.defvjp(_product_forward, _product_backward)


def _rows(rule: Rule, equation: str, x: Array, kernel: Array, sizes: Array) -> Array:
    kernel = kernel.astype(x.dtype)
    if rule.slots:
        x = x.reshape(len(sizes), rule.slots, x.shape[1])
        by_expert = "E" + equation.replace(",", ",E").replace("->", "->E")
        y = jnp.einsum(by_expert, x, kernel, preferred_element_type=rule.wide)
        y = y.reshape(-1, y.shape[2])
    else:
        kernel = kernel if equation.endswith("F") else kernel.swapaxes(1, 2)
        y = lax.ragged_dot(x, kernel, sizes, preferred_element_type=rule.wide)
    return jnp.where(_in_a_group(rule, len(y), sizes), y, 0)


OVER_ROWS = lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())),
    lhs_ragged_dimensions=(0,),
    rhs_group_dimensions=(),
)


def _kernels(rule: Rule, x: Array, dy: Array, sizes: Array) -> Array:
    there = _in_a_group(rule, len(x), sizes)
    x, dy = jnp.where(there, x, 0), jnp.where(there, dy, 0)
    if rule.slots:
        x, dy = (z.reshape(len(sizes), rule.slots, z.shape[1]) for z in (x, dy))
        return jnp.einsum("ERD,ERF->EDF", x, dy, preferred_element_type=rule.wide)
    return lax.ragged_dot_general(x, dy, sizes, OVER_ROWS, preferred_element_type=rule.wide)


def _in_a_group(rule: Rule, rows: int, sizes: Array) -> Array:
    row = jnp.arange(rows)
    if rule.slots:
        return (row % rule.slots < jnp.repeat(sizes, rule.slots))[:, None]
    return (row < jnp.sum(sizes))[:, None]


# --- On CPUs -------------------------------------------------------------------------------------
#
# There `ragged_dot` multiplies every row by every expert's matrix, and a product over slots does
# the empty ones too. Here a loop goes over blocks of rows of one expert, as many as there are.


def _rows_on_cpu(rule: Rule, equation: str, x: Array, kernel: Array, sizes: Array) -> Array:
    blocks = _Blocks(rule, len(x), sizes)
    width = kernel.shape[2 if equation.endswith("F") else 1]

    def step(i: Array, y: Array) -> Array:
        expert, start, own = blocks.at(i)
        rows = lax.dynamic_slice_in_dim(x, start, blocks.size)
        # Cast here, in the copy of the slice, so that experts without a row cost nothing.
        matrix = kernel[expert].astype(x.dtype)
        product = jnp.einsum(equation, rows, matrix, preferred_element_type=rule.wide)
        before = lax.dynamic_slice_in_dim(y, start, blocks.size)
        return lax.dynamic_update_slice_in_dim(y, jnp.where(own, product, before), start, 0)

    return lax.fori_loop(0, blocks.count, step, jnp.zeros((len(x), width), rule.wide))


def _kernels_on_cpu(rule: Rule, x: Array, dy: Array, sizes: Array) -> Array:
    blocks = _Blocks(rule, len(x), sizes)

    def step(i: Array, dkernel: Array) -> Array:
        expert, start, own = blocks.at(i)
        rows = jnp.where(own, lax.dynamic_slice_in_dim(x, start, blocks.size), 0)
        drows = jnp.where(own, lax.dynamic_slice_in_dim(dy, start, blocks.size), 0)
        gain = jnp.einsum("RD,RF->DF", rows, drows, preferred_element_type=rule.wide)
        return dkernel.at[expert].add(gain)

    begin = jnp.zeros((len(sizes), x.shape[1], dy.shape[1]), rule.wide)
    return lax.fori_loop(0, blocks.count, step, begin)


class _Blocks:
    """Groups cut into blocks of `size` rows, of which the last of a group may have fewer."""

    def __init__(self, rule: Rule, rows: int, sizes: Array) -> None:
        # Large enough for a fast product, small enough that last blocks waste little.
        self.rows, self.size = rows, min(rows, max(8, min(256, rows // (4 * len(sizes)))))
        self.starts = jnp.cumsum(sizes, dtype=jnp.int32) - sizes
        if rule.slots:
            self.starts = rule.slots * jnp.arange(len(sizes), dtype=jnp.int32)
        self.ends = self.starts + sizes
        numbers = -(-sizes // max(self.size, 1))
        self.last = jnp.cumsum(numbers, dtype=jnp.int32)
        self.first = self.last - numbers
        self.count = self.last[-1]

    def at(self, i: Array) -> tuple[Array, Array, Array]:
        """(group of block i, its first row, which of its rows are its own)."""
        group = jnp.sum(self.last <= i, dtype=jnp.int32)
        begin = self.starts[group] + (i - self.first[group]) * self.size
        start = jnp.minimum(begin, self.rows - self.size)
        rows = start + jnp.arange(self.size, dtype=jnp.int32)
        own = (rows >= begin) & (rows < self.ends[group])
        return group, start, own[:, None]
