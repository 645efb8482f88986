"""A Transformer block, and a stack of them scanned over their layers."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.nn.attention import KVCache, SelfAttention
from jaxseq.nn.mlp import MLP
from jaxseq.nn.normalization import LayerNorm, RMSNorm
from jaxseq.typing import Array, Float, Int, PyTree


class Block(nn.Module):
    """Attention and MLP, each with a residual path around it.

    "pre"  (Xiong et al. 2020, arXiv:2002.04745):  x + f(norm(x))
    "post" (Vaswani et al. 2017):                  norm(x + f(x))

    `residual_init_scale` is the standard deviation of the weights that write into the residual.
    """

    num_heads: int
    num_kv_heads: int
    mlp_hidden: int
    activation: Literal["gelu", "swiglu"] = "gelu"
    norm: Literal["layer", "rms"] = "layer"
    norm_position: Literal["pre", "post"] = "pre"
    causal: bool = True
    rotary_base: float | None = None
    qk_norm: bool = False
    use_bias: bool = True
    dropout_rate: float = 0.0
    deterministic: bool = True
    residual_init_scale: float = 0.02
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: KVCache | None,
        positions: Int[Array, "#B T"],
        segments: Int[Array, "B T"] | None,
        cache_length: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """Returns (x after the block, cache with the new keys and values)."""
        attend = SelfAttention(
            self.num_heads,
            self.num_kv_heads,
            self.causal,
            self.rotary_base,
            self.qk_norm,
            self.use_bias,
            self.dropout_rate,
            self.deterministic,
            self.residual_init_scale,
            self.dtype,
            name="attention",
        )
        feed_forward = MLP(
            self.mlp_hidden,
            self.activation,
            self.use_bias,
            self.residual_init_scale,
            self.dtype,
            name="mlp",
        )
        attention_norm = make_norm(self.norm, self.use_bias, "attention_norm")
        mlp_norm = make_norm(self.norm, self.use_bias, "mlp_norm")
        drop = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)
        where = {"positions": positions, "segments": segments, "cache_length": cache_length}

        if self.norm_position == "pre":
            y, cache = attend(attention_norm(x), cache=cache, **where)
            x = x + drop(y)
            return x + drop(feed_forward(mlp_norm(x))), cache
        y, cache = attend(x, cache=cache, **where)
        x = attention_norm(x + drop(y))
        return mlp_norm(x + drop(feed_forward(x))), cache


def make_norm(kind: Literal["layer", "rms"], use_bias: bool, name: str) -> nn.Module:
    """The normalisation layer that a config names."""
    return RMSNorm(name=name) if kind == "rms" else LayerNorm(use_bias=use_bias, name=name)


REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def stack(
    block: type[nn.Module],
    num_layers: int,
    *,
    scan: bool = True,
    unroll: int = 1,
    remat: Literal["none", "full", "dots"] = "none",
    **fields: Any,
) -> nn.Module:
    """`num_layers` of `block(**fields)` in a row, compiled once; parameters gain a leading L axis.

    The result is called like the block; a cache has a leading L axis too. `unroll` blocks are
    laid out per loop iteration: more is faster on small models and slower to compile, and changes
    no parameter's shape. `remat` recomputes activations in the backward pass to save memory:
    "full" keeps the input of each block alone, "dots" also the results of its matmuls.
    `scan=False` gives the same blocks as `Layers`, for decoding.
    """
    if not scan:
        return Layers(block, num_layers, fields)
    if remat != "none":
        block = nn.remat(block, prevent_cse=False, policy=REMAT_POLICIES[remat])
    scanned = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
        out_axes=0,
        length=num_layers,
        unroll=unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return scanned(**fields)


class Layers(nn.Module):
    """A stack without the scan: layer i has its own cache, and parameters "layer_i".

    A scan copies each layer's slice of the parameters before use. One token's matmuls read every
    parameter once, so that in decoding the copies take longer than the matmuls.
    """

    block: type[nn.Module]
    num_layers: int
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], caches: tuple[KVCache, ...] | None, *rest: Any
    ) -> tuple[Float[Array, "B T D"], tuple[KVCache | None, ...]]:
        """As the scanned stack, with a tuple of caches."""
        written = []
        for i in range(self.num_layers):
            layer = self.block(**self.fields, name=f"layer_{i}")
            x, cache = layer(x, caches[i] if caches else None, *rest)
            written.append(cache)
        return x, tuple(written)


def unstack(tree: PyTree) -> tuple[PyTree, ...]:
    """The parameters, or the cache, of a scanned stack cut into those of its layers."""
    num_layers = jax.tree.leaves(tree)[0].shape[0]
    return tuple(jax.tree.map(itemgetter(i), tree) for i in range(num_layers))
