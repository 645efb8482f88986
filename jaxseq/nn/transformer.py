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
from jaxseq.nn.pipeline import pipeline
from jaxseq.ops.position_bias import PositionBias
from jaxseq.ops.quantized_linear import Quantize
from jaxseq.parallel.rules import constrain, mesh_size, pipeline_ticks
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
    quantize: Quantize = "none"


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
        x = _between(x)
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
            return MLP(*shape, config.use_bias, scale, dtype, config.quantize, name="mlp")(x)

        parts = [("attention_norm", attend), ("mlp_norm", feed_forward)]
        if config.cross_attention:
            parts.insert(1, ("cross_norm", look))
        for name, part in parts:
            norm = make_norm(config.norm, config.norm_epsilon, config.use_bias, name)
            if config.norm_position == "pre":
                x = x + drop(_between(part(_whole(norm(x)))))
            else:
                x = norm(x + drop(_between(part(_whole(x)))))
        return x, None if cache is None else BlockCache(**written)


def _between(x: Array) -> Array:
    """x as it lies between layers: norms and sums are of each position alone."""
    return constrain(x, "batch", "residual_time", None)


def _whole(x: Array) -> Array:
    """x gathered over `tensor`, once for all the matrices that divide it anew."""
    return constrain(x, "batch", "time", None)


def make_norm(
    kind: Literal["layer", "rms"], epsilon: float, use_bias: bool, name: str | None = None
) -> nn.Module:
    """The normalisation layer that a config names."""
    if kind == "rms":
        return RMSNorm(epsilon, name=name)
    return LayerNorm(epsilon, use_bias, name=name)


Remat = Literal["none", "full", "dots", "offload"]

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "offload": jax.checkpoint_policies.offload_dot_with_no_batch_dims("device", "pinned_host"),
}


def stack(
    config: BlockConfig,
    num_layers: int,
    *,
    deterministic: bool = True,
    scan: bool = True,
    unroll: int = 1,
    remat: Remat = "none",
) -> nn.Module:
    """`num_layers` blocks in a row, compiled once; parameters gain a leading L axis.

    The result is called like the block; the cache, and the windows where layers differ in them,
    have a leading L axis too. `unroll` blocks are laid out per loop iteration: more is faster on
    small models and slower to compile, and changes no parameter's shape. `remat` recomputes
    activations in the backward pass to save memory: "full" keeps the input of each block alone,
    "dots" also the results of its matmuls, "offload" keeps these in the host's memory until they
    are needed (on CPUs that is the same). `scan=False` gives the same blocks as `Layers`, for
    decoding. On a mesh with stages the layers are divided over them, as a pipeline.
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
    if mesh_size("stage") > 1:
        return PipelinedStack(scanned, block, config, num_layers, deterministic, unroll)
    return scanned(config, deterministic)


class PipelinedStack(nn.Module):
    """A scanned stack whose layers are divided over "stage"; see `nn.pipeline`.

    The parameters are those of the scanned stack, which stands in where there are no batches to
    cut: as parameters are made, in decoding, and where intermediate results are wanted.
    """

    scanned: type[Block]
    block: type[Block]
    config: BlockConfig
    num_layers: int
    deterministic: bool
    unroll: int

    def setup(self) -> None:
        """Creates the scanned stack, under this module's own name."""
        self.layers = self.scanned(self.config, self.deterministic)
        nn.share_scope(self, self.layers)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: BlockCache | None,
        windows: Int[Array, "L"] | None,
        inputs: StackInputs,
    ) -> tuple[Float[Array, "B T D"], BlockCache | None]:
        """As the scanned stack; each micro-batch and layer draws a dropout of its own."""
        sows_more = self.is_mutable_collection("intermediates")
        if cache is not None or sows_more or self.is_initializing():
            return self.layers(x, cache, windows, inputs)
        names = ["segments", "memory", "memory_mask"]
        if inputs.positions.shape[0] > 1:
            names += ["positions"]
        rows = {name: getattr(inputs, name) for name in names}
        alike = {name: getattr(inputs, name) for name in ("positions", "bias") if name not in rows}
        dropout_key = self.make_rng("dropout") if self.has_rng("dropout") else None
        sown = ["losses"] if self.is_mutable_collection("losses") else []
        block = self.block(self.config, self.deterministic, parent=None)

        def layer(x: Array, own: tuple, rows: dict, shared: tuple, micro: Array) -> tuple:
            (params, window, number), (alike, key), rngs = own, shared, {}
            if key is not None:
                rngs["dropout"] = jax.random.fold_in(jax.random.fold_in(key, number), micro)
            where = None, window, StackInputs(**alike, **rows)
            (x, _), sums = block.apply({"params": params}, x, *where, rngs=rngs, mutable=sown)
            return x, sums.get("losses", {})

        layers = self.variables["params"], windows, jnp.arange(self.num_layers)
        ticks = pipeline_ticks()
        x, losses = pipeline(
            *(layer, layers, x, rows, (alike, dropout_key)),
            microbatches=ticks.microbatches,
            rounds=ticks.rounds,
            unroll=self.unroll,
        )
        for name, values in losses.items():
            self.put_variable("losses", name, values)
        return x, None


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
