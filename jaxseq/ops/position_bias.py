"""What is added to an attention score for the distance between its query and its key.

A distance is (index of the key) - (index of the query): 0 is the query's own place, negative the
past. A bias holds parameters, is a pytree, and turns distances "T S" into biases "N T S".
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.typing import Array, Float, Int, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ALiBi:
    """Attention with linear biases (Press et al. 2021, arXiv:2108.12409).

        b_nts = -slope_n |s - t|

    The paper's attention is causal, where |s - t| is how far a query looks back; both ways it is
    the symmetric form.
    """

    # Float[Array, "N"], or whatever stands for it while JAX takes a tree apart.
    slopes: PyTree

    @property
    def num_heads(self) -> int:
        """N, the number of query heads."""
        return self.slopes.shape[0]

    def __call__(self, distances: Int[Array, "T S"]) -> Float[Array, "N T S"]:
        """The equation, in the dtype of the slopes."""
        lengths = jnp.abs(distances).astype(self.slopes.dtype)
        return -self.slopes[:, None, None] * lengths[None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RelativeBias:
    """A learned bias for each head and bucket of distances (Raffel et al. 2019, arXiv:1910.10683).

        b_nts = table[bucket(s - t), n]

    With R buckets to one side, the first R / 2 are the distances 0, 1, 2, ... themselves; the
    others grow evenly in their logarithm up to `max_distance`, and the last holds everything
    beyond. If `bidirectional`, half of the table is for keys at and before the query and half for
    those behind it; else all keys behind the query share the bucket of distance 0.
    """

    # Float[Array, "R N"], or whatever stands for it while JAX takes a tree apart.
    table: PyTree
    bidirectional: bool = dataclasses.field(metadata={"static": True})
    max_distance: int = dataclasses.field(default=128, metadata={"static": True})

    @property
    def num_heads(self) -> int:
        """N, the number of query heads."""
        return self.table.shape[1]

    def __call__(self, distances: Int[Array, "T S"]) -> Float[Array, "N T S"]:
        """The equation, in the dtype of the table."""
        buckets = relative_buckets(
            distances,
            num_buckets=self.table.shape[0],
            bidirectional=self.bidirectional,
            max_distance=self.max_distance,
        )
        return jnp.moveaxis(self.table[buckets], -1, 0)


PositionBias = ALiBi | RelativeBias


def alibi_slopes(num_heads: int) -> Float[Array, "N"]:
    """The slopes of ALiBi's paper: 2^(-8 i / N) for i = 1 .. N where N is a power of two.

    For another N: those of the largest power of two below it, then every second one of twice that
    many, as in the paper's code.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    slopes += [2 ** (-4 * i / power) for i in range(1, 2 * (num_heads - power), 2)]
    return jnp.asarray(slopes, jnp.float32)


def relative_buckets(
    distances: Int[Array, "T S"], *, num_buckets: int, bidirectional: bool, max_distance: int
) -> Int[Array, "T S"]:
    """The row of the table for each distance; see RelativeBias.

    Raises ValueError when the buckets cannot be laid out: fewer than 2 to a side, an odd number
    for two sides, or a `max_distance` within the exact ones.
    """
    side = num_buckets // 2 if bidirectional else num_buckets
    if side < 2 or (bidirectional and num_buckets % 2) or max_distance <= side // 2:
        raise ValueError(
            f"num_buckets {num_buckets} and max_distance {max_distance} make no buckets: give at "
            "least 2 to a side, an even number for two sides, and a distance beyond half a side"
        )
    lengths = jnp.abs(distances) if bidirectional else jnp.maximum(-distances, 0)
    starts = jnp.asarray(_bucket_starts(side, max_distance))
    buckets = jnp.searchsorted(starts, lengths, side="right").astype(jnp.int32)
    return buckets + side * (distances > 0) if bidirectional else buckets


def _bucket_starts(side: int, max_distance: int) -> np.ndarray:
    """The least distance of bucket 1, 2, ... of one side; bucket 0 starts at 0.

    Bucket j >= e = side / 2 holds the n with j <= e + (side - e) log(n / e) / log(max / e), counted
    here in whole numbers, since a logarithm in float32 may fall on the wrong side of its start.
    """
    exact = side // 2
    starts = list(range(1, exact + 1))
    for j in range(1, side - exact):
        n = starts[-1]
        while (n ** (side - exact)) * exact**j < max_distance**j * exact ** (side - exact):
            n += 1
        starts.append(n)
    return np.array(starts, np.int32)


def bias_matrix(
    bias: PositionBias, queries: int, keys: int, query_start: int | Int[Array, ""]
) -> Float[Array, "N T S"]:
    """The biases of `queries` queries, the first of which has index `query_start` among the keys.

    There are only T + S - 1 distances: each is computed once, and row t of the matrix is that line
    of biases, one place further on than row t - 1. Repeating the line with a period one longer
    than a row of the matrix moves it just so, which costs no gather and no scatter in the gradient.
    """
    if not (queries and keys):
        return jnp.zeros((bias.num_heads, queries, keys))
    period = queries + keys
    line = bias((jnp.arange(period) - (query_start + queries - 1))[None])
    repeated = jnp.broadcast_to(line, (line.shape[0], queries, period)).reshape(line.shape[0], -1)
    rows = repeated[:, : queries * (period - 1)].reshape(-1, queries, period - 1)
    return rows[:, :, queries - 1 : queries - 1 + keys]
