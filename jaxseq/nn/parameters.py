"""How a layer declares a parameter, and parameters by their path."""

from typing import Any, cast

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxseq.typing import Array, PyTree


def parameter(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
) -> Array:
    """A float32 parameter of `module` whose axes bear the logical names `axes`.

    `parallel.rules` maps the names to mesh axes; see its table for those in use.
    """
    # Flax types this as the box of names, and hands out the array in it.
    return cast(Array, module.param(name, nn.with_logical_partitioning(init, axes), shape))


def flatten(params: PyTree) -> dict[str, Any]:
    """{"blocks/mlp/in/kernel": leaf, ...} of nested dictionaries."""
    return flatten_dict(params, keep_empty_nodes=True, sep="/")


def unflatten(leaves: dict[str, Any]) -> PyTree:
    """The opposite of `flatten`."""
    return unflatten_dict(leaves, sep="/")
