"""The Transformer that reads one sequence and writes another (Vaswani et al. 2017), T5, BART."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.struct import PyTreeNode

from jaxseq.errors import UserError
from jaxseq.models.checks import check_heads, check_vocabulary
from jaxseq.nn.alignment import Memory
from jaxseq.nn.attention import AttentionConfig, KVCache
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.mlp import Activation
from jaxseq.nn.normalization import LayerNorm
from jaxseq.nn.parameters import parameter
from jaxseq.nn.transformer import BlockCache, BlockConfig, Remat, StackInputs, make_norm, stack
from jaxseq.ops.alignment import attend, dot_scores, hide_padding
from jaxseq.ops.attention import Backend
from jaxseq.ops.copying import Mixture
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.position_bias import RelativeBias
from jaxseq.ops.positions import sinusoidal
from jaxseq.option_checks import check_range
from jaxseq.typing import Array, Bool, Float, Int, PyTree


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
    """The architecture. The defaults are the 2017 Transformer's choices at a laptop's size.

    T5 1.1: positions="relative", norm="rms", norm_position="pre", activation="geglu",
    use_bias=False, scale_embeddings=False, scale_attention=False, tie_embeddings=False.
    BART: positions="learned", activation="gelu_exact", scale_embeddings=False,
    embedding_norm=True, output_bias=True. Marian: activation="silu", output_bias=True.
    """

    source_vocab_size: int = 0
    """Tokens in the source vocabulary; 0: as many as the data has."""
    target_vocab_size: int = 0
    """Tokens in the target vocabulary; 0: as many as the data has."""
    context: int = 512
    """Longest sequence, in tokens, where positions are learned."""
    encoder_layers: int = 2
    """Blocks of the encoder."""
    decoder_layers: int = 2
    """Blocks of the decoder."""
    width: int = 128
    """Size of the residual stream (D)."""
    num_heads: int = 4
    """Attention heads."""
    head_size: int = 0
    """Size of a head (H); 0: width / num_heads."""
    mlp_hidden: int = 0
    """Width of the feed-forward layer (F); 0: 4 x width."""
    positions: Literal["sinusoidal", "learned", "relative"] = "sinusoidal"
    """How the model knows where a token stands; relative: T5's buckets of distances."""
    relative_buckets: int = 32
    """Buckets of relative positions."""
    relative_distance: int = 128
    """Distances from this one on share a bucket."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm or RMSNorm."""
    norm_epsilon: float = 1e-5
    """What is added to the variance."""
    norm_position: Literal["pre", "post"] = "post"
    """Normalise the input of each layer, or the residual sum behind it."""
    activation: Activation = "relu"
    """The feed-forward nonlinearity."""
    use_bias: bool = True
    """Biases in linear layers and LayerNorm."""
    scale_embeddings: bool = True
    """Multiply embeddings by sqrt(width)."""
    scale_attention: bool = True
    """Divide attention scores by sqrt(head_size)."""
    embedding_norm: bool = False
    """Normalise the embeddings."""
    share_embeddings: bool = False
    """One table for source and target, which must have one vocabulary."""
    tie_embeddings: bool = True
    """Use the target's embedding as the output matrix too."""
    scale_logits: bool = False
    """Divide the logits by sqrt(width)."""
    output_bias: bool = False
    """A bias for every token's logit."""
    copy: bool = False
    """Words of the source may be copied into the target, from where a pointer behind the last
    layer looks (pointer-generator, See et al. 2017, arXiv:1704.04368); for the task Summarise."""
    dropout: float = 0.1
    """Share of activations dropped in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""
    remat: Remat = "none"
    """What the backward pass recomputes instead of storing: all but each block's input ("full") and
    the results of matmuls ("dots"), which "offload" keeps in the host's memory meanwhile."""
    unroll_layers: int = 1
    """Blocks laid out per loop iteration: more compiles slower and runs faster."""
    attention_backend: Backend = "auto"
    """How attention is computed."""

    def resolve(self, *, source_vocab_size: int, target_vocab_size: int) -> "EncoderDecoderConfig":
        """The config with every 0 filled in, checked.

        Raises UserError naming the option for sizes that do not fit together, or a vocabulary
        smaller than the data's.
        """
        resolved = dataclasses.replace(
            self,
            source_vocab_size=self.source_vocab_size or source_vocab_size,
            target_vocab_size=self.target_vocab_size or target_vocab_size,
            head_size=self.head_size or self.width // max(self.num_heads, 1),
            mlp_hidden=self.mlp_hidden or 4 * self.width,
        )
        check_range(
            "model",
            resolved,
            *("context", "encoder_layers", "decoder_layers", "width", "num_heads", "head_size"),
            *("mlp_hidden", "relative_buckets", "relative_distance", "unroll_layers"),
            least=1,
        )
        if not self.head_size:
            check_heads(resolved)
        check_range("model", resolved, "norm_epsilon", above=0)
        check_range("model", resolved, "dropout", least=0, below=1)
        if resolved.positions == "sinusoidal" and resolved.width % 2:
            raise UserError(f"sinusoidal positions need an even --model.width, not {self.width}")
        check_vocabulary(resolved, source_vocab_size, "source_vocab_size", "the data")
        check_vocabulary(resolved, target_vocab_size, "target_vocab_size", "the data")
        sizes = resolved.source_vocab_size, resolved.target_vocab_size
        if resolved.share_embeddings and sizes[0] != sizes[1]:
            raise UserError(
                f"--model.share-embeddings needs one vocabulary for source and target; they have "
                f"{sizes[0]} and {sizes[1]} tokens"
            )
        return resolved

    def build(self, deterministic: bool = True) -> "EncoderDecoder":
        """The module; dropout is on where it is not deterministic."""
        return EncoderDecoder(self, deterministic)


class Encoded(PyTreeNode):
    """What the decoder knows of a source: the keys and values of its memory in every layer."""

    memory: tuple[KVCache, ...]
    mask: Bool[Array, "B S"]
    pointed: Memory | None = None
    """What the pointer looks at, in a model that copies."""


class DecoderCarry(PyTreeNode):
    """Where a decoder stands: the keys and values of what it has written, and how much that is."""

    own: tuple[KVCache, ...]
    length: Int[Array, "B"]


class EncoderDecoder(nn.Module):
    """Logits of each next target token, given the source and the target tokens before.

        m = encoder(c E_x[x] + P)
        logits = W_o decoder(c E_y[y_0 ... y_{t-1}] + P, m)      c = sqrt(D), or 1

    P are sinusoids, a learned table, or nothing where every head adds b[bucket(s - t)] to its
    scores (Raffel et al. 2019, arXiv:1910.10683).

    With `copy` a pointer reads the memory once more with what the decoder made, h_t, and says how
    likely the model is to write rather than to copy a word of the source from where it points:

        a_t = softmax over valid s of (W_q h_t) . (W_k m_s) / sqrt(D)        c_t = sum_s a_ts m_s
        u_t = w_u^T [c_t; h_t] + b_u

    A `Mixture` of logits and u then stands in the place of the logits (`ops.copying`), and a in
    that of None. `config` must be resolved. `scan_layers=False`
    is the same model for decoding, with the parameters of each block apart (`nn.transformer`).
    """

    config: EncoderDecoderConfig
    deterministic: bool = True
    scan_layers: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        self.target_embedding = Embedding(config.target_vocab_size, config.width, dtype=dtype)
        if not config.share_embeddings:
            self.source_embedding = Embedding(config.source_vocab_size, config.width, dtype=dtype)
        self.drop = nn.Dropout(config.dropout, deterministic=self.deterministic)
        for side in ("encoder", "decoder"):
            if config.positions == "learned":
                axes = ("position", "embed")
                table = Embedding(config.context, config.width, axes)
                setattr(self, f"{side}_positions", table)
            if config.positions == "relative":
                table = Embedding(config.relative_buckets, config.num_heads, ("norm", "heads"))
                setattr(self, f"{side}_bias", table)
            if config.embedding_norm:
                norm = LayerNorm(config.norm_epsilon, config.use_bias)
                setattr(self, f"{side}_embedding_norm", norm)
            if config.norm_position == "pre":
                norm = make_norm(config.norm, config.norm_epsilon, config.use_bias)
                setattr(self, f"{side}_norm", norm)
            setattr(self, side, self._stack(side == "decoder"))
        if not config.tie_embeddings:
            axes = ("embed", "vocab")
            self.output = Linear(config.target_vocab_size, axes, False, dtype=dtype)
        if config.output_bias:
            zeros, size = nn.initializers.zeros, (config.target_vocab_size,)
            self.bias = parameter(self, "output_bias", zeros, ("vocab",), size)
        if config.copy:
            self.pointer_query = Linear(config.width, ("embed", "mlp"), dtype=dtype)
            # A bias of the keys would move all scores of a step alike.
            self.pointer_key = Linear(config.width, ("embed", "mlp"), False, dtype=dtype)
            self.gate = Linear(1, ("embed", "norm"), dtype=dtype)

    def _stack(self, decodes: bool) -> nn.Module:
        config = self.config
        dtype = jnp.dtype(config.dtype)
        num_layers = config.decoder_layers if decodes else config.encoder_layers
        attention = AttentionConfig(
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_size=config.head_size,
            causal=decodes,
            qkv_bias=config.use_bias,
            out_bias=config.use_bias,
            scale=None if config.scale_attention else 1.0,
            dropout_rate=config.dropout,
            dtype=dtype,
            backend=config.attention_backend,
        )
        block = BlockConfig(
            attention=attention,
            mlp_hidden=config.mlp_hidden,
            cross_attention=decodes,
            activation=config.activation,
            norm=config.norm,
            norm_epsilon=config.norm_epsilon,
            norm_position=config.norm_position,
            use_bias=config.use_bias,
            dropout_rate=config.dropout,
            dtype=dtype,
        )
        return stack(
            block,
            num_layers,
            deterministic=self.deterministic,
            scan=self.scan_layers,
            unroll=config.unroll_layers,
            remat=config.remat,
        )

    def __call__(
        self,
        source: Int[Array, "B S"],
        source_lengths: Int[Array, "B"],
        inputs: Int[Array, "B T"],
        target_lengths: Int[Array, "B"],
    ) -> tuple[Float[Array, "B T V"] | Mixture, Float[Array, "B T S"] | None]:
        """Logits of the token after each of `inputs`; in the padding they mean nothing.

        Where a recurrent model gives its alignments stands None: `cross_attention_weights` has
        them. A model that copies gives where its pointer looked.
        """
        memory = self.read(source, source_lengths)
        mask = valid_steps(source_lengths, source.shape[1])
        valid = valid_steps(target_lengths, inputs.shape[1])
        where = {"segments": valid.astype(jnp.int32), "memory": memory, "memory_mask": mask}
        x, _ = self._run("decoder", jnp.where(valid, inputs, 0), None, jnp.int32(0), **where)
        return self._scores(x, self._pointed(memory, mask))

    def read(
        self, source: Int[Array, "B S"], source_lengths: Int[Array, "B"]
    ) -> Float[Array, "B S D"]:
        """The encoder's output; in the padding it means nothing."""
        valid = valid_steps(source_lengths, source.shape[1])
        segments = valid.astype(jnp.int32)
        tokens = jnp.where(valid, source, 0)
        return self._run("encoder", tokens, None, jnp.int32(0), segments=segments)[0]

    def encode(self, source: Int[Array, "B S"], source_lengths: Int[Array, "B"]) -> Encoded:
        """What decoding a source needs of it."""
        mask = valid_steps(source_lengths, source.shape[1])
        memory = self.read(source, source_lengths)
        # Reading no token at all fills the caches with the keys and values of the memory.
        nothing, caches = source[:, :0], tuple(map(BlockCache, self._caches(source.shape[0], 1)))
        _, caches = self._run(
            "decoder", nothing, caches, jnp.int32(0), memory=memory, memory_mask=mask
        )
        pointed = self._pointed(memory, mask)
        return Encoded(tuple(cache.memory for cache in caches), mask, pointed)

    def start(self, encoded: Encoded, max_length: int) -> DecoderCarry:
        """The carry before the first of at most `max_length` target tokens."""
        batch_size = encoded.mask.shape[0]
        lengths = jnp.zeros(batch_size, jnp.int32)
        return DecoderCarry(self._caches(batch_size, max_length), lengths)

    def _caches(self, batch_size: int, max_length: int) -> tuple[KVCache, ...]:
        config = self.config
        shape = (batch_size, max_length, config.num_heads, config.head_size)
        zeros = jnp.zeros(shape, config.dtype)
        return tuple(KVCache(zeros, zeros) for _ in range(config.decoder_layers))

    def decode_step(
        self, tokens: Int[Array, "B"], carry: DecoderCarry, encoded: Encoded
    ) -> tuple[Float[Array, "B V"] | Mixture, Float[Array, "B S"] | None, DecoderCarry]:
        """As the call for the token after `tokens`, and the next carry. All rows have one length.

        Needs `scan_layers=False`, like `encode`.
        """
        caches = tuple(map(BlockCache, carry.own, encoded.memory))
        x, caches = self._run(
            "decoder", tokens[:, None], caches, carry.length[0], memory_mask=encoded.mask
        )
        own = tuple(cache.own for cache in caches)
        scores, weights = jax.tree.map(lambda y: y[:, 0], self._scores(x, encoded.pointed))
        return scores, weights, DecoderCarry(own, carry.length + 1)

    def _run(self, side, tokens, caches, start, **inputs):
        config = self.config
        shared = config.share_embeddings or side == "decoder"
        embedding = self.target_embedding if shared else self.source_embedding
        positions, bias = (start + jnp.arange(tokens.shape[1]))[None], None
        x = embedding(tokens)
        if config.scale_embeddings:
            x = x * config.width**0.5
        if config.positions == "sinusoidal":
            x = x + jnp.broadcast_to(sinusoidal(positions, config.width).astype(x.dtype), x.shape)
        elif config.positions == "learned":
            table, at = (
                getattr(self, f"{side}_positions"),
                jnp.broadcast_to(positions, tokens.shape),
            )
            if "segments" in inputs:  # padding may reach beyond the table
                at = jnp.where(inputs["segments"] == 0, 0, at)
            x = x + table(at)
        else:
            table = getattr(self, f"{side}_bias").table
            bias = RelativeBias(table, side == "encoder", config.relative_distance)
        if config.embedding_norm:
            x = getattr(self, f"{side}_embedding_norm")(x)
        cache_length = None if caches is None else start
        inputs = StackInputs(positions, cache_length=cache_length, bias=bias, **inputs)
        x, caches = getattr(self, side)(self.drop(x), caches, None, inputs)
        if config.norm_position == "pre":
            x = self.drop(getattr(self, f"{side}_norm")(x))
        return x, caches

    def _pointed(self, memory: Array, mask: Array) -> Memory | None:
        if not self.config.copy:
            return None
        memory = hide_padding(memory, mask)
        return Memory(memory, self.pointer_key(memory), mask)

    def _scores(self, x: Array, pointed: Memory | None) -> tuple[Array | Mixture, Array | None]:
        logits = self._logits(x)
        if pointed is None:
            return logits, None
        query = self.pointer_query(x) * self.config.width**-0.5
        context, weights = attend(dot_scores(query, pointed.keys), pointed.values, pointed.visible)
        gate = self.gate(jnp.concatenate([context, x], axis=-1))
        return Mixture(logits, gate[..., 0]), weights

    def _logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        config = self.config
        if config.scale_logits:
            x = x * config.width**-0.5
        logits = self.target_embedding.attend(x) if config.tie_embeddings else self.output(x)
        return logits + jnp.broadcast_to(self.bias, logits.shape) if config.output_bias else logits


def cross_attention_weights(
    module: EncoderDecoder, params: PyTree, *inputs: Int[Array, "B ..."]
) -> Float[Array, "L B N T S"]:
    """Where every head of every layer of the decoder looks, for the inputs of a call."""
    _, seen = module.apply({"params": params}, *inputs, mutable=["intermediates"])
    (weights,) = seen["intermediates"]["decoder"]["cross_attention"]["weights"]
    return weights
