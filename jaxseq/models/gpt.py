"""GPT: a decoder-only Transformer language model (Radford et al. 2019; Brown et al. 2020)."""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.errors import UserError
from jaxseq.nn.attention import KVCache
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.transformer import Block, make_norm, stack
from jaxseq.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The architecture. The defaults are GPT-2's choices at nanoGPT's laptop size."""

    separates_documents: ClassVar[bool] = True

    vocab_size: int = 0
    """Tokens in the vocabulary; 0: as many as the tokenizer has."""
    context: int = 0
    """Longest sequence, in tokens; 0: as long as the data's windows."""
    num_layers: int = 4
    """Transformer blocks."""
    width: int = 128
    """Size of the residual stream (D)."""
    num_heads: int = 4
    """Query heads; they must divide the width."""
    num_kv_heads: int = 0
    """Key/value heads shared by groups of query heads; 0: one for each query head."""
    mlp_hidden: int = 0
    """Width of the feed-forward layer (F); 0: 4 x width."""
    positions: Literal["learned", "rotary"] = "learned"
    """How the model knows where a token stands."""
    rotary_base: float = 10_000.0
    """Base of the rotary wavelengths."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm or RMSNorm."""
    norm_position: Literal["pre", "post"] = "pre"
    """Normalise the input of each layer, or the residual sum behind it."""
    activation: Literal["gelu", "swiglu"] = "gelu"
    """The feed-forward nonlinearity."""
    qk_norm: bool = False
    """Normalise queries and keys per head."""
    use_bias: bool = True
    """Biases in linear layers and LayerNorm."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix too."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""
    remat: Literal["none", "full", "dots"] = "none"
    """What the backward pass recomputes instead of storing."""
    unroll_layers: int = 1
    """Blocks laid out per loop iteration: more compiles slower and runs faster."""

    def resolve(self, *, vocab_size: int, context: int) -> "GPTConfig":
        """The config with every 0 filled in, checked.

        Raises UserError naming the option for sizes that do not fit together, or a vocabulary or
        context smaller than the data's.
        """
        resolved = dataclasses.replace(
            self,
            vocab_size=self.vocab_size or vocab_size,
            context=self.context or context,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            mlp_hidden=self.mlp_hidden or 4 * self.width,
        )
        counts = ("num_layers", "width", "num_heads", "num_kv_heads", "mlp_hidden", "unroll_layers")
        for name in counts:
            if getattr(resolved, name) < 1:
                raise UserError(
                    f"--model.{name.replace('_', '-')} is {getattr(resolved, name)}; "
                    "it must be at least 1"
                )
        if resolved.width % resolved.num_heads:
            fits = [n for n in range(1, resolved.width + 1) if resolved.width % n == 0]
            near = min(fits, key=lambda n: abs(n - resolved.num_heads))
            raise UserError(
                f"--model.num-heads {resolved.num_heads} does not divide --model.width "
                f"{resolved.width}; the nearest that does is {near}"
            )
        if resolved.num_heads % resolved.num_kv_heads:
            raise UserError(
                f"--model.num-kv-heads {resolved.num_kv_heads} does not divide "
                f"--model.num-heads {resolved.num_heads}"
            )
        if resolved.positions == "rotary" and (resolved.width // resolved.num_heads) % 2:
            raise UserError(
                f"rotary positions need an even head size; --model.width {resolved.width} over "
                f"--model.num-heads {resolved.num_heads} is odd"
            )
        if resolved.rotary_base <= 0:
            raise UserError(f"--model.rotary-base is {resolved.rotary_base}; it must be positive")
        if not 0.0 <= resolved.dropout < 1.0:
            raise UserError(f"--model.dropout is {resolved.dropout}; it must be in [0, 1)")
        if resolved.vocab_size < vocab_size:
            raise UserError(
                f"--model.vocab-size {resolved.vocab_size} is smaller than the tokenizer's "
                f"{vocab_size}; leave it at 0 to follow the tokenizer"
            )
        if resolved.context < context:
            raise UserError(
                f"--model.context {resolved.context} is shorter than --data.context {context}; "
                "leave it at 0 to follow the data"
            )
        return resolved

    def build(self, deterministic: bool = True) -> "GPT":
        """The module; dropout is on where it is not deterministic."""
        return GPT(self, deterministic)


class GPT(nn.Module):
    """Next-token logits for every position of a sequence.

        x = E[tokens] (+ P[positions])
        x = block_L( ... block_1(x))
        logits = norm(x) E^T        (or an output matrix of its own)

    `config` must be resolved: vocabulary and context filled in. `scan_layers=False` is the
    same model for decoding, with the parameters of each block apart; see `nn.transformer.Layers`.
    """

    config: GPTConfig
    deterministic: bool = True
    scan_layers: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        self.embedding = Embedding(config.vocab_size, config.width, dtype=dtype)
        if config.positions == "learned":
            axes = ("position", "embed")
            self.position_embedding = Embedding(config.context, config.width, axes)
        self.drop = nn.Dropout(config.dropout, deterministic=self.deterministic)
        self.blocks = stack(
            Block,
            config.num_layers,
            scan=self.scan_layers,
            unroll=config.unroll_layers,
            remat=config.remat,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            mlp_hidden=config.mlp_hidden,
            activation=config.activation,
            norm=config.norm,
            norm_position=config.norm_position,
            rotary_base=config.rotary_base if config.positions == "rotary" else None,
            qk_norm=config.qk_norm,
            use_bias=config.use_bias,
            dropout_rate=config.dropout,
            deterministic=self.deterministic,
            residual_init_scale=0.02 / (2 * config.num_layers) ** 0.5,
            dtype=dtype,
        )
        if config.norm_position == "pre":
            self.final_norm = make_norm(config.norm, config.use_bias, "final_norm")
        if not config.tie_embeddings:
            self.output = Linear(config.vocab_size, ("embed", "vocab"), False, dtype=dtype)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "#B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Logits of the token after each of `tokens`.

        `segments` numbers the documents packed into a row (0: padding); a token sees its own
        document alone. `positions` default to 0, 1, ... along the row.
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        if segments is not None:
            # Whatever number stands in the padding, it is looked up in the tables: let it be 0.
            tokens = jnp.where(segments == 0, 0, tokens)
            positions = jnp.where(segments == 0, 0, jnp.broadcast_to(positions, tokens.shape))
        logits, _ = self._forward(tokens, positions, segments)
        return logits

    def decode(
        self,
        tokens: Int[Array, "B T"],
        cache: KVCache | tuple[KVCache, ...],
        cache_length: Int[Array, ""],
    ) -> tuple[Float[Array, "B T V"], KVCache | tuple[KVCache, ...]]:
        """Logits of T new tokens behind `cache_length` cached ones, and the cache with them in it.

        The cache has a leading layer axis (see `decoding.cache.init_cache`), or is a tuple with
        one cache for each layer where `scan_layers` is False.
        """
        positions = (cache_length + jnp.arange(tokens.shape[1]))[None]
        return self._forward(tokens, positions, None, cache, cache_length)

    def _forward(self, tokens, positions, segments, cache=None, cache_length=None):
        x = self.embedding(tokens)
        if self.config.positions == "learned":
            x = x + self.position_embedding(jnp.broadcast_to(positions, tokens.shape))
        x, cache = self.blocks(self.drop(x), cache, positions, segments, cache_length)
        if self.config.norm_position == "pre":
            x = self.final_norm(x)
        logits = self.embedding.attend(x) if self.config.tie_embeddings else self.output(x)
        return logits, cache
