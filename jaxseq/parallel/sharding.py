"""Which mesh axis divides which axis of an array: one table, said once.

Layers name the axes of their parameters by what they mean; `RULES` maps those names to mesh axes.
Reading it as sentences: a batch is divided over `data` and `fsdp`; the model width of parameters
over `fsdp` (gathered again just before use); heads, feed-forward and vocabulary over `tensor`,
because each layer then needs one sum over devices at its end.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseq.errors import UserError
from jaxseq.typing import PyTree

Rules = Mapping[str, str | tuple[str, ...] | None]

RULES: Rules = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
    "expert": None,
    "vocab": "tensor",
    "classes": None,
    "position": None,
    "norm": None,
    "layers": None,
}


def spec(
    axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, rules: Rules = RULES
) -> PartitionSpec:
    """The mesh axes of an array whose axes have these logical names and sizes.

    Raises UserError for a name that no rule knows, two axes on one mesh axis, or a size that its
    mesh axis does not divide; each names the axes concerned.
    """
    placed: dict[str, str] = {}
    entries = []
    for name, size in zip(axes, shape, strict=True):
        if name is not None and name not in rules:
            raise UserError(f"no sharding rule for logical axis '{name}'; known: {sorted(rules)}")
        target = rules[name] if name is not None else None
        mesh_axes = (target,) if isinstance(target, str) else (target or ())
        for mesh_axis in mesh_axes:
            if mesh_axis in placed:
                raise UserError(
                    f"logical axes '{placed[mesh_axis]}' and '{name}' of one array are both on "
                    f"mesh axis '{mesh_axis}'; change a rule"
                )
            placed[mesh_axis] = str(name)
        ways = 1
        for mesh_axis in mesh_axes:
            ways *= mesh.shape[mesh_axis]
        if size % ways:
            raise UserError(
                f"logical axis '{name}' of size {size} does not divide over mesh axis "
                f"{' x '.join(mesh_axes)} of size {ways}"
            )
        entries.append(target)
    return PartitionSpec(*entries)


def batch_sharding(mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
    """Where the first axis of a batch lives."""
    return NamedSharding(mesh, PartitionSpec(rules["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(boxed: PyTree, mesh: Mesh, rules: Rules = RULES) -> PyTree:
    """The sharding of every parameter, from the axis names its layer gave it.

    `boxed` is what `jax.eval_shape(model.init, ...)` returns: shapes in their boxes of names.
    """

    def place(box: Any) -> NamedSharding:
        if not isinstance(box, nn.LogicallyPartitioned):
            return replicated(mesh)
        return NamedSharding(mesh, spec(box.names, box.value.shape, mesh, rules))

    return jax.tree.map(place, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
