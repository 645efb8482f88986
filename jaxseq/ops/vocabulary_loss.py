"""Cross-entropy over a vocabulary, a chunk of positions at a time: never are there all logits.

    z_t = f(W^T x_t + b)        loss_t = logsumexp_v z_tv - z_t,target

f is the soft cap c tanh(. / c), or nothing. The gradient is made in the same pass as the value,
while the logits of a chunk are there (Hsu et al. 2024, arXiv:2410.10989, section 3.2), so that
nothing is computed twice:

    da_t = f'_t (softmax(z_t) - [v = target])     dx_t = W da_t     dW = sum_t x_t da_t^T

What it keeps for the backward pass is dx, as large as x, and dW, as large as W; that pass only
scales them. Beside them exist the logits of one chunk.

Over a mesh each device goes through the chunks of its own rows and times, and sums of dW over
devices are formed once, behind the last chunk. Where the vocabulary is divided too, a chunk's
logits are, and their maxima, sums and dx are summed over its mesh axis.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxseq.ops.linear import linear
from jaxseq.ops.precision import accumulator
from jaxseq.parallel.rules import constrain, mesh_axes
from jaxseq.typing import Array, Bool, Float, Int


class OutputMap(NamedTuple):
    """How hidden states become logits: f(W^T x + b), products in `dtype` (None: that of x)."""

    kernel: Float[Array, "D V"]
    bias: Float[Array, "V"] | None = None
    soft_cap: float | None = None
    dtype: jnp.dtype | None = None


def linear_cross_entropy(
    hidden: Float[Array, "B T D"],
    output: OutputMap,
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    chunk: int,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum over valid of the losses above in nats, number of valid positions).

    `mask` is True where a target counts; elsewhere neither hidden states nor targets matter,
    whatever they are. A valid target outside the vocabulary makes the sum NaN. At most `chunk`
    positions of each row have logits at a time. Sums are float32 or wider. Raises ValueError for a
    `chunk` below 1.
    """
    rule = _rule(hidden, output, chunk)
    loss = _sum(hidden, output.kernel, output.bias, targets, mask, rule)
    return loss, jnp.sum(mask, dtype=loss.dtype)


def linear_cross_entropy_by_row(
    hidden: Float[Array, "B T D"],
    output: OutputMap,
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    chunk: int,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """As `linear_cross_entropy`, of each row by itself: for evaluation, without a gradient rule."""
    rule = _rule(hidden, output, chunk)
    losses = _losses(hidden, output.kernel, output.bias, targets, mask, rule).sum(axis=1)
    return losses, jnp.sum(mask, axis=1, dtype=losses.dtype)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What is fixed when the op is traced."""

    chunk: int
    soft_cap: float | None
    dtype: jnp.dtype


def _rule(hidden: Array, output: OutputMap, chunk: int) -> _Rule:
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    return _Rule(chunk, output.soft_cap, jnp.dtype(output.dtype or hidden.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _sum(
    hidden: Array, kernel: Array, bias: Array | None, targets: Array, mask: Array, rule: _Rule
) -> Array:
    return _losses(hidden, kernel, bias, targets, mask, rule).sum()


def _sum_forward(
    hidden: Array, kernel: Array, bias: Array | None, targets: Array, mask: Array, rule: _Rule
) -> tuple[Array, tuple]:
    wide = accumulator(hidden.dtype)

    def step(parameters: tuple, totals: tuple, chunk: tuple) -> tuple[tuple, tuple]:
        x, target, valid = chunk
        map_ = partial(linear, dtype=rule.dtype)
        scores, pull = jax.vjp(map_, x, *(p if p is None else p.astype(wide) for p in parameters))
        losses, slope = _loss_and_slope(scores, target, valid, rule.soft_cap)
        dx, *more = pull(slope)
        return jax.tree.map(jnp.add, totals, tuple(more)), (losses, dx.astype(hidden.dtype))

    nothing = jax.tree.map(lambda p: jnp.zeros(p.shape, wide), (kernel, bias))
    totals, (losses, dhidden) = _over_chunks(
        step, nothing, (kernel, bias), (hidden, targets, mask), rule
    )
    dkernel, dbias = jax.tree.map(lambda d, p: d.astype(p.dtype), totals, (kernel, bias))
    return losses.sum(), (dhidden, dkernel, dbias)


def _sum_backward(rule: _Rule, gradients: tuple, scale: Array) -> tuple:
    return *jax.tree.map(lambda d: d * scale.astype(d.dtype), gradients), None, None


_sum.defvjp(_sum_forward, _sum_backward)


def _losses(
    hidden: Array, kernel: Array, bias: Array | None, targets: Array, mask: Array, rule: _Rule
) -> Float[Array, "B T"]:
    def step(parameters: tuple, _: None, chunk: tuple) -> tuple[None, Array]:
        x, target, valid = chunk
        scores = linear(x, *parameters, dtype=rule.dtype)
        return None, _loss_and_slope(scores, target, valid, rule.soft_cap)[0]

    return _over_chunks(step, None, (kernel, bias), (hidden, targets, mask), rule)[1]


def _loss_and_slope(
    scores: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    soft_cap: float | None,
) -> tuple[Float[Array, "B T"], Float[Array, "B T V"]]:
    """The losses of a chunk, 0 where `mask` is False, and their derivatives by its raw scores."""
    capped = scores if soft_cap is None else soft_cap * jnp.tanh(scores / soft_cap)
    logits = constrain(capped, "batch", "time", "vocab")
    log_sums = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    # A comparison, where a gather would bring a divided vocabulary together.
    numbers = lax.broadcasted_iota(targets.dtype, logits.shape, 2)
    is_target = numbers == targets[..., None]
    at_target = jnp.where(is_target, logits, 0).sum(axis=-1)
    known = (targets >= 0) & (targets < logits.shape[-1])
    losses = jnp.where(known, log_sums[..., 0] - at_target, jnp.nan)
    slope = jnp.exp(logits - log_sums) - is_target
    if soft_cap is not None:
        slope = slope * (1 - (logits / soft_cap) ** 2)
    return jnp.where(mask, losses, 0), jnp.where(mask[..., None], slope, 0)


def _over_chunks(
    step: Callable[[tuple, Any, tuple], tuple[Any, Any]],
    totals: Any,
    parameters: tuple[Array, Array | None],
    arrays: tuple[Array, Array, Array],
    rule: _Rule,
) -> tuple[Any, Any]:
    """The loop over chunks, on every device over its own rows and times.

    step(parameters, totals, (x, targets, mask) of a chunk) -> (totals, arrays "B T ...").
    Returns the last totals, summed over devices, and the arrays of all chunks joined.
    """
    kernel, bias = parameters
    hidden, targets, mask = arrays
    # What divides the kernel's width is gathered once, before the loop, and in few bytes.
    parameters = constrain(kernel.astype(rule.dtype), None, "vocab"), bias
    arrays = constrain(hidden, "batch", "time", None), targets, mask
    rows, times = mesh_axes("batch", mask.shape[0]), mesh_axes("time", mask.shape[1])
    devices = rows + times
    if not devices:
        return _scan(partial(step, parameters), totals, arrays, rule.chunk)
    width = tuple(axis for axis in mesh_axes("embed", kernel.shape[0]) if axis in devices)

    def local(totals: Any, parameters: tuple, arrays: tuple) -> tuple[Any, Any]:
        # Typed as what differs from device to device: JAX would else sum each chunk's gradients
        # over devices, where the sum of the totals will do.
        totals, parameters = jax.tree.map(
            lambda x: lax.pcast(x, devices, to="varying"), (totals, parameters)
        )
        totals, found = _scan(partial(step, parameters), totals, arrays, rule.chunk)
        return jax.tree.map(partial(_add_up, devices, width), totals), found

    whole, divided = PartitionSpec(), PartitionSpec(rows or None, times or None)
    parts = jax.tree.map(lambda t: PartitionSpec(width) if t.ndim == 2 else whole, totals)
    return jax.shard_map(
        local,
        in_specs=(whole, whole, divided),
        out_specs=(parts, divided),
        axis_names=set(devices),
    )(totals, parameters, arrays)


def _add_up(devices: tuple[str, ...], width: tuple[str, ...], total: Array) -> Array:
    """The sum of what `devices` found for a parameter; of the kernel, each has its own part."""
    if total.ndim == 1 or not width:
        return lax.psum(total, devices)

    def scatter(total: Array) -> Array:
        part = lax.psum_scatter(total, width, scatter_dimension=0, tiled=True)
        return lax.psum(part, tuple(axis for axis in devices if axis not in width))

    words = mesh_axes("vocab", total.shape[1])
    if not words:
        return scatter(total)
    # Left to itself, XLA would gather the vocabulary to scatter the width.
    columns = PartitionSpec(None, words)
    return jax.shard_map(scatter, in_specs=columns, out_specs=columns, axis_names=set(words))(total)


def _scan(
    step: Callable[[Any, tuple], tuple[Any, Any]],
    totals: Any,
    arrays: tuple[Array, Array, Array],
    chunk: int,
) -> tuple[Any, Any]:
    """The loop over chunks on one device."""

    def visit(totals: Any, chunk: tuple) -> tuple[Any, Any]:
        x, target, valid = chunk
        x = jnp.where(valid[..., None], x, 0).astype(accumulator(x.dtype))
        return step(totals, (x, target, valid))

    length = arrays[0].shape[1]
    chunks = max(1, -(-length // chunk))
    size = -(-length // chunks)
    if chunks == 1:
        return visit(totals, arrays)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, chunks * size - length), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], chunks, size, *x.shape[2:]), 1, 0)

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], chunks * size, *x.shape[3:])[:, :length]

    totals, found = lax.scan(visit, totals, jax.tree.map(cut, arrays))
    return totals, jax.tree.map(join, found)
