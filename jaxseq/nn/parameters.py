"""How a layer declares a parameter: with a logical name for every axis."""

from typing import cast

import flax.linen as nn

from jaxseq.typing import Array


def parameter(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
) -> Array:
    """A float32 parameter of `module` whose axes bear the logical names `axes`.

    `parallel.sharding` maps the names to mesh axes; see its table for those in use.
    """
    # Flax types this as the box of names, and hands out the array in it.
    return cast(Array, module.param(name, nn.with_logical_partitioning(init, axes), shape))
