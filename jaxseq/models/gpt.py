"""GPT: a decoder-only Transformer language model (Radford et al. 2019; Brown et al. 2020)."""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.errors import UserError
from jaxseq.models.checks import check_context, check_heads, check_vocabulary
from jaxseq.nn.attention import AttentionConfig
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.experts import Experts
from jaxseq.nn.linear import Linear
from jaxseq.nn.mlp import Activation
from jaxseq.nn.transformer import BlockCache, BlockConfig, Remat, StackInputs, make_norm, stack
from jaxseq.ops.attention import Backend
from jaxseq.ops.positions import Rotary
from jaxseq.ops.quantized_linear import Quantize
from jaxseq.ops.vocabulary_loss import OutputMap
from jaxseq.option_checks import check_range
from jaxseq.parallel.rules import constrain
from jaxseq.typing import Array, Float, Int, PyTree

EVERYTHING = 2**30
"""A window that no text fills: of a layer that looks at all, in a stack where others do not."""


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The architecture. The defaults are GPT-2's choices at nanoGPT's laptop size.

    Llama, Mistral and Qwen: positions="rotary", norm="rms", activation="swiglu", use_bias=False,
    tie_embeddings=False, num_kv_heads, rotary.base; qkv_bias for Qwen2, qk_norm for Qwen3, windows
    for Mistral, experts for a mixture.
    """

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
    head_size: int = 0
    """Size of a head (H); 0: width / num_heads."""
    mlp_hidden: int = 0
    """Width of the feed-forward layer (F); 0: 4 x width."""
    positions: Literal["learned", "rotary"] = "learned"
    """How the model knows where a token stands."""
    rotary: Rotary = dataclasses.field(default_factory=Rotary)
    """The wavelengths of rotary positions."""
    windows: tuple[int, ...] = ()
    """How many tokens back each layer looks, itself included, repeated over the layers; 0: all.
    `512 0` alternates."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm or RMSNorm."""
    norm_epsilon: float = 1e-5
    """What is added to the variance."""
    norm_position: Literal["pre", "post"] = "pre"
    """Normalise the input of each layer, or the residual sum behind it."""
    activation: Activation = "gelu"
    """The feed-forward nonlinearity."""
    experts: Experts = dataclasses.field(default_factory=Experts)
    """A mixture of experts in place of the feed-forward layer."""
    qk_norm: bool = False
    """Normalise queries and keys per head."""
    use_bias: bool = True
    """Biases in linear layers and LayerNorm."""
    qkv_bias: bool = False
    """Biases of queries, keys and values even where use_bias is off."""
    soft_cap: float = 0.0
    """Attention scores e become c tanh(e / c); 0: they stay."""
    final_soft_cap: float = 0.0
    """The same for the logits."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix too."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""
    quantize: Quantize = "none"
    """Operands of the blocks' matrices, but not of their gradients, in 8 bits (extra `quant`)."""
    remat: Remat = "none"
    """What the backward pass recomputes instead of storing: all but each block's input ("full") and
    the results of matmuls ("dots"), which "offload" keeps in the host's memory meanwhile."""
    unroll_layers: int = 1
    """Blocks laid out per loop iteration: more compiles slower and runs faster."""
    attention_backend: Backend = "auto"
    """How attention is computed."""

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
            head_size=self.head_size or self.width // max(self.num_heads, 1),
            mlp_hidden=self.mlp_hidden or 4 * self.width,
        )
        check_range(
            "model",
            resolved,
            *("num_layers", "width", "num_heads", "num_kv_heads", "head_size", "mlp_hidden"),
            "unroll_layers",
            least=1,
        )
        if not self.head_size:
            check_heads(resolved)
        if resolved.num_heads % resolved.num_kv_heads:
            raise UserError(
                f"--model.num-kv-heads {resolved.num_kv_heads} does not divide "
                f"--model.num-heads {resolved.num_heads}"
            )
        if resolved.positions == "rotary" and resolved.head_size % 2:
            raise UserError(
                f"rotary positions need an even head size; --model.width {resolved.width} over "
                f"--model.num-heads {resolved.num_heads} is odd"
            )
        check_range("model", resolved, "rotary.base", "rotary.factor", "norm_epsilon", above=0)
        check_range("model", resolved, "soft_cap", "final_soft_cap", least=0)
        if min(resolved.windows, default=0) < 0:
            raise UserError(f"--model.windows is {min(resolved.windows)}; it must be at least 0")
        if resolved.quantize != "none" and resolved.experts.count:
            raise UserError("--model.quantize leaves experts as they are; drop it, or the experts")
        check_range("model", resolved, "dropout", least=0, below=1)
        check_vocabulary(resolved, vocab_size)
        check_context(resolved, context)
        return resolved

    def layer_windows(self) -> list[int]:
        """The window of every layer, where there are windows; 0: all."""
        return [self.windows[i % len(self.windows)] for i in range(self.num_layers)]

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
        residual_init_scale = 0.02 / (2 * config.num_layers) ** 0.5
        one_window = config.windows[0] if len(set(config.windows)) == 1 else 0
        attention = AttentionConfig(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_size=config.head_size,
            rotary=config.rotary if config.positions == "rotary" else None,
            qk_norm=config.qk_norm,
            norm_epsilon=config.norm_epsilon,
            qkv_bias=config.use_bias or config.qkv_bias,
            out_bias=config.use_bias,
            window=one_window or None,
            soft_cap=config.soft_cap or None,
            dropout_rate=config.dropout,
            output_init_scale=residual_init_scale,
            dtype=dtype,
            quantize=config.quantize,
            backend=config.attention_backend,
        )
        block = BlockConfig(
            attention=attention,
            mlp_hidden=config.mlp_hidden,
            activation=config.activation,
            experts=config.experts,
            norm=config.norm,
            norm_epsilon=config.norm_epsilon,
            norm_position=config.norm_position,
            use_bias=config.use_bias,
            dropout_rate=config.dropout,
            residual_init_scale=residual_init_scale,
            dtype=dtype,
            quantize=config.quantize,
        )
        self.blocks = stack(
            block,
            config.num_layers,
            deterministic=self.deterministic,
            scan=self.scan_layers,
            unroll=config.unroll_layers,
            remat=config.remat,
        )
        if config.norm_position == "pre":
            self.final_norm = make_norm(
                config.norm, config.norm_epsilon, config.use_bias, "final_norm"
            )
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
        return self.logits(self.hidden(tokens, positions=positions, segments=segments))

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        positions: Int[Array, "#B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """What the logits are made of: the state of the last layer, normalised."""
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        if segments is not None:
            # Whatever number stands in the padding, it is looked up in the tables: let it be 0.
            tokens = jnp.where(segments == 0, 0, tokens)
            positions = jnp.where(segments == 0, 0, jnp.broadcast_to(positions, tokens.shape))
        return self._forward(tokens, None, StackInputs(positions, segments))[0]

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """The logits of hidden states."""
        config = self.config
        logits = self.embedding.attend(hidden) if config.tie_embeddings else self.output(hidden)
        logits = constrain(logits, "batch", "time", "vocab")
        if config.final_soft_cap:
            logits = config.final_soft_cap * jnp.tanh(logits / config.final_soft_cap)
        return logits

    def output_map(self) -> OutputMap:
        """What `logits` makes of hidden states, for a loss that never has all of them."""
        config = self.config
        kernel, bias = self.embedding.table.T, None
        if not config.tie_embeddings:
            kernel, bias = self.output.affine()
        return OutputMap(kernel, bias, config.final_soft_cap or None, jnp.dtype(config.dtype))

    def decode(
        self,
        tokens: Int[Array, "B T"],
        cache: BlockCache | tuple[BlockCache, ...],
        cache_length: Int[Array, ""],
        first_slot: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B T V"], BlockCache | tuple[BlockCache, ...]]:
        """Logits of T new tokens behind `cache_length` cached ones, and the cache with them in it.

        The cache has a leading layer axis (see `decoding.cache.init_cache`), or is a tuple with
        one cache for each layer where `scan_layers` is False. Rows of unequal length end in the
        same slot: each begins in its `first_slot`, before which nothing is looked at.
        """
        positions, slots = (cache_length + jnp.arange(tokens.shape[1]))[None], None
        if first_slot is not None:
            caches = cache if isinstance(cache, BlockCache) else cache[0]
            numbers = jnp.arange(caches.own.key.shape[-3])
            slots = numbers[None] >= first_slot[:, None]
            before = positions < first_slot[:, None]
            positions = jnp.where(before, 0, positions - first_slot[:, None])
            tokens = jnp.where(before, 0, tokens)
        inputs = StackInputs(positions, cache_length=cache_length, slots=slots)
        x, cache = self._forward(tokens, cache, inputs)
        return self.logits(x), cache

    def _forward(self, tokens, cache, inputs):
        config, windows = self.config, None
        x = self.embedding(tokens)
        if config.positions == "learned":
            x = x + self.position_embedding(jnp.broadcast_to(inputs.positions, tokens.shape))
        if len(set(config.windows)) > 1:
            each = [window or EVERYTHING for window in config.layer_windows()]
            windows = jnp.asarray(each, jnp.int32)
        x, cache = self.blocks(self.drop(x), cache, windows, inputs)
        if config.norm_position == "pre":
            x = self.final_norm(x)
        return x, cache


def cut_vocabulary(config: GPTConfig, params: PyTree, vocab_size: int) -> tuple[GPTConfig, PyTree]:
    """The model of the first `vocab_size` tokens alone.

    Vocabularies are filled up to a round number, with tokens that no tokenizer has: a model that
    writes must not draw one.
    """
    cut = params | {"embedding": {"table": params["embedding"]["table"][:vocab_size]}}
    if not config.tie_embeddings:
        inner = ("lora_down", "lora_scale")  # of an adapter: what the vocabulary is not an axis of
        cut["output"] = {
            name: leaf if name in inner else leaf[..., :vocab_size]
            for name, leaf in params["output"].items()
        }
    return dataclasses.replace(config, vocab_size=vocab_size), cut
