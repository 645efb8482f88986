"""Recurrent encoder of texts with heads for their labels and for spans in them."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.errors import UserError
from jaxseq.models.checks import check_vocabulary
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.recurrent import CellName, RecurrentStack
from jaxseq.ops.padding import valid_steps
from jaxseq.option_checks import check_range
from jaxseq.typing import Array, Bool, Float, Int

Head = Literal["classification", "tagging", "spans"]


@dataclasses.dataclass(frozen=True)
class RNNEncoderConfig:
    """The architecture: what reads texts where `BertConfig` would, without positions."""

    vocab_size: int = 0
    """Tokens in the vocabulary; 0: as many as the tokenizer has."""
    context: int = 0
    """The most tokens of an input; 0: any number."""
    cell: CellName = "lstm"
    """The recurrent cell."""
    num_layers: int = 1
    """Recurrent layers."""
    width: int = 256
    """Size of the outputs (D), of both directions together."""
    embedding_width: int = 0
    """Size of the token embeddings; 0: the width."""
    bidirectional: bool = True
    """Read both ways, with half the width each."""
    pooling: Literal["max", "mean"] = "max"
    """How the outputs of a text become one vector, for a label of all of it."""
    num_types: int = 2
    """Kinds of token: of the first text and of the second."""
    num_labels: int = 0
    """Labels that a head tells apart; 0: as many as the data has."""
    dropout: float = 0.5
    """Share of numbers dropped in training, before and behind the recurrent layers."""
    word_dropout: float = 0.0
    """Share of tokens of which training drops the whole embedding (Iyyer et al. 2015)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""

    def resolve(self, *, vocab_size: int, context: int, num_labels: int = 0) -> "RNNEncoderConfig":
        """The config with every 0 filled in, checked; `context` is any number as it is.

        Raises UserError naming the option for sizes that do not fit together, or a vocabulary
        smaller than the data's.
        """
        resolved = dataclasses.replace(
            self,
            vocab_size=self.vocab_size or vocab_size,
            num_labels=self.num_labels or num_labels,
            embedding_width=self.embedding_width or self.width,
        )
        check_range(
            "model", resolved, "num_layers", "width", "embedding_width", "num_types", least=1
        )
        if resolved.bidirectional and resolved.width % 2:
            raise UserError(
                f"--model.width {resolved.width} is odd and cannot be halved between the two "
                "directions; make it even or give --model.no-bidirectional"
            )
        check_range("model", resolved, "dropout", "word_dropout", least=0, below=1)
        check_vocabulary(resolved, vocab_size)
        return resolved

    def build(self, head: Head, deterministic: bool = True) -> nn.Module:
        """The module with the head that a task needs; dropout is on where not deterministic."""
        if head == "spans":
            return RNNSpanHead(self, deterministic)
        return RNNLabelHead(self, deterministic, pooled=head == "classification")


class RNNEncoder(nn.Module):
    """Outputs of a text, each having seen all of it (or, in one direction, what was before).

        y = rnn(E[tokens] + S[types])

    `config` must be resolved. `segments` is 1 where a token is and 0 in the padding behind them,
    where outputs are 0 and tokens may be anything.
    """

    config: RNNEncoderConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        types: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Bool[Array, "B T"]]:
        """(outputs, where a token is)."""
        config = self.config
        types = jnp.zeros_like(tokens) if types is None else types
        segments = jnp.ones_like(tokens) if segments is None else segments
        lengths = jnp.sum(segments != 0, axis=1)
        valid = valid_steps(lengths, tokens.shape[1])
        tokens, types = jnp.where(valid, tokens, 0), jnp.where(valid, types, 0)
        # Variance 1 is what the input kernels of recurrent cells are made for.
        size = config.embedding_width
        x = Embedding(config.vocab_size, size, init_scale=1.0, name="embedding")(tokens)
        axes = ("position", "embed")
        x = x + Embedding(config.num_types, size, axes, name="type_embedding")(types)
        x = nn.Dropout(config.word_dropout, (-1,), deterministic=self.deterministic)(x)
        x = nn.Dropout(config.dropout, deterministic=self.deterministic)(x)
        layers = RecurrentStack(
            config.cell,
            config.width // (2 if config.bidirectional else 1),
            config.num_layers,
            config.bidirectional,
            dropout_rate=config.dropout,
            deterministic=self.deterministic,
            dtype=jnp.dtype(config.dtype),
            name="layers",
        )
        y, _ = layers(x, None, lengths)
        return nn.Dropout(config.dropout, deterministic=self.deterministic)(y), valid


class RNNLabelHead(nn.Module):
    """Logits of labels: a linear map of the pooled text, or of every token's output.

    Max pooling takes the largest of each number over the tokens (Conneau et al. 2017,
    arXiv:1705.02364); of a text without tokens the vector is 0.
    """

    config: RNNEncoderConfig
    deterministic: bool = True
    pooled: bool = True

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], **inputs: Array) -> Float[Array, "B ... C"]:
        """Logits (B, C) of the text or (B, T, C) of its tokens; the inputs are `RNNEncoder`'s."""
        y, valid = RNNEncoder(self.config, self.deterministic, name="encoder")(tokens, **inputs)
        if self.pooled:
            y = _pool(y, valid, self.config.pooling)
        return Linear(self.config.num_labels, ("embed", "classes"), name="head")(y)


class RNNSpanHead(nn.Module):
    """Logits of where an answer starts and ends: two numbers for every token."""

    config: RNNEncoderConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "B T"], **inputs: Array
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """(logits of the first token, logits of the last); the inputs are `RNNEncoder`'s."""
        y, _ = RNNEncoder(self.config, self.deterministic, name="encoder")(tokens, **inputs)
        logits = Linear(2, ("embed", "classes"), name="head")(y)
        return logits[..., 0], logits[..., 1]


def _pool(
    y: Float[Array, "B T D"], valid: Bool[Array, "B T"], pooling: Literal["max", "mean"]
) -> Float[Array, "B D"]:
    if pooling == "mean":
        count = jnp.maximum(valid.sum(axis=1, dtype=y.dtype), 1)
        return y.sum(axis=1) / count[:, None]  # y is 0 in the padding
    largest = jnp.max(y, axis=1, where=valid[..., None], initial=-jnp.inf)
    return jnp.where(valid.any(axis=1)[:, None], largest, 0)
