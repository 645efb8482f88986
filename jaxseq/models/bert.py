"""BERT: a Transformer that reads both ways, and its heads (Devlin et al. 2018, 1810.04805)."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.models.checks import check_context, check_heads, check_vocabulary
from jaxseq.nn.attention import AttentionConfig
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.mlp import POINTWISE
from jaxseq.nn.normalization import LayerNorm
from jaxseq.nn.parameters import parameter
from jaxseq.nn.transformer import BlockConfig, Remat, StackInputs, stack
from jaxseq.ops.attention import Backend
from jaxseq.option_checks import check_range
from jaxseq.typing import Array, Float, Int

Head = Literal["pretraining", "classification", "tagging", "spans"]


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The architecture. The defaults are BERT's choices at a laptop's size; BERT-base is
    num_layers=12, width=768, num_heads=12, context=512, dropout=0.1."""

    vocab_size: int = 0
    """Tokens in the vocabulary; 0: as many as the tokenizer has."""
    context: int = 0
    """Longest input, in tokens; 0: as long as the data's longest."""
    num_layers: int = 4
    """Transformer blocks."""
    width: int = 128
    """Size of the residual stream (D)."""
    num_heads: int = 4
    """Attention heads; they must divide the width."""
    mlp_hidden: int = 0
    """Width of the feed-forward layer (F); 0: 4 x width."""
    num_types: int = 2
    """Kinds of token: of the first text and of the second."""
    num_labels: int = 0
    """Labels that a head tells apart; 0: as many as the data has."""
    activation: Literal["gelu", "gelu_exact", "relu", "silu"] = "gelu_exact"
    """The feed-forward nonlinearity."""
    norm_epsilon: float = 1e-12
    """What is added to the variance."""
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

    def resolve(self, *, vocab_size: int, context: int, num_labels: int = 0) -> "BertConfig":
        """The config with every 0 filled in, checked.

        Raises UserError naming the option for sizes that do not fit together, or a vocabulary or
        context smaller than the data's.
        """
        resolved = dataclasses.replace(
            self,
            vocab_size=self.vocab_size or vocab_size,
            context=self.context or context,
            num_labels=self.num_labels or num_labels,
            mlp_hidden=self.mlp_hidden or 4 * self.width,
        )
        check_range(
            "model",
            resolved,
            *("num_layers", "width", "num_heads", "mlp_hidden", "num_types", "unroll_layers"),
            least=1,
        )
        check_heads(resolved)
        check_range("model", resolved, "norm_epsilon", above=0)
        check_range("model", resolved, "dropout", least=0, below=1)
        check_vocabulary(resolved, vocab_size)
        check_context(resolved, context, "the data's longest input of {} tokens")
        return resolved

    def build(self, head: Head, deterministic: bool = True) -> nn.Module:
        """The module with the head that a task needs; dropout is on where not deterministic."""
        match head:
            case "pretraining":
                return PretrainingHead(self, deterministic)
            case "spans":
                return SpanHead(self, deterministic)
        return LabelHead(self, deterministic, pooled=head == "classification")


class Bert(nn.Module):
    """Hidden states of a text, each having seen all of it.

        x = norm(E[tokens] + P[positions] + S[types])
        x = block_L( ... block_1(x))                        (norms behind the residual sums)

    `config` must be resolved.
    """

    config: BertConfig
    deterministic: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        self.embedding = Embedding(config.vocab_size, config.width, dtype=dtype)
        axes = ("position", "embed")
        self.position_embedding = Embedding(config.context, config.width, axes)
        self.type_embedding = Embedding(config.num_types, config.width, axes)
        self.embedding_norm = LayerNorm(config.norm_epsilon)
        self.drop = nn.Dropout(config.dropout, deterministic=self.deterministic)
        attention = AttentionConfig(
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_size=config.width // config.num_heads,
            causal=False,
            dropout_rate=config.dropout,
            dtype=dtype,
            backend=config.attention_backend,
        )
        self.blocks = stack(
            BlockConfig(
                attention=attention,
                mlp_hidden=config.mlp_hidden,
                activation=config.activation,
                norm_epsilon=config.norm_epsilon,
                norm_position="post",
                dropout_rate=config.dropout,
                dtype=dtype,
            ),
            config.num_layers,
            deterministic=self.deterministic,
            unroll=config.unroll_layers,
            remat=config.remat,
        )
        self.pooler = Linear(config.width, ("embed", "classes"), dtype=dtype)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        types: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        positions: Int[Array, "#B T"] | None = None,
    ) -> Float[Array, "B T D"]:
        """The last hidden states of `tokens`.

        `types` are 0 in the first text and 1 in the second (0). `segments` numbers the texts
        packed into a row from 1; 0 is padding, whose hidden states mean nothing (no padding).
        `positions` default to 0, 1, ... along the row.
        """
        if positions is None:
            positions = jnp.arange(tokens.shape[1])[None]
        positions = jnp.broadcast_to(positions, tokens.shape)
        types = jnp.zeros_like(tokens) if types is None else types
        if segments is not None:
            # Whatever number stands in the padding, it is looked up in the tables: let it be 0.
            tokens, types, positions = (
                jnp.where(segments == 0, 0, x) for x in (tokens, types, positions)
            )
        x = self.embedding(tokens) + self.position_embedding(positions) + self.type_embedding(types)
        x = self.drop(self.embedding_norm(x))
        x, _ = self.blocks(x, None, None, StackInputs(positions, segments))
        return x

    def pool(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B D"]:
        """The text as one vector: tanh(W h_0 + b) of the hidden state of its first token."""
        return jnp.tanh(self.pooler(hidden[:, 0]))

    def attend(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Scores of x against every token's embedding."""
        return self.embedding.attend(x)


class PretrainingHead(nn.Module):
    """Logits of masked tokens, y = norm(gelu(W h + b)) E^T + c; and whether text 2 followed 1."""

    config: BertConfig
    deterministic: bool = True

    def setup(self) -> None:
        """Creates encoder and head."""
        config = self.config
        self.encoder = Bert(config, self.deterministic)
        self.head = _TokenHead(config)
        self.next_sentence = Linear(2, ("embed", "classes"), dtype=jnp.dtype(config.dtype))

    def __call__(
        self, tokens: Int[Array, "B T"], masked_positions: Int[Array, "B M"], **inputs: Array
    ) -> tuple[Float[Array, "B M V"], Float[Array, "B 2"]]:
        """(logits of the tokens at `masked_positions`, logits of "is the next", "is not")."""
        hidden = self.encoder(tokens, **inputs)
        at = jnp.clip(masked_positions, 0, tokens.shape[1] - 1)[..., None]
        masked = jnp.take_along_axis(hidden, at, axis=1)
        x, bias = self.head(masked)
        return self.encoder.attend(x) + bias, self.next_sentence(self.encoder.pool(hidden))


class _TokenHead(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B M D"]) -> tuple[Float[Array, "B M D"], Array]:
        config = self.config
        # Not sharded over its output: the norm behind it needs all of it.
        x = Linear(config.width, ("embed", "norm"), dtype=jnp.dtype(config.dtype), name="map")(x)
        x = LayerNorm(config.norm_epsilon, name="norm")(POINTWISE[config.activation](x))
        zeros = nn.initializers.zeros
        bias = parameter(self, "bias", zeros, ("vocab",), (config.vocab_size,))
        return x, jnp.broadcast_to(bias, (*x.shape[:-1], config.vocab_size))


class LabelHead(nn.Module):
    """Logits of labels: a linear map of the pooled text, or of every token's hidden state."""

    config: BertConfig
    deterministic: bool = True
    pooled: bool = True

    def setup(self) -> None:
        """Creates encoder and head."""
        self.encoder = Bert(self.config, self.deterministic)
        self.drop = nn.Dropout(self.config.dropout, deterministic=self.deterministic)
        self.head = Linear(self.config.num_labels, ("embed", "classes"))

    def __call__(self, tokens: Int[Array, "B T"], **inputs: Array) -> Float[Array, "B ... C"]:
        """Logits (B, C) of the text or (B, T, C) of its tokens; the inputs are `Bert`'s."""
        hidden = self.encoder(tokens, **inputs)
        return self.head(self.drop(self.encoder.pool(hidden) if self.pooled else hidden))


class SpanHead(nn.Module):
    """Logits of where an answer starts and ends: two numbers for every token."""

    config: BertConfig
    deterministic: bool = True

    def setup(self) -> None:
        """Creates encoder and head."""
        self.encoder = Bert(self.config, self.deterministic)
        self.head = Linear(2, ("embed", "classes"))

    def __call__(
        self, tokens: Int[Array, "B T"], **inputs: Array
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """(logits of the first token, logits of the last); the inputs are `Bert`'s."""
        logits = self.head(self.encoder(tokens, **inputs))
        return logits[..., 0], logits[..., 1]
