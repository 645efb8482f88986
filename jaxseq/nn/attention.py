"""Multi-head self-attention with a key/value cache for decoding."""

import flax.linen as nn
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import lax

from jaxseq.nn.linear import Linear
from jaxseq.nn.normalization import RMSNorm
from jaxseq.ops.attention import attention
from jaxseq.ops.positions import rotary
from jaxseq.typing import Array, Bool, Float, Int


class KVCache(PyTreeNode):
    """Keys and values of positions already seen; slot s holds position s of the row."""

    key: Float[Array, "... B S K H"]
    value: Float[Array, "... B S K H"]

    def write(
        self, key: Float[Array, "B T K H"], value: Float[Array, "B T K H"], start: Int[Array, ""]
    ) -> "KVCache":
        """The cache with T new positions in the slots from `start`."""
        at = (0, start, 0, 0)
        return KVCache(
            lax.dynamic_update_slice(self.key, key.astype(self.key.dtype), at),
            lax.dynamic_update_slice(self.value, value.astype(self.value.dtype), at),
        )


class SelfAttention(nn.Module):
    """Multi-head and grouped-query self-attention.

    `num_kv_heads` < `num_heads` shares each key/value head among several query heads (Ainslie et
    al. 2023, arXiv:2305.13245); 1 is multi-query. `rotary_base` turns queries and keys by their
    positions; None leaves them as they are. `qk_norm` normalises queries and keys per head
    (Dehghani et al. 2023, arXiv:2302.05442).

    Raises ValueError when the heads do not divide the width.
    """

    num_heads: int
    num_kv_heads: int
    causal: bool = True
    rotary_base: float | None = None
    qk_norm: bool = False
    use_bias: bool = True
    dropout_rate: float = 0.0
    deterministic: bool = True
    output_init_scale: float = 0.02
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        positions: Int[Array, "#B T"],
        segments: Int[Array, "B T"] | None = None,
        cache: KVCache | None = None,
        cache_length: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Attends over x, or over x behind `cache_length` cached positions; returns (y, cache)."""
        batch, length, width = x.shape
        if width % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide a width of {width}")
        head_size = width // self.num_heads

        def project(name: str, heads: int) -> Float[Array, "B T N H"]:
            axes = ("embed", "heads")
            y = Linear(heads * head_size, axes, self.use_bias, dtype=self.dtype, name=name)(x)
            return y.reshape(batch, length, heads, head_size)

        query = project("query", self.num_heads)
        key = project("key", self.num_kv_heads)
        value = project("value", self.num_kv_heads)
        if self.qk_norm:
            query, key = RMSNorm(name="query_norm")(query), RMSNorm(name="key_norm")(key)
        if self.rotary_base is not None:
            query = rotary(query, positions, base=self.rotary_base)
            key = rotary(key, positions, base=self.rotary_base)

        dropout_key = None
        if self.dropout_rate > 0.0 and not self.deterministic:
            dropout_key = self.make_rng("dropout")
        if cache is None:
            y = attention(
                query,
                key,
                value,
                query_segments=segments,
                key_segments=segments,
                causal=self.causal,
                dropout_rate=self.dropout_rate,
                dropout_key=dropout_key,
                dtype=self.dtype,
            )
        else:
            assert cache_length is not None, "a cache comes with its length"
            cache = cache.write(key, value, cache_length)
            mask = written_before(cache_length, length, cache.key.shape[1])
            y = attention(query, cache.key, cache.value, mask=mask, dtype=self.dtype)
        y = Linear(
            width,
            ("heads", "embed"),
            self.use_bias,
            self.output_init_scale,
            self.dtype,
            name="out",
        )(y.reshape(batch, length, width))
        return y, cache


def written_before(start: Int[Array, ""], queries: int, slots: int) -> Bool[Array, "1 T S"]:
    """Slot s is visible to the t-th new query when s <= start + t: causal over a cache."""
    return (jnp.arange(slots)[None, :] <= start + jnp.arange(queries)[:, None])[None]
