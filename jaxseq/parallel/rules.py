"""The one table of rules: which mesh axis divides which axis of an array.

Layers name the axes of their parameters and activations by what they mean; `RULES` maps those names
to mesh axes. Reading it as sentences: the rows of a batch are divided over `data`, `fsdp`, `expert`
and `stage` (a pipeline gathers them over `stage`; what stands before and behind it, such as the
logits, is then not computed by every stage); the model width of parameters over `fsdp` (gathered
again just before use); heads, feed-forward and vocabulary over `tensor`, because each layer then
needs one sum over devices at its end; between layers, where nothing mixes time, that sum is left
divided over time ("residual_time", Korthikanti et al. 2022, arXiv:2205.05198).

A mesh is put around a trace by `jax.set_mesh`, the rules by `use_rules`; without a mesh every
function here says that nothing is divided.
"""

import contextlib
import math
from collections.abc import Generator, Mapping
from contextvars import ContextVar
from typing import NamedTuple

import jax
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxseq.errors import UserError
from jaxseq.typing import Array

Rules = Mapping[str, str | tuple[str, ...] | None]

RULES: Rules = {
    # of parameters
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "expert": "expert",
    "vocab": "tensor",
    "classes": None,
    "position": None,
    "norm": None,
    "layers": "stage",
    # of activations
    "batch": ("data", "fsdp", "expert", "stage"),
    "time": "context",
    "residual_time": ("context", "tensor"),
}


class Ticks(NamedTuple):
    """How a batch passes through a pipeline."""

    microbatches: int = 0
    """Parts of it that follow one another; 0: as many as there are stages."""
    rounds: int = 1
    """How often each passes through every stage."""


ONE_ROUND = Ticks()

_ticks: ContextVar[Ticks] = ContextVar("ticks", default=ONE_ROUND)

_rules: ContextVar[Rules] = ContextVar("rules", default=RULES)


@contextlib.contextmanager
def use_rules(rules: Rules, ticks: Ticks = ONE_ROUND) -> Generator[None, None, None]:
    """Makes `rules` those of what is traced inside, and `ticks` those of its pipelines.

    They are no part of a compiled function's key: give a function that is traced under two tables
    a `jax.jit` for each.
    """
    before = _rules.set(rules), _ticks.set(ticks)
    try:
        yield
    finally:
        _rules.reset(before[0])
        _ticks.reset(before[1])


def pipeline_ticks() -> Ticks:
    """How a batch passes through a pipeline here."""
    return _ticks.get()


def mesh_size(axis: str) -> int:
    """The size of a mesh axis that a shard_map could take here; 1 where there is none."""
    return _free_axes().get(axis, 1)


def is_divided() -> bool:
    """Whether XLA divides what is traced here among several devices."""
    return math.prod(_free_axes().values()) > 1


def mesh_axes(name: str | None, size: int) -> tuple[str, ...]:
    """The mesh axes that divide a logical axis of this size; none where they do not divide it.

    Axes of size 1 are left out, and those that a `shard_map` around the caller has taken.
    """
    free = _free_axes()
    axes = tuple(axis for axis in targets(name, _rules.get()) if free.get(axis, 1) > 1)
    return axes if size % math.prod(free[axis] for axis in axes) == 0 else ()


def constrain(x: Array, *names: str | None) -> Array:
    """x, laid out over the mesh by the logical names of its axes (None: whole).

    An axis that its mesh axes do not divide stays whole; so does one whose mesh axis an earlier
    axis of x is on. Without a mesh x is as it is. Raises UserError for a name without a rule.
    """
    entries: list[tuple[str, ...]] = []
    for name, size in zip(names, x.shape, strict=True):
        taken = {axis for entry in entries for axis in entry}
        axes = mesh_axes(name, size)
        entries.append(() if taken & set(axes) else axes)
    if not is_divided():
        return x
    return lax.with_sharding_constraint(x, PartitionSpec(*(entry or None for entry in entries)))


def spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: Rules = RULES
) -> PartitionSpec:
    """The mesh axes of a parameter whose axes have these logical names and sizes.

    Raises UserError for a name that no rule knows, two axes on one mesh axis, or a size that its
    mesh axis does not divide; each names the axes concerned.
    """
    placed: dict[str, str] = {}
    entries = []
    for name, size in zip(axes, shape, strict=True):
        divided = targets(name, rules)
        for mesh_axis in divided:
            if mesh_axis in placed:
                raise UserError(
                    f"logical axes '{placed[mesh_axis]}' and '{name}' of one array are both on "
                    f"mesh axis '{mesh_axis}'; change a rule"
                )
            placed[mesh_axis] = str(name)
        ways = math.prod(mesh.shape[mesh_axis] for mesh_axis in divided)
        if size % ways:
            raise UserError(
                f"logical axis '{name}' of size {size} does not divide over mesh axis "
                f"{' x '.join(divided)} of size {ways}"
            )
        entries.append(rules[name] if name is not None else None)
    return PartitionSpec(*entries)


def targets(name: str | None, rules: Rules) -> tuple[str, ...]:
    """The mesh axes that a rule names; UserError where there is no rule."""
    if name is None:
        return ()
    if name not in rules:
        raise UserError(f"no sharding rule for logical axis '{name}'; known: {sorted(rules)}")
    target = rules[name]
    return (target,) if isinstance(target, str) else (target or ())


def _free_axes() -> dict[str, int]:
    """The axes of the mesh around the trace that no shard_map has taken, with their sizes."""
    mesh: AbstractMesh = jax.sharding.get_abstract_mesh()
    return {name: mesh.shape[name] for name in mesh.axis_names if name not in mesh.manual_axes}
