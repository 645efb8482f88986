"""Which query may look at which key, and what becomes of a raw score: shared by the backends.

Both are functions of a block of queries against a block of keys, whatever its size: a backend that
goes through time in chunks calls them for each, and none has to hold more than its block.
"""

import dataclasses

import jax.numpy as jnp

from jaxseq.ops.position_bias import PositionBias, bias_matrix
from jaxseq.typing import Array, Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `attention`, checked and complete: what a backend is asked to do.

    `query_start` is None where the last query stands beside the last key. `dropout_rate` is 0
    where nothing is dropped.
    """

    mask: Bool[Array, "#B #T S"] | None
    query_segments: Int[Array, "B T"] | None
    key_segments: Int[Array, "B S"] | None
    causal: bool
    window: int | Int[Array, ""] | None
    query_start: int | Int[Array, ""] | None
    bias: PositionBias | None
    soft_cap: float | None
    scale: float
    dropout_rate: float
    dropout_key: Key[Array, ""] | None
    dtype: jnp.dtype

    def start(self, queries: int, keys: int) -> int | Int[Array, ""]:
        """The index of the first query among the keys."""
        return keys - queries if self.query_start is None else self.query_start

    def visible(self, queries: int, keys: int) -> Bool[Array, "#B T S"] | None:
        """Which query may look at which key; None where every pair may."""
        return visibility(
            queries,
            keys,
            self.start(queries, keys),
            mask=self.mask,
            query_segments=self.query_segments,
            key_segments=self.key_segments,
            causal=self.causal,
            window=self.window,
        )

    def may_pad(self, queries: int, keys: int) -> bool:
        """Whether some query or key may be in no visible pair, as far as can be told here."""
        if self.mask is not None or self.query_segments is not None:
            return True
        if self.window is not None:
            return self.query_start is not None or queries != keys
        return self.causal and (self.query_start is not None or queries > keys)


def visibility(
    queries: int,
    keys: int,
    query_start: int | Int[Array, ""],
    *,
    mask: Bool[Array, "#B #T S"] | None,
    query_segments: Int[Array, "B T"] | None,
    key_segments: Int[Array, "B S"] | None,
    causal: bool,
    window: int | Int[Array, ""] | None,
) -> Bool[Array, "#B T S"] | None:
    """Which query may look at which key, all conditions together; None where every pair may.

    `query_start` is the index of the first query, counted from the first key.
    """
    conditions = []
    if mask is not None:
        conditions.append(jnp.broadcast_to(mask, (mask.shape[0], queries, keys)))
    if query_segments is not None and key_segments is not None:
        q, k = query_segments[:, :, None], key_segments[:, None, :]
        conditions.append((q == k) & (q != 0))
    if causal or window is not None:
        ages = (query_start + jnp.arange(queries))[:, None] - jnp.arange(keys)[None, :]
        if causal:
            conditions.append((ages >= 0)[None])
        if window is not None:
            conditions.append(((ages if causal else jnp.abs(ages)) < window)[None])
    if not conditions:
        return None
    batch = max(condition.shape[0] for condition in conditions)
    allowed = jnp.broadcast_to(conditions[0], (batch, queries, keys))
    for condition in conditions[1:]:
        allowed = allowed & jnp.broadcast_to(condition, allowed.shape)
    return allowed


def adjusted(
    scores: Float[Array, "B K G T S"],
    bias: PositionBias | None,
    query_start: int | Int[Array, ""],
    soft_cap: float | None,
) -> Float[Array, "B K G T S"]:
    """Scores after the soft cap and the position bias.

        e -> cap tanh(e / cap) + b

    `query_start` is the index of the first query of the block, counted from its first key. The
    cap is that of Gemma 2 (2024, arXiv:2408.00118, section 2).
    """
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    if bias is not None:
        matrix = bias_matrix(bias, scores.shape[3], scores.shape[4], query_start)
        scores = scores + matrix.reshape(1, *scores.shape[1:])
    return scores
