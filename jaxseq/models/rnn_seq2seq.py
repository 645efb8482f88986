"""Recurrent encoder-decoder with attention (Bahdanau et al. 2014; Luong et al. 2015)."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.struct import PyTreeNode

from jaxseq.errors import UserError
from jaxseq.models.checks import check_vocabulary
from jaxseq.nn.alignment import SEQUENTIAL, Alignment, AlignmentKind, Memory
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.recurrent import CellName, RecurrentStack
from jaxseq.ops.copying import Mixture
from jaxseq.ops.padding import valid_steps_of
from jaxseq.option_checks import check_range
from jaxseq.typing import Array, Float, Int, PyTree


@dataclasses.dataclass(frozen=True)
class RNNSeq2SeqConfig:
    """The architecture."""

    source_vocab_size: int = 0
    """Tokens in the source vocabulary; 0: as many as the data has."""
    target_vocab_size: int = 0
    """Tokens in the target vocabulary; 0: as many as the data has."""
    cell: CellName = "lstm"
    """The recurrent cell of encoder and decoder."""
    encoder_layers: int = 1
    """Recurrent layers of the encoder."""
    decoder_layers: int = 1
    """Recurrent layers of the decoder."""
    width: int = 256
    """Size of the decoder's state, and of the encoder's outputs (D)."""
    embedding_width: int = 0
    """Size of the token embeddings; 0: the width."""
    bidirectional: bool = True
    """The encoder reads both ways, with half the width each."""
    attention: AlignmentKind = "additive"
    """How source positions are scored; location and coverage need input feeding; none: the decoder
    knows of the source what the encoder made of all of it, and no more."""
    input_feeding: bool = False
    """The context of a step enters the decoder's cell at the next one, which then learn one after
    the other; otherwise all steps of a target are trained at once, which is faster."""
    copy: bool = False
    """Words of the source may be copied into the target, from where the decoder looks (pointer-
    generator, See et al. 2017, arXiv:1704.04368); for the task Summarise."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""

    def resolve(self, *, source_vocab_size: int, target_vocab_size: int) -> "RNNSeq2SeqConfig":
        """The config with every 0 filled in, checked.

        Raises UserError naming the option for sizes or options that do not fit together, or a
        vocabulary smaller than the data's.
        """
        resolved = dataclasses.replace(
            self,
            source_vocab_size=self.source_vocab_size or source_vocab_size,
            target_vocab_size=self.target_vocab_size or target_vocab_size,
            embedding_width=self.embedding_width or self.width,
        )
        check_range(
            "model",
            resolved,
            *("encoder_layers", "decoder_layers", "width", "embedding_width"),
            least=1,
        )
        if resolved.bidirectional and resolved.width % 2:
            raise UserError(
                f"--model.width {resolved.width} is odd and cannot be halved between the two "
                "directions of the encoder; make it even or give --model.no-bidirectional"
            )
        if resolved.attention in SEQUENTIAL and not resolved.input_feeding:
            raise UserError(
                f"--model.attention {resolved.attention} scores by the steps before and cannot "
                "see all at once; give --model.input-feeding"
            )
        if resolved.copy and resolved.attention == "none":
            raise UserError(
                "--model.copy copies from where the decoder looks, and --model.attention is none; "
                "choose another attention"
            )
        check_range("model", resolved, "dropout", least=0, below=1)
        check_vocabulary(resolved, source_vocab_size, "source_vocab_size", "the data")
        check_vocabulary(resolved, target_vocab_size, "target_vocab_size", "the data")
        return resolved

    def build(self, deterministic: bool = True) -> "RNNSeq2Seq":
        """The module; dropout is on where it is not deterministic."""
        return RNNSeq2Seq(self, deterministic)


class Encoded(PyTreeNode):
    """What the encoder made of a source: all that the decoder knows of it."""

    memory: Memory
    summary: Float[Array, "B D"]


class DecoderCarry(PyTreeNode):
    """Where a decoder stands: its cells, its last context, the sum of its weights so far."""

    recurrent: PyTree
    context: Float[Array, "B D"]
    past: Float[Array, "B S"]


class RNNSeq2Seq(nn.Module):
    """Logits of each next target token, given the source and the target tokens before.

        m_1 ... m_S = encoder(E_x[x_1] ... E_x[x_S])
        h_0 = f(tanh(W_b [m_S forward; m_1 backward] + b_b), 0)
        h_t = f(E_y[y_{t-1}], h_{t-1})          or f([E_y[y_{t-1}]; c_{t-1}], h_{t-1}), c_0 = 0
        a_t, c_t = alignment of h_t with m
        logits_t = W_o tanh(W_c [c_t; h_t] + b_c) + b_o

    f is the decoder's stack of cells. The bridge between the two is a step of its own: the
    decoder reads the encoder's final outputs, forward at the last and backward at the first
    position, as if they were a token before the first. So it is the same for every cell, whatever
    its state looks like. The second form of h_t is `input_feeding`: f then gets the context
    computed from its own last state, as in Bahdanau et al. (arXiv:1409.0473), where Luong et al.
    (arXiv:1508.04025) feed the tanh.

    With `copy` the decoder also says how likely it is to write rather than to copy a word of the
    source from where it looks, sigmoid(u_t) with u_t = w_u^T [c_t; h_t; E_y[y_{t-1}]] + b_u, and a
    `Mixture` of logits and u stands in the place of the logits (`ops.copying`).

    `config` must be resolved. Token ids in the padding may be anything.
    """

    config: RNNSeq2SeqConfig
    deterministic: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        config = self.config
        width, dtype = config.width, jnp.dtype(config.dtype)

        def embed(count: int) -> Embedding:
            # Variance 1 is what the input kernels of recurrent cells are made for.
            return Embedding(count, config.embedding_width, init_scale=1.0)

        def stack(features: int, num_layers: int, bidirectional: bool) -> RecurrentStack:
            return RecurrentStack(
                config.cell,
                features,
                num_layers,
                bidirectional,
                dropout_rate=config.dropout,
                deterministic=self.deterministic,
                dtype=dtype,
            )

        self.source_embedding = embed(config.source_vocab_size)
        self.target_embedding = embed(config.target_vocab_size)
        ways = 2 if config.bidirectional else 1
        self.encoder = stack(width // ways, config.encoder_layers, config.bidirectional)
        self.decoder = stack(width, config.decoder_layers, False)
        inputs = config.embedding_width + (width if config.input_feeding else 0)
        self.bridge = Linear(inputs, ("embed", "mlp"), True, width**-0.5, dtype)
        self.alignment = Alignment(config.attention, width, dtype=dtype)
        self.combine = Linear(width, ("mlp", "embed"), True, (2 * width) ** -0.5, dtype)
        self.output = Linear(config.target_vocab_size, ("embed", "vocab"), dtype=dtype)
        if config.copy:
            self.gate = Linear(1, ("embed", "norm"), True, width**-0.5, dtype)
        self.drop = nn.Dropout(config.dropout, deterministic=self.deterministic)

    def __call__(
        self,
        source: Int[Array, "B S"],
        source_lengths: Int[Array, "B"],
        target_inputs: Int[Array, "B T"],
        target_lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B T V"] | Mixture, Float[Array, "B T S"]]:
        """Logits of the token after each of `target_inputs`, and where the decoder looked.

        The inputs are the start token and the target without its last (teacher forcing). From
        `target_lengths` on, logits and alignments are 0 and inputs may be anything.
        """
        encoded = self.encode(source, source_lengths)
        carry = self.start(encoded)
        valid = valid_steps_of(target_inputs, target_lengths)
        x = self.drop(self.target_embedding(jnp.where(valid, target_inputs, 0)))
        if self.config.input_feeding:
            steps = nn.scan(
                RNNSeq2Seq._step,
                variable_broadcast="params",
                split_rngs={"params": False, "dropout": True},
                in_axes=(1, nn.broadcast),
                out_axes=1,
            )
            _, (hidden, context, weights) = steps(self, carry, x, encoded.memory)
        else:
            hidden, _ = self.decoder(x, carry.recurrent, target_lengths)
            context, weights = self.alignment(hidden, encoded.memory)
        weights = jnp.where(valid[..., None], weights, 0)
        scores = self._scores(hidden, context, x)
        if isinstance(scores, Mixture):
            logits, gate = scores
            logits, gate = jnp.where(valid[..., None], logits, 0), jnp.where(valid, gate, 0)
            return Mixture(logits, gate), weights
        return jnp.where(valid[..., None], scores, 0), weights

    def encode(self, source: Int[Array, "B S"], source_lengths: Int[Array, "B"]) -> Encoded:
        """Reads the source, once for all steps of the decoder."""
        valid = valid_steps_of(source, source_lengths)
        x = self.drop(self.source_embedding(jnp.where(valid, source, 0)))
        y, _ = self.encoder(x, None, source_lengths)
        # What has read all of the source; 0 where there is none of it.
        is_last = jnp.arange(source.shape[1])[None] == _last(source, source_lengths)[:, None]
        summary = jnp.einsum("BS,BSD->BD", is_last.astype(y.dtype), y)
        if self.config.bidirectional:
            half = self.config.width // 2
            summary = jnp.concatenate([summary[:, :half], y[:, 0, half:]], axis=-1)
        return Encoded(self.alignment.project(self.drop(y), source_lengths), summary)

    def start(self, encoded: Encoded, max_length: int = 0) -> DecoderCarry:
        """The carry before the first token: of one size, however many are to come."""
        batch, length, width = encoded.memory.values.shape
        x = jnp.tanh(self.bridge(encoded.summary))
        _, recurrent = self.decoder.step(x, self.decoder.zero_carry(batch))
        dtype = encoded.memory.values.dtype
        context = jnp.zeros((batch, width), dtype)
        return DecoderCarry(recurrent, context, jnp.zeros((batch, length), dtype))

    def decode_step(
        self, tokens: Int[Array, "B"], carry: DecoderCarry, encoded: Encoded
    ) -> tuple[Float[Array, "B V"] | Mixture, Float[Array, "B S"], DecoderCarry]:
        """Logits of the token after `tokens`, the alignment, and the new carry."""
        x = self.drop(self.target_embedding(tokens))
        carry, (hidden, context, weights) = self._step(carry, x, encoded.memory)
        return self._scores(hidden, context, x), weights, carry

    def _step(self, carry: DecoderCarry, x: Array, memory: Memory):
        if self.config.input_feeding:
            x = jnp.concatenate([x, carry.context], axis=-1)
        hidden, recurrent = self.decoder.step(x, carry.recurrent)
        context, weights, past = self.alignment.step(hidden, memory, carry.past)
        return DecoderCarry(recurrent, context, past), (hidden, context, weights)

    def _scores(self, hidden: Array, context: Array, x: Array) -> Array | Mixture:
        combined = jnp.tanh(self.combine(jnp.concatenate([context, hidden], axis=-1)))
        logits = self.output(self.drop(combined))
        if not self.config.copy:
            return logits
        return Mixture(logits, self.gate(jnp.concatenate([context, hidden, x], axis=-1))[..., 0])


def _last(tokens: Array, lengths: Array) -> Array:
    """The last valid position of each row; -1 where there is none."""
    return jnp.minimum(lengths, tokens.shape[1]) - 1
