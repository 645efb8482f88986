"""A mixture of experts on one device, or on many that share out the tokens and the experts.

XLA would gather all tokens to sort them by expert, so that the work is divided here, over the mesh
that `jax.set_mesh` put around the trace. Each device routes and sorts the tokens that it has:

- Where nothing divides the experts, it has all their matrices (gathered over the axes that divide
  the model width) and sends no token away.
- Where the experts are divided among devices that have different tokens, and have a capacity, each
  device sends every expert a buffer of fixed size, and gets it back (all-to-all; Lepikhin et al.
  2020, arXiv:2006.16668).
- Without a capacity any number of tokens may want one expert. Then devices gather one another's
  tokens, compute what their own experts make of them, and sum the parts where the tokens came from.

The feed-forward width may be divided too; each device's products are then a part of the sum.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxseq.ops.experts import capacity, dispatch, from_experts, kept_choices, route, to_experts
from jaxseq.ops.grouped_linear import grouped_linear
from jaxseq.parallel.rules import mesh_axes
from jaxseq.typing import Array, Bool, Float, Int


class ExpertKernels(NamedTuple):
    """The matrices of all experts: those into the feed-forward width, and the one out of it."""

    into: tuple[Float[Array, "E D F"], ...]
    out: Float[Array, "E F D"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is fixed when the op is traced.

    `activation` takes the results of as many products as there are matrices `into`;
    `capacity_factor` 0 drops nothing; `dtype` is that of products' operands (None keeps x's).
    """

    per_token: int
    activation: Callable[..., Array]
    capacity_factor: float = 0.0
    dtype: jnp.dtype | None = None


@dataclasses.dataclass(frozen=True)
class _Split:
    """The mesh axes that divide the rows, their time, the experts, and the axes of kernels.

    Over `gathered` kernels are divided in their model width, and gathered before use. Over
    `scattered` the result is divided in time. `length` is T on all devices together.
    """

    batch: tuple[str, ...] = ()
    time: tuple[str, ...] = ()
    expert: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    gathered: tuple[str, ...] = ()
    scattered: tuple[str, ...] = ()
    length: int = 0

    @property
    def tokens(self) -> tuple[str, ...]:
        """The axes whose devices have different tokens."""
        return self.batch + self.time

    @property
    def shared(self) -> tuple[str, ...]:
        """The axes that divide the experts among devices with different tokens."""
        return tuple(axis for axis in self.expert if axis in self.tokens)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The axes that divide the experts among devices with the same tokens."""
        return tuple(axis for axis in self.expert if axis not in self.tokens)


def mixture(
    x: Float[Array, "B T D"],
    logits: Float[Array, "B T E"],
    valid: Bool[Array, "B T"] | None,
    kernels: ExpertKernels,
    rule: Rule,
) -> tuple[Float[Array, "B T D"], Float[Array, "B T E"], Int[Array, "B T k"]]:
    """(y, probabilities, experts) of each token.

        y_n = sum over its experts e of w_e activation(x_n W_into_e) W_out_e

    where `ops.experts.route` makes w, p and the choice from the logits, and `kept_choices` says
    which an expert with a capacity takes: the others add 0. Tokens that are not valid go nowhere.
    """
    split = _split(x.shape, kernels)
    if not (split.tokens or split.expert or split.hidden):
        return _on_device(rule, split, x, logits, valid, *kernels)
    tokens = PartitionSpec(split.batch, split.time)
    into = PartitionSpec(split.expert, split.gathered, split.hidden)
    out = PartitionSpec(split.expert, split.hidden, split.gathered)
    mesh = jax.sharding.get_abstract_mesh()
    work = partial(_on_device, rule, split)
    if mesh.manual_axes:
        # JAX lays what it keeps for the gradient out over a caller's manual axes too, and fails:
        # nothing is kept here. A pipeline's stages compute their layers again anyway.
        work = jax.checkpoint(work, prevent_cse=False)
    run = jax.shard_map(
        work,
        in_specs=(tokens, tokens, tokens, into, out),
        out_specs=(PartitionSpec(split.batch, split.time + split.scattered), tokens, tokens),
        axis_names=set(mesh.axis_names) - set(mesh.manual_axes),
    )
    return run(x, logits, valid, *kernels)


def _split(shape: tuple[int, ...], kernels: ExpertKernels) -> _Split:
    """How the rules divide x of this shape and the kernels."""
    rows, length, width = shape
    count, hidden_size, _ = kernels.out.shape
    batch, time = mesh_axes("batch", rows), mesh_axes("time", length)
    hidden, embed = mesh_axes("mlp", hidden_size), mesh_axes("embed", width)
    if set(hidden) & {*batch, *time}:  # of other tokens: nothing to sum, so XLA gathers it
        hidden = ()
    if not set(embed) <= {*batch, *time}:  # devices with equal tokens: XLA gathers it
        embed = ()
    residual = mesh_axes("residual_time", length)
    scattered = hidden if residual == time + hidden else ()
    expert = mesh_axes("expert", count)
    return _Split(batch, time, expert, hidden, embed, scattered, length)


def _on_device(
    rule: Rule,
    split: _Split,
    x: Array,
    logits: Array,
    valid: Array | None,
    into: tuple[Array, ...],
    out: Array,
) -> tuple[Array, Array, Array]:
    """`mixture` of the tokens that this device has."""
    rows, length, width = x.shape
    count = logits.shape[2]
    weights, experts, probabilities = route(logits, rule.per_token)
    slots = 0
    if rule.capacity_factor:
        kept = kept_choices(experts, valid, count, rule.capacity_factor, split.time)
        room = capacity(rule.capacity_factor, rule.per_token, count, split.length)
        slots = rows * min(room, length)
        chosen = jnp.where(kept, experts, count)
    else:
        chosen = experts if valid is None else jnp.where(valid[:, :, None], experts, count)

    summed = split.elsewhere + split.hidden
    x, weights, chosen = (
        lax.pcast(z.reshape(-1, z.shape[2]), summed, to="varying") for z in (x, weights, chosen)
    )
    kernels = ExpertKernels(tuple(_here(kernel, 1, split) for kernel in into), _here(out, 2, split))
    y = _there_and_back(rule, split, slots, x, weights, chosen, kernels)
    y = y.reshape(rows, length, width)
    if split.scattered:
        y = lax.psum_scatter(y, split.scattered, scatter_dimension=1, tiled=True)
        summed = split.elsewhere
    return lax.psum(y, summed), probabilities, experts


def _here(kernel: Array, axis: int, split: _Split) -> Array:
    """A kernel whole in the model width, its `axis`; its gradient is summed over the tokens."""
    if split.gathered:
        kernel = lax.all_gather(kernel, split.gathered, axis=axis, tiled=True)
    others = tuple(a for a in split.tokens if a not in split.expert + split.gathered)
    return lax.pcast(kernel, others, to="varying")


def _there_and_back(
    rule: Rule,
    split: _Split,
    slots: int,
    x: Array,
    weights: Array,
    chosen: Array,
    kernels: ExpertKernels,
) -> Array:
    """y "N D" of x "N D", a part of the sum where devices share the work on the same tokens."""
    if slots and split.shared and not split.elsewhere:
        return _exchanged(rule, split.shared, slots, x, weights, chosen, kernels)
    devices = 1
    if split.shared:
        devices = lax.axis_size(split.shared)
        x, weights, chosen = (
            lax.all_gather(z, split.shared, tiled=True) for z in (x, weights, chosen)
        )
    if split.expert:
        chosen = chosen - len(kernels.out) * lax.axis_index(split.expert)
    plan = dispatch(chosen, len(kernels.out), slots * devices)
    rows = _through(rule, kernels, to_experts(x, plan), plan.sizes, plan.slots)
    y = from_experts(rows, weights, plan)
    return lax.psum_scatter(y, split.shared, tiled=True) if split.shared else y


def _exchanged(
    rule: Rule,
    axes: tuple[str, ...],
    slots: int,
    x: Array,
    weights: Array,
    chosen: Array,
    kernels: ExpertKernels,
) -> Array:
    """With buffers of `slots` rows for each expert, sent to its device and back."""
    count = len(kernels.out) * lax.axis_size(axes)
    plan = dispatch(chosen, count, slots)
    there = partial(lax.all_to_all, axis_name=axes, split_axis=0, concat_axis=1, tiled=True)
    back = partial(lax.all_to_all, axis_name=axes, split_axis=1, concat_axis=0, tiled=True)
    rows = there(to_experts(x, plan).reshape(count, slots, -1))
    sizes = there(plan.sizes[:, None])
    done = _through(rule, kernels, rows.reshape(-1, x.shape[1]), sizes.reshape(-1), slots)
    return from_experts(back(done.reshape(rows.shape)).reshape(-1, x.shape[1]), weights, plan)


def _through(rule: Rule, kernels: ExpertKernels, rows: Array, sizes: Array, slots: int) -> Array:
    """The feed-forward layers of the experts that the rows are with."""
    product = partial(grouped_linear, sizes=sizes, slots=slots, dtype=rule.dtype)
    hidden = rule.activation(*(product(rows, kernel) for kernel in kernels.into))
    return product(hidden, kernels.out)
