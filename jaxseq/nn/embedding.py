"""Tables of vectors looked up by number: tokens and learned positions."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.nn.parameters import parameter
from jaxseq.ops.linear import linear
from jaxseq.typing import Array, Float, Int


class Embedding(nn.Module):
    """A table of `count` vectors of size `features`.

    The first logical axis name says what is counted ("vocab", "position"). Numbers outside the
    table give NaN, so that a wrong one is seen and not read as another.
    """

    count: int
    features: int
    axes: tuple[str, str] = ("vocab", "embed")
    init_scale: float = 0.02
    dtype: jnp.dtype | None = None

    def setup(self) -> None:
        """Creates the table."""
        init = nn.initializers.normal(self.init_scale)
        self.table = parameter(self, "table", init, self.axes, (self.count, self.features))

    def __call__(self, numbers: Int[Array, "..."]) -> Float[Array, "... D"]:
        """The vectors at `numbers`."""
        # `take` would read a negative number from the table's end; past it there is only NaN.
        numbers = jnp.where(numbers < 0, self.count, numbers)
        return jnp.take(self.table, numbers, axis=0, mode="fill")

    def attend(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits of x against every vector: x E^T (tied output, Press and Wolf 2017)."""
        return linear(x, self.table.T, dtype=self.dtype)
