"""Multi-head attention of a sequence to itself and to a memory, with caches for decoding."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import lax

from jaxseq.nn.linear import Linear
from jaxseq.nn.normalization import RMSNorm
from jaxseq.ops.attention import Backend, attention, masked_softmax
from jaxseq.ops.position_bias import PositionBias
from jaxseq.ops.positions import Rotary, rotary
from jaxseq.ops.quantized_linear import Quantize
from jaxseq.parallel.rules import constrain
from jaxseq.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """What is fixed in an attention layer.

    `num_kv_heads` < `num_heads` shares each key/value head among several query heads (Ainslie et
    al. 2023, arXiv:2305.13245); 1 is multi-query. `rotary` turns queries and keys by their
    positions; None leaves them as they are. `qk_norm` normalises queries and keys per head
    (Dehghani et al. 2023, arXiv:2302.05442). `window` keeps a query to the keys that near; see
    `ops.attention` for it, `soft_cap` and `scale`.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    causal: bool = True
    rotary: Rotary | None = None
    qk_norm: bool = False
    norm_epsilon: float = 1e-5
    qkv_bias: bool = True
    out_bias: bool = True
    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None
    dropout_rate: float = 0.0
    output_init_scale: float = 0.02
    dtype: jnp.dtype | None = None
    quantize: Quantize = "none"
    backend: Backend = "auto"


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
    """Attention of a sequence to itself."""

    config: AttentionConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        positions: Int[Array, "#B T"],
        segments: Int[Array, "B T"] | None = None,
        mask: Bool[Array, "#B T T"] | None = None,
        window: Int[Array, ""] | None = None,
        bias: PositionBias | None = None,
        cache: KVCache | None = None,
        cache_length: Int[Array, ""] | None = None,
        slots: Bool[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Attends over x, or over x behind `cache_length` cached positions; returns (y, cache).

        `window` stands in for the config's where layers of a stack differ in it. `mask` is what
        each position of x may look at (all); with a cache, `slots` are those of it that hold
        anything to look at (all).
        """
        config = self.config
        query = _project(config, x, "query", config.num_heads)
        key = _project(config, x, "key", config.num_kv_heads)
        value = _project(config, x, "value", config.num_kv_heads)
        if config.qk_norm:
            query = RMSNorm(config.norm_epsilon, name="query_norm")(query)
            key = RMSNorm(config.norm_epsilon, name="key_norm")(key)
        if config.rotary is not None:
            query = rotary(query, positions, config.rotary)
            key = rotary(key, positions, config.rotary)

        query_start = None
        if cache is not None:
            assert cache_length is not None, "a cache comes with its length"
            cache = cache.write(key, value, cache_length)
            key, value, query_start, segments = cache.key, cache.value, cache_length, None
            mask = None if slots is None else slots[:, None, :]
        rate, dropout_key = _dropout(self)
        y = attention(
            query,
            key,
            value,
            mask=mask,
            query_segments=segments,
            key_segments=segments,
            causal=config.causal,
            window=config.window if window is None else window,
            query_start=query_start,
            bias=bias,
            soft_cap=config.soft_cap,
            scale=config.scale,
            dropout_rate=rate,
            dropout_key=dropout_key,
            dtype=config.dtype,
            backend=config.backend,
        )
        return _output(config, y, x.shape[-1]), cache


class CrossAttention(nn.Module):
    """Attention of a sequence to a memory: what an encoder made of another sequence."""

    config: AttentionConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        memory: Float[Array, "B S D"] | None,
        memory_mask: Bool[Array, "B S"],
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache]:
        """Attends to the memory, or where it is None to its keys and values in the cache.

        Returns (y, the memory's keys and values). `memory_mask` is True where there is something
        to look at. The weights go to the collection "intermediates" where that is mutable.
        """
        config = self.config
        query = _project(config, x, "query", config.num_heads)
        if memory is not None:
            # The gradient of the projections is a product with the memory: let no NaN be in it.
            memory = jnp.where(memory_mask[..., None], memory, 0)
            key = _project(config, memory, "key", config.num_kv_heads)
            cache = KVCache(key, _project(config, memory, "value", config.num_kv_heads))
        assert cache is not None, "cross-attention needs a memory or a cache"
        if self.is_mutable_collection("intermediates") and not self.is_initializing():
            heads_each = config.num_heads // config.num_kv_heads
            scores = jnp.einsum("BTNH,BSNH->BNTS", query, cache.key.repeat(heads_each, axis=2))
            scale = config.head_size**-0.5 if config.scale is None else config.scale
            weights = masked_softmax(scores * scale, memory_mask[:, None, None])
            self.sow("intermediates", "weights", weights)
        rate, dropout_key = _dropout(self)
        y = attention(
            query,
            cache.key,
            cache.value,
            mask=memory_mask[:, None, :],
            scale=config.scale,
            dropout_rate=rate,
            dropout_key=dropout_key,
            dtype=config.dtype,
            backend=config.backend,
        )
        return _output(config, y, x.shape[-1]), cache


def _project(
    config: AttentionConfig, x: Float[Array, "B T D"], name: str, heads: int
) -> Float[Array, "B T N H"]:
    size, axes = heads * config.head_size, ("embed", "heads")
    layer = Linear(
        *(size, axes, config.qkv_bias), dtype=config.dtype, quantize=config.quantize, name=name
    )
    y = layer(x)
    y = y.reshape(*x.shape[:2], heads, config.head_size)
    return constrain(y, "batch", "time", "heads", None)


def _output(
    config: AttentionConfig, y: Float[Array, "B T N H"], width: int
) -> Float[Array, "B T D"]:
    out = Linear(
        *(width, ("heads", "embed"), config.out_bias, config.output_init_scale),
        dtype=config.dtype,
        quantize=config.quantize,
        name="out",
    )
    return out(y.reshape(*y.shape[:2], config.num_heads * config.head_size))


def _dropout(layer: SelfAttention | CrossAttention) -> tuple[float, Array | None]:
    """The rate, and a key where dropout is on."""
    rate = layer.config.dropout_rate
    on = rate > 0.0 and not layer.deterministic
    return rate, layer.make_rng("dropout") if on else None
