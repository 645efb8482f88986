"""A Transformer block, and a stack of them scanned over their layers."""

import dataclasses
from operator import itemgetter
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from jaxseq.nn.attention import AttentionConfig, CrossAttention, KVCache, SelfAttention
from jaxseq.nn.experts import Experts, MixtureOfExperts
from jaxseq.nn.mlp import MLP, Activation
from jaxseq.nn.normalization import LayerNorm, RMSNorm
from jaxseq.ops.position_bias import PositionBias
from jaxseq.typing import Array, Bool, Float, Int, PyTree


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """What is fixed in a block.

    `residual_init_scale` is the standard deviation of the weights that write into the residual.
    """

    attention: AttentionConfig
    mlp_hidden: int
    cross_attention: bool = False
    activation: Activation = "gelu"
    experts: Experts = dataclasses.field(default_factory=Experts)
    norm: Literal["layer", "rms"] = "layer"
    norm_epsilon: float = 1e-5
    norm_position: Literal["pre", "post"] = "pre"
    use_bias: bool = True
    dropout_rate: float = 0.0
    residual_init_scale: float = 0.02
    dtype: jnp.dtype | None = None


class StackInputs(PyTreeNode):
    """What every block of a stack is given alike.

    Beside `positions` it is all optional: `segments` of packed rows; the number of positions that
    the caches hold, and which of their slots hold anything; the attention's position bias; the
    memory that cross-attention looks at (None: its keys and values are in the caches).
    """

    positions: Int[Array, "#B T"]
    segments: Int[Array, "B T"] | None = None
    cache_length: Int[Array, ""] | None = None
    slots: Bool[Array, "B S"] | None = None
    bias: PositionBias | None = None
    memory: Float[Array, "B S D"] | None = None
    memory_mask: Bool[Array, "B S"] | None = None


class BlockCache(PyTreeNode):
    """Keys and values of a block: of its own sequence, and of the memory where it looks at one."""

    own: KVCache
    memory: KVCache | None = None


class Block(nn.Module):
    """Attention, perhaps attention to a memory, and MLP, each with a residual path around it.

    "pre"  (Xiong et al. 2020, arXiv:2002.04745):  x + f(norm(x))
    "post" (Vaswani et al. 2017):                  norm(x + f(x))
    """

    config: BlockConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: BlockCache | None,
        window: Int[Array, ""] | None,
        inputs: StackInputs,
    ) -> tuple[Float[Array, "B T D"], BlockCache | None]:
        """Returns (x after the block, cache with the new keys and values)."""
        config = self.config
        drop = nn.Dropout(config.dropout_rate, deterministic=self.deterministic)
        written: dict[str, Any] = {}

        def attend(x: Array) -> Array:
            layer = SelfAttention(config.attention, self.deterministic, name="attention")
            y, written["own"] = layer(
                x,
                positions=inputs.positions,
                segments=inputs.segments,
                window=window,
                bias=inputs.bias,
                cache=None if cache is None else cache.own,
                cache_length=inputs.cache_length,
                slots=inputs.slots,
            )
            return y

        def look(x: Array) -> Array:
            layer = CrossAttention(config.attention, self.deterministic, name="cross_attention")
            remembered = None if cache is None else cache.memory
            assert inputs.memory_mask is not None, "cross-attention needs the memory's mask"
            y, written["memory"] = layer(x, inputs.memory, inputs.memory_mask, remembered)
            return y

        def feed_forward(x: Array) -> Array:
            shape = config.mlp_hidden, config.activation
            scale, dtype = config.residual_init_scale, config.dtype
            if config.experts.count:
                valid = None if inputs.segments is None else inputs.segments != 0
                layer = MixtureOfExperts(config.experts, *shape, scale, dtype, name="experts")
                return layer(x, valid)
            return MLP(*shape, config.use_bias, scale, dtype, name="mlp")(x)

        parts = [("attention_norm", attend), ("mlp_norm", feed_forward)]
        if config.cross_attention:
            parts.insert(1, ("cross_norm", look))
        for name, part in parts:
            norm = make_norm(config.norm, config.norm_epsilon, config.use_bias, name)
            if config.norm_position == "pre":
                x = x + drop(part(norm(x)))
            else:
                x = norm(x + drop(part(x)))
        return x, None if cache is None else BlockCache(**written)


def make_norm(
    kind: Literal["layer", "rms"], epsilon: float, use_bias: bool, name: str | None = None
) -> nn.Module:
    """The normalisation layer that a config names."""
    if kind == "rms":
        return RMSNorm(epsilon, name=name)
    return LayerNorm(epsilon, use_bias, name=name)


REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def stack(
    config: BlockConfig,
    num_layers: int,
    *,
    deterministic: bool = True,
    scan: bool = True,
    unroll: int = 1,
    remat: Literal["none", "full", "dots"] = "none",
) -> nn.Module:
    """`num_layers` blocks in a row, compiled once; parameters gain a leading L axis.

    The result is called like the block; the cache, and the windows where layers differ in them,
    have a leading L axis too. `unroll` blocks are laid out per loop iteration: more is faster on
    small models and slower to compile, and changes no parameter's shape. `remat` recomputes
    activations in the backward pass to save memory: "full" keeps the input of each block alone,
    "dots" also the results of its matmuls. `scan=False` gives the same blocks as `Layers`, for
    decoding.
    """
    if not scan:
        return Layers(config, num_layers, deterministic)
    block = Block
    if remat != "none":
        block = nn.remat(block, prevent_cse=False, policy=REMAT_POLICIES[remat])
    scanned = nn.scan(
        block,
        variable_axes={"params": 0, "losses": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, 0, nn.broadcast),
        out_axes=0,
        length=num_layers,
        unroll=unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(config, deterministic)


class Layers(nn.Module):
    """A stack without the scan: layer i has its own cache, and parameters "layer_i".

    A scan copies each layer's slice of the parameters before use. One token's matmuls read every
    parameter once, so that in decoding the copies take longer than the matmuls.
    """

    config: BlockConfig
    num_layers: int
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        caches: tuple[BlockCache, ...] | None,
        windows: Int[Array, "L"] | None,
        inputs: StackInputs,
    ) -> tuple[Float[Array, "B T D"], tuple[Any, ...]]:
        """As the scanned stack, with a tuple of caches."""
        written = []
        for i in range(self.num_layers):
            layer = Block(self.config, self.deterministic, name=f"layer_{i}")
            cache = None if caches is None else caches[i]
            x, cache = layer(x, cache, None if windows is None else windows[i], inputs)
            written.append(cache)
        return x, tuple(written)


def unstack(tree: PyTree) -> tuple[PyTree, ...]:
    """The parameters, or the cache, of a scanned stack cut into those of its layers."""
    num_layers = jax.tree.leaves(tree)[0].shape[0]
    return tuple(jax.tree.map(itemgetter(i), tree) for i in range(num_layers))
