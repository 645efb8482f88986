"""The shardings of a tree of parameters, from the axis names that its layers gave it."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseq.errors import UserError
from jaxseq.parallel.rules import RULES, Rules, spec
from jaxseq.typing import PyTree


def parameter_shardings(boxed: PyTree, mesh: Mesh, rules: Rules = RULES) -> PyTree:
    """The sharding of every parameter.

    `boxed` is what `jax.eval_shape(model.init, ...)` returns: shapes in their boxes of names. A
    parameter without a box is whole on every device. Raises UserError, with the parameter's name,
    where a rule does not fit its shape.
    """

    def place(path: tuple, box: Any) -> NamedSharding:
        if not isinstance(box, nn.LogicallyPartitioned):
            return NamedSharding(mesh, PartitionSpec())
        try:
            return NamedSharding(mesh, spec(box.names, box.value.shape, mesh, rules))
        except UserError as error:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(f"{name}: {error}") from error

    return jax.tree_util.tree_map_with_path(
        place, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )


def whole_on_every_device(params: Mapping[str, Any]) -> tuple[float, str]:
    """(the share of the parameters that no mesh axis divides, the path of the largest of them).

    `params` maps paths to arrays, or to their shapes, with shardings; the path is "" where every
    parameter is divided.
    """
    whole = {
        path: math.prod(leaf.shape)
        for path, leaf in params.items()
        if leaf.sharding.is_fully_replicated
    }
    total = sum(math.prod(leaf.shape) for leaf in params.values())
    return sum(whole.values()) / max(total, 1), max(whole, key=whole.__getitem__, default="")
