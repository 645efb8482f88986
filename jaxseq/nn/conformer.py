"""The Conformer (Gulati et al. 2020, arXiv:2005.08100): attention and convolution in one block."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from jaxseq.nn.attention import AttentionConfig, KVCache, SelfAttention
from jaxseq.nn.convolution import DepthwiseConvolution
from jaxseq.nn.linear import Linear
from jaxseq.nn.mlp import MLP
from jaxseq.nn.normalization import LayerNorm
from jaxseq.parallel.rules import constrain
from jaxseq.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class ConformerConfig:
    """What is fixed in a block.

    `kernel` is how many steps the convolution sees, `causal` whether none of them comes later.
    """

    attention: AttentionConfig
    mlp_hidden: int
    kernel: int = 15
    causal: bool = False
    dropout_rate: float = 0.0
    dtype: jnp.dtype | None = None


class ConformerInputs(PyTreeNode):
    """What every block is given alike.

    `valid` are the steps that are there; `mask` is which others each may look at, or, where the
    sequence goes on behind cached steps, `slots` which of those and of its own hold anything.
    """

    positions: Int[Array, "#B T"]
    valid: Bool[Array, "B T"]
    mask: Bool[Array, "#B T T"] | None = None
    slots: Bool[Array, "B S"] | None = None


class ConformerCache(PyTreeNode):
    """What a block keeps of the steps before: keys and values, and the convolution's inputs."""

    attention: KVCache
    convolution: Float[Array, "... B P D"]


class ConvolutionModule(nn.Module):
    """y = W_2 silu(norm(depthwise(glu(W_1 x)))), with glu([a; b]) = a sigmoid(b).

    Of what the convolution reads, steps that are not valid are 0. The paper normalises by
    BatchNorm, whose statistics mix the rows of a batch with one another and with their padding, so
    that a batch would not be the sum of its parts; a LayerNorm stands in its place.
    """

    config: ConformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        valid: Bool[Array, "B T"],
        before: Float[Array, "B P D"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B P D"]]:
        """Returns (y, the depthwise convolution's last inputs); see `nn.convolution`."""
        config, width = self.config, x.shape[-1]
        scale = width**-0.5
        shape = 2 * width, ("embed", "mlp"), True, scale, config.dtype
        x, gate = jnp.split(Linear(*shape, name="in")(x), 2, axis=-1)
        depthwise = DepthwiseConvolution(config.kernel, config.causal, name="depthwise")
        x, after = depthwise(x * jax.nn.sigmoid(gate), valid, before)
        x = jax.nn.silu(LayerNorm(name="norm")(x))
        shape = width, ("mlp", "embed"), True, scale, config.dtype
        return Linear(*shape, name="out")(x), after


class ConformerBlock(nn.Module):
    """Attention and convolution between two halves of a feed-forward layer.

        x = x + mlp_1(norm(x)) / 2
        x = x + attention(norm(x))
        x = x + convolution(norm(x))
        y = norm(x + mlp_2(norm(x)) / 2)

    Every sum drops some of what is added, unless `deterministic`. What stands in steps that are not
    valid reaches no others, and must be finite.
    """

    config: ConformerConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], cache: ConformerCache | None, inputs: ConformerInputs
    ) -> tuple[Float[Array, "B T D"], ConformerCache | None]:
        """Returns (y, the cache with its steps replaced by the last ones)."""
        config = self.config
        x = constrain(x, "batch", "time", None)
        drop = nn.Dropout(config.dropout_rate, deterministic=self.deterministic)

        def feed_forward(name: str, x: Array) -> Array:
            scale = x.shape[-1] ** -0.5
            mlp = MLP(config.mlp_hidden, "silu", True, scale, config.dtype, name=name)
            return mlp(LayerNorm(name=f"{name}_norm")(x))

        x = x + 0.5 * drop(feed_forward("mlp_1", x))
        y, keys = self._attend(LayerNorm(name="attention_norm")(x), cache, inputs)
        x = x + drop(y)
        module = ConvolutionModule(config, name="convolution")
        before = None if cache is None else cache.convolution
        y, after = module(LayerNorm(name="convolution_norm")(x), inputs.valid, before)
        x = x + drop(y)
        x = x + 0.5 * drop(feed_forward("mlp_2", x))
        x = LayerNorm(name="norm")(x)
        return x, None if keys is None else ConformerCache(keys, after)

    def _attend(
        self, x: Array, cache: ConformerCache | None, inputs: ConformerInputs
    ) -> tuple[Array, KVCache | None]:
        layer = SelfAttention(self.config.attention, self.deterministic, name="attention")
        if cache is None:
            segments = inputs.valid.astype(jnp.int32)
            return layer(x, positions=inputs.positions, segments=segments, mask=inputs.mask)
        steps, cached = x.shape[1], cache.attention.key.shape[1]
        room = ((0, 0), (0, steps), (0, 0), (0, 0))
        y, keys = layer(
            x,
            positions=inputs.positions,
            cache=jax.tree.map(lambda leaf: jnp.pad(leaf, room), cache.attention),
            cache_length=jnp.int32(cached),
            slots=inputs.slots,
        )
        return y, jax.tree.map(lambda leaf: leaf[:, steps:], keys)


def conformer(
    config: ConformerConfig, num_layers: int, *, deterministic: bool = True, name: str | None = None
) -> nn.Module:
    """`num_layers` blocks in a row, compiled once; parameters and caches gain a leading L axis."""
    scanned = nn.scan(
        ConformerBlock,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast),
        out_axes=0,
        length=num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(config, deterministic, name=name)


def chunk_mask(num_steps: int, chunk: int, left_chunks: int) -> Bool[Array, "1 T T"]:
    """True where step t may look at step s: one of t's own chunk or of the `left_chunks` before.

    0 <= t // chunk - s // chunk <= left_chunks       (Chen et al. 2021, arXiv:2010.11395)
    """
    numbers = jnp.arange(num_steps) // chunk
    behind = numbers[:, None] - numbers[None, :]
    return ((behind >= 0) & (behind <= left_chunks))[None]
