"""A recurrent network that reads a text and speaks: Tacotron 2 (Shen et al. 2017)."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import lax

from jaxseq.errors import UserError
from jaxseq.models.checks import check_vocabulary
from jaxseq.models.spoken import Spoken, check_front_end
from jaxseq.nn.alignment import Alignment, Memory
from jaxseq.nn.convolution_stack import ConvolutionStack
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.recurrent import LSTM, RecurrentStack
from jaxseq.ops.activations import gelu
from jaxseq.ops.padding import valid_steps_of, zero_padding
from jaxseq.ops.spectral import FrontEnd
from jaxseq.option_checks import check_range
from jaxseq.typing import Array, Float, Int, PyTree


@dataclasses.dataclass(frozen=True)
class AttentionTTSConfig:
    """The architecture. The defaults are Tacotron 2's at a laptop's size."""

    front_end: FrontEnd = dataclasses.field(default_factory=FrontEnd)
    """The log-mel features that it speaks."""
    vocab_size: int = 0
    """Tokens in the vocabulary; 0: as many as the data has."""
    num_speakers: int = 0
    """Voices; 0: as many as the data has."""
    width: int = 128
    """Size of the encoder's outputs and of the recurrent states (D)."""
    encoder_convolutions: int = 2
    """Convolutions over the token embeddings, below the recurrent layer of the encoder."""
    decoder_layers: int = 1
    """Recurrent layers of the decoder above the one that looks at the text."""
    frames_per_step: int = 2
    """Frames that the decoder speaks at once: more of them learn where to look sooner."""
    prenet_width: int = 64
    """Size of what the decoder is given of the last frame; less than the features, so that it must
    look at the text."""
    prenet_dropout: float = 0.5
    """Share of that dropped in training."""
    synthesis_dropout: bool = False
    """Drop it in synthesis too, as Tacotron 2 does: each time the same text sounds different."""
    attention_width: int = 64
    """Size of the hidden layer that scores where to look."""
    location_width: int = 15
    """Places around one at which it sees where the decoder looked before."""
    location_channels: int = 8
    """Filters over them."""
    postnet_layers: int = 2
    """Convolutions that mend the spoken frames with an eye to those behind."""
    kernel: int = 5
    """Places that a convolution of encoder or postnet looks at."""
    dropout: float = 0.1
    """Share of the other activations dropped in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""

    def resolve(self, *, vocab_size: int, num_speakers: int) -> "AttentionTTSConfig":
        """The config with every 0 filled in, checked.

        Raises UserError naming the option that is out of range, or for fewer tokens or speakers
        than the data has.
        """
        resolved = dataclasses.replace(
            self,
            vocab_size=self.vocab_size or vocab_size,
            num_speakers=self.num_speakers or num_speakers,
        )
        check_front_end(resolved.front_end)
        check_range(
            "model",
            resolved,
            *("width", "encoder_convolutions", "decoder_layers", "frames_per_step"),
            *("prenet_width", "attention_width", "location_width", "location_channels"),
            *("postnet_layers", "kernel"),
            least=1,
        )
        if resolved.width % 2:
            raise UserError(
                f"--model.width {resolved.width} is odd and cannot be halved between the two "
                "directions of the encoder; make it even"
            )
        check_range("model", resolved, "prenet_dropout", "dropout", least=0, below=1)
        check_vocabulary(resolved, vocab_size, of="the data")
        check_vocabulary(resolved, num_speakers, "num_speakers", "the data")
        return resolved

    def build(self, deterministic: bool = True) -> "AttentionTTS":
        """The module; dropout is on where it is not deterministic."""
        return AttentionTTS(self, deterministic)


class Predicted(PyTreeNode):
    """What the model says of frames that it is told one after the other.

    `before` and `after` the postnet; `stop_logits` is the logit of a row's being at an end behind
    frame t. All are 0 behind a row's length.
    """

    before: Float[Array, "B T M"]
    after: Float[Array, "B T M"]
    stop_logits: Float[Array, "B T"]
    alignments: Float[Array, "B T S"]


class Gaze(PyTreeNode):
    """Where the decoder looks: its state, the last context, the sum of the weights so far."""

    state: PyTree
    context: Float[Array, "B D"]
    past: Float[Array, "B S"]


class Speech(PyTreeNode):
    """A row as it is spoken: the number of steps, the states, and the frames so far."""

    step: Int[Array, ""]
    gaze: Gaze
    decoder: PyTree
    last_frame: Float[Array, "B M"]
    frames: Float[Array, "B T M"]
    alignments: Float[Array, "B T S"]
    lengths: Int[Array, "B"]


class AttentionTTS(nn.Module):
    """Log-mel frames of a text in a voice, r = `frames_per_step` at a time.

        m = BiLSTM(convolutions(E[x])) + e[speaker]
        p_k = prenet(last frame of step k - 1), or prenet(0) at first
        h_k = LSTM([p_k; c_{k-1}], h_{k-1})
        c_k, a_k = alignment of h_k with m, which sees the sum of a_1 ... a_{k-1}
        d_k = LSTMs([h_k; c_k], d_{k-1})
        r frames y and r stop logits = W [d_k; c_k] + b
        after = y + postnet(y)

    Tacotron 2 (Shen et al. 2017, arXiv:1712.05884), with LayerNorm for its batch norm, and a
    voice added to what is looked at. Frames should be about 0 on average with variance 1: 0 is what
    stands before the first. It is fed true frames, y_k; `synthesise` feeds its own.

    The prenet drops half of what it lets through (Wang et al. 2017, arXiv:1703.10135), without
    which the decoder learns to continue frames and not to read.

    `config` must be resolved. Token ids and frames in the padding may be anything.
    """

    config: AttentionTTSConfig
    deterministic: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        config = self.config
        width, dtype = config.width, jnp.dtype(config.dtype)
        mels = config.front_end.num_mels

        def convolutions(features: int, num_layers: int) -> ConvolutionStack:
            return ConvolutionStack(
                *(features, num_layers, config.kernel, config.dropout, self.deterministic),
                dtype=dtype,
            )

        self.embedding = Embedding(config.vocab_size, width, init_scale=1.0)
        self.speaker_embedding = Embedding(
            config.num_speakers, width, ("classes", "embed"), init_scale=0.5
        )
        self.convolutions = convolutions(width, config.encoder_convolutions)
        self.encoder = RecurrentStack("lstm", width // 2, bidirectional=True, dtype=dtype)
        hidden = config.prenet_width
        self.prenet_in = Linear(hidden, ("embed", "mlp"), True, (2 / mels) ** 0.5, dtype)
        self.prenet_out = Linear(hidden, ("mlp", "embed"), True, (2 / hidden) ** 0.5, dtype)
        self.attention_cell = LSTM(width, dtype=dtype)
        self.alignment = Alignment(
            *("location", config.attention_width),
            *(config.location_width, config.location_channels, dtype),
        )
        self.decoder = RecurrentStack(
            *("lstm", width, config.decoder_layers),
            dropout_rate=config.dropout,
            deterministic=self.deterministic,
            dtype=dtype,
        )
        outputs = config.frames_per_step * (mels + 1)
        self.frames = Linear(outputs, ("mlp", "embed"), True, (2 * width) ** -0.5, dtype)
        self.postnet = convolutions(width, config.postnet_layers)
        # It starts as next to nothing, so that frames are learned first and then mended.
        scale = 0.1 * width**-0.5
        self.postnet_output = Linear(mels, ("mlp", "embed"), True, scale, dtype)
        self.prenet_drop = nn.Dropout(config.prenet_dropout)
        self.drop = nn.Dropout(config.dropout, deterministic=self.deterministic)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        token_lengths: Int[Array, "B"],
        speakers: Int[Array, "B"],
        log_mels: Float[Array, "B T M"],
        mel_lengths: Int[Array, "B"],
    ) -> Predicted:
        """Each frame from the true frames before it (teacher forcing).

        The alignment of a frame is that of its step. No frame is seen by those before it but
        through the postnet.
        """
        together = self.config.frames_per_step
        memory = self.encode(tokens, token_lengths, speakers)
        num_frames = log_mels.shape[1]
        # The last frame of each step but the last, and nothing before the first.
        given = zero_padding(log_mels, mel_lengths)[:, together - 1 : -1 : together]
        given = jnp.pad(given, ((0, 0), (1, 0), (0, 0)))
        looks = nn.scan(
            AttentionTTS._look,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=(1, nn.broadcast),
            out_axes=1,
        )
        x = self._prenet(given, self.deterministic)
        _, (seen, weights) = looks(self, self._first_gaze(memory), x, memory)
        hidden, _ = self.decoder(seen)
        before, stop_logits = self._speak(hidden, seen)
        before = zero_padding(before[:, :num_frames], mel_lengths)
        valid = valid_steps_of(before, mel_lengths)
        weights = jnp.repeat(weights, together, axis=1)[:, :num_frames]
        return Predicted(
            before,
            self._mend(before, mel_lengths),
            jnp.where(valid, stop_logits[:, :num_frames], 0),
            jnp.where(valid[..., None], weights, 0),
        )

    def encode(
        self, tokens: Int[Array, "B S"], token_lengths: Int[Array, "B"], speakers: Int[Array, "B"]
    ) -> Memory:
        """What the decoder looks at."""
        valid = valid_steps_of(tokens, token_lengths)
        x = self.drop(self.embedding(jnp.where(valid, tokens, 0)))
        y, _ = self.encoder(self.convolutions(x, token_lengths), None, token_lengths)
        y = self.drop(y) + self.speaker_embedding(speakers)[:, None]
        return self.alignment.project(y, token_lengths)

    def synthesise(
        self,
        tokens: Int[Array, "B S"],
        token_lengths: Int[Array, "B"],
        speakers: Int[Array, "B"],
        max_frames: int,
    ) -> Spoken:
        """Each frame from those before it that the model spoke itself.

        A row ends with the first frame whose stop logit is above 0, and with `max_frames` at the
        latest; one without tokens has none. Rows are spoken until the last of them is at its end.
        Needs the key "dropout" where the config has `synthesis_dropout`.
        """
        together = self.config.frames_per_step
        memory = self.encode(tokens, token_lengths, speakers)
        batch, num_tokens = tokens.shape
        steps = -(-max_frames // together)
        mels, dtype = self.config.front_end.num_mels, memory.values.dtype
        silence = self.deterministic and not self.config.synthesis_dropout

        def goes_on(_, speech):
            return (speech.lengths > speech.step * together).any()

        def go_on(model, speech):
            x = model._prenet(speech.last_frame, silence)
            gaze, (seen, weights) = model._look(speech.gaze, x, memory)
            hidden, decoder = model.decoder.step(seen, speech.decoder)
            frames, stop_logits = model._speak(hidden[:, None], seen[:, None])
            start = speech.step * together
            ends = jnp.where(stop_logits > 0, start + jnp.arange(together)[None] + 1, max_frames)
            weights = jnp.broadcast_to(weights[:, None], (batch, together, num_tokens))
            return Speech(
                speech.step + 1,
                gaze,
                decoder,
                frames[:, -1],
                lax.dynamic_update_slice_in_dim(speech.frames, frames, start, 1),
                lax.dynamic_update_slice_in_dim(speech.alignments, weights, start, 1),
                jnp.minimum(speech.lengths, ends.min(axis=1)),
            )

        speech = Speech(
            jnp.int32(0),
            self._first_gaze(memory),
            self.decoder.zero_carry(batch),
            jnp.zeros((batch, mels), dtype),
            jnp.zeros((batch, steps * together, mels), dtype),
            jnp.zeros((batch, steps * together, num_tokens), dtype),
            jnp.where(token_lengths > 0, max_frames, 0),
        )
        speech = nn.while_loop(
            *(goes_on, go_on, self, speech), split_rngs={"params": False, "dropout": True}
        )
        lengths = speech.lengths
        before = zero_padding(speech.frames[:, :max_frames], lengths)
        alignments = zero_padding(speech.alignments[:, :max_frames], lengths)
        return Spoken(self._mend(before, lengths), lengths, alignments)

    def _first_gaze(self, memory: Memory) -> Gaze:
        batch, length, width = memory.values.shape
        zeros = jnp.zeros((batch, width + length), memory.values.dtype)
        return Gaze(self.attention_cell.zero_carry(batch), zeros[:, :width], zeros[:, width:])

    def _prenet(self, frame: Array, deterministic: bool) -> Array:
        for layer in (self.prenet_in, self.prenet_out):
            frame = self.prenet_drop(gelu(layer(frame)), deterministic=deterministic)
        return frame

    def _look(self, gaze: Gaze, x: Array, memory: Memory) -> tuple[Gaze, tuple[Array, Array]]:
        """The next gaze, and what is seen: (state and context, weights)."""
        x = jnp.concatenate([x, gaze.context], axis=-1)
        hidden, state = self.attention_cell.step(x, gaze.state)
        context, weights, past = self.alignment.step(hidden, memory, gaze.past)
        seen = jnp.concatenate([hidden, context], axis=-1)
        return Gaze(state, context, past), (seen, weights)

    def _speak(self, hidden: Array, seen: Array) -> tuple[Array, Array]:
        """Frames (B, K r, M) and stop logits (B, K r) of K steps."""
        context = seen[..., self.config.width :]
        y = self.frames(jnp.concatenate([self.drop(hidden), context], axis=-1))
        y = y.reshape(y.shape[0], -1, self.config.front_end.num_mels + 1)
        return y[..., :-1], y[..., -1]

    def _mend(self, before: Array, lengths: Array) -> Array:
        y = self.postnet_output(self.postnet(before, lengths))
        return before + zero_padding(y, lengths)
