"""Recurrent language model (Mikolov et al. 2010; Zaremba et al. 2014, arXiv:1409.2329)."""

import dataclasses
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.models.checks import check_vocabulary
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.mlp import MLP
from jaxseq.nn.normalization import LayerNorm
from jaxseq.nn.recurrent import Carry, CellName, RecurrentStack
from jaxseq.ops.vocabulary_loss import OutputMap
from jaxseq.option_checks import check_range
from jaxseq.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class RNNLMConfig:
    """The architecture."""

    separates_documents: ClassVar[bool] = False

    vocab_size: int = 0
    """Tokens in the vocabulary; 0: as many as the tokenizer has."""
    cell: CellName = "lstm"
    """What every layer is made of."""
    num_layers: int = 2
    """Recurrent layers."""
    width: int = 256
    """Size of the embeddings and of every layer's output (D)."""
    residual: bool = False
    """Add each layer's input to its output."""
    layer_norm: bool = False
    """Normalise each layer's input, and what the logits are made of."""
    mlp_hidden: int = 0
    """Width of a feed-forward layer behind each recurrent one, as in Griffin (De et al. 2024,
    arXiv:2402.19427); 0: none."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix too."""
    dropout: float = 0.0
    """Share of activations dropped in training, between layers."""
    variational_dropout: float = 0.0
    """Share of each layer's inputs dropped in training, the same at every step of a sequence."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""

    def resolve(self, *, vocab_size: int, context: int) -> "RNNLMConfig":
        """The config with every 0 filled in, checked; any `context` will do.

        Raises UserError naming the option that is out of range.
        """
        resolved = dataclasses.replace(self, vocab_size=self.vocab_size or vocab_size)
        check_range("model", resolved, "num_layers", "width", least=1)
        check_range("model", resolved, "mlp_hidden", least=0)
        check_range("model", resolved, "dropout", "variational_dropout", least=0, below=1)
        check_vocabulary(resolved, vocab_size)
        return resolved

    def build(self, deterministic: bool = True) -> "RNNLM":
        """The module; dropout is on where it is not deterministic."""
        return RNNLM(self, deterministic)


class RNNLM(nn.Module):
    """Next-token logits for every position of a sequence.

        x = E[tokens]
        x = cell_L( ... cell_1(x))      (x + MLP(norm(x)) behind each where there is one)
        logits = x E^T                  (or an output matrix of its own)

    `config` must be resolved: the vocabulary filled in.
    """

    config: RNNLMConfig
    deterministic: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        # Inputs of order 1, as cells without a norm before them want; tied logits stay small.
        scale = 0.02 if config.layer_norm else config.width**-0.5
        self.embedding = Embedding(
            config.vocab_size, config.width, init_scale=scale, dtype=dtype, name="embedding"
        )
        self.drop = nn.Dropout(config.dropout, deterministic=self.deterministic)
        self.layers = [
            RecurrentStack(
                config.cell,
                config.width,
                residual=config.residual,
                layer_norm=config.layer_norm,
                variational_dropout_rate=config.variational_dropout,
                deterministic=self.deterministic,
                dtype=dtype,
            )
            for _ in range(config.num_layers)
        ]
        if config.mlp_hidden:
            depth = 0.02 / (2 * config.num_layers) ** 0.5
            self.mlp_norms = [LayerNorm() for _ in self.layers]
            self.mlps = [MLP(config.mlp_hidden, "swiglu", False, depth, dtype) for _ in self.layers]
        if config.layer_norm:
            self.final_norm = LayerNorm()
        if not config.tie_embeddings:
            self.output = Linear(config.vocab_size, ("embed", "vocab"), dtype=dtype)

    def __call__(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Logits of the token after each of `tokens`, from an empty state."""
        return self.read(tokens, self.zero_carry(tokens.shape[0]))[0]

    def read(
        self, tokens: Int[Array, "B T"], carry: tuple[Carry, ...]
    ) -> tuple[Float[Array, "B T V"], tuple[Carry, ...]]:
        """Logits of T new tokens behind those that made `carry`, and the carry after them."""
        x, after = self._states(tokens, carry)
        logits = self.embedding.attend(x) if self.config.tie_embeddings else self.output(x)
        return logits, after

    def hidden(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """What the logits are made of, from an empty state."""
        return self._states(tokens, self.zero_carry(tokens.shape[0]))[0]

    def output_map(self) -> OutputMap:
        """What makes logits of `hidden`, for a loss that never has all of them."""
        kernel, bias = self.embedding.table.T, None
        if not self.config.tie_embeddings:
            kernel, bias = self.output.affine()
        return OutputMap(kernel, bias, dtype=jnp.dtype(self.config.dtype))

    def _states(
        self, tokens: Array, carry: tuple[Carry, ...]
    ) -> tuple[Float[Array, "B T D"], tuple[Carry, ...]]:
        x, after = self.drop(self.embedding(tokens)), []
        for i, layer in enumerate(self.layers):
            if tokens.shape[1] == 1:
                y, state = layer.step(x[:, 0], carry[i])
                x = y[:, None]
            else:
                x, state = layer(x, carry[i])
            if self.config.mlp_hidden:
                x = x + self.mlps[i](self.mlp_norms[i](x))
            x = self.drop(x)
            after.append(state)
        if self.config.layer_norm:
            x = self.final_norm(x)
        return x, tuple(after)

    def zero_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """The carry before the first token."""
        layer = RecurrentStack(self.config.cell, self.config.width, parent=None)
        return (layer.zero_carry(batch_size),) * self.config.num_layers
