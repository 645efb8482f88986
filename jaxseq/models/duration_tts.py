"""A Transformer that speaks all frames of a text at once: FastSpeech 2 (Ren et al. 2020)."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import lax

from jaxseq.errors import UserError
from jaxseq.models.checks import check_heads, check_vocabulary
from jaxseq.models.spoken import Spoken, check_front_end
from jaxseq.nn.attention import AttentionConfig
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.length_regulator import (
    DurationPredictor,
    frame_alignment,
    places_in_tokens,
    regulate_length,
    whole_durations,
)
from jaxseq.nn.linear import Linear
from jaxseq.nn.normalization import LayerNorm
from jaxseq.nn.speech_aligner import SpeechAligner
from jaxseq.nn.transformer import BlockConfig, StackInputs, stack
from jaxseq.ops.monotonic_alignment import diagonal_prior, monotonic_alignment_search
from jaxseq.ops.padding import valid_steps_of, zero_padding
from jaxseq.ops.positions import Rotary, sinusoidal
from jaxseq.ops.spectral import FrontEnd
from jaxseq.option_checks import check_range
from jaxseq.typing import Array, Float, Int

PLACE_WIDTH = 32
"""Sinusoids that tell a frame its place in its token, counted from either end."""


@dataclasses.dataclass(frozen=True)
class DurationTTSConfig:
    """The architecture. The defaults fit a laptop."""

    front_end: FrontEnd = dataclasses.field(default_factory=FrontEnd)
    """The log-mel features that it speaks."""
    vocab_size: int = 0
    """Tokens in the vocabulary; 0: as many as the data has."""
    num_speakers: int = 0
    """Voices; 0: as many as the data has."""
    encoder_layers: int = 2
    """Blocks over the tokens."""
    decoder_layers: int = 3
    """Blocks over the frames."""
    width: int = 128
    """Size of the residual stream (D)."""
    num_heads: int = 2
    """Attention heads."""
    mlp_hidden: int = 0
    """Width of the feed-forward layer (F); 0: 4 x width."""
    aligner_width: int = 64
    """Size of the codes by which the aligner compares tokens and frames."""
    aligner_kernel: int = 3
    """Frames that the code of one is made of."""
    predictor_kernel: int = 3
    """Tokens that a convolution of the predictor of durations looks at."""
    dropout: float = 0.1
    """Share of activations dropped in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""

    def resolve(self, *, vocab_size: int, num_speakers: int) -> "DurationTTSConfig":
        """The config with every 0 filled in, checked.

        Raises UserError naming the option that is out of range, or for fewer tokens or speakers
        than the data has.
        """
        resolved = dataclasses.replace(
            self,
            vocab_size=self.vocab_size or vocab_size,
            num_speakers=self.num_speakers or num_speakers,
            mlp_hidden=self.mlp_hidden or 4 * self.width,
        )
        check_front_end(resolved.front_end)
        check_range(
            "model",
            resolved,
            *("encoder_layers", "decoder_layers", "width", "num_heads", "mlp_hidden"),
            *("aligner_width", "aligner_kernel", "predictor_kernel"),
            least=1,
        )
        check_heads(resolved)
        if resolved.width // resolved.num_heads % 2:
            raise UserError(
                f"--model.width {self.width} over --model.num-heads {self.num_heads} is an odd "
                "size of a head, which rotary positions cannot turn; make it even"
            )
        check_range("model", resolved, "dropout", least=0, below=1)
        check_vocabulary(resolved, vocab_size, of="the data")
        check_vocabulary(resolved, num_speakers, "num_speakers", "the data")
        return resolved

    def build(self, deterministic: bool = True) -> "DurationTTS":
        """The module; dropout is on where it is not deterministic."""
        return DurationTTS(self, deterministic)


class Predicted(PyTreeNode):
    """What the model says of a recording that it is shown.

    `log_mels` are 0 behind a row's length. `log_durations` are the predictor's log(1 + d) for the
    `durations` d, in frames, that the aligner finds. `soft` are the scores of each
    frame's token that the aligner finds them by, see `nn.speech_aligner`.
    """

    log_mels: Float[Array, "B T M"]
    log_durations: Float[Array, "B S"]
    durations: Int[Array, "B S"]
    soft: Float[Array, "B T S"]


class DurationTTS(nn.Module):
    """Log-mel frames of a text in a voice, all at once.

        e = E[x],   m = norm(blocks(e)) + v[speaker]
        log(1 + d) = predictor(m)
        f = m repeated d times + W [P(frames of its token before), P(frames behind)] + b
        y = W_o norm(blocks(f)) + b_o

    FastSpeech 2 (Ren et al. 2020, arXiv:2006.04558) without its pitch and energy. Blocks are
    `nn.transformer`'s with rotary positions, so that no length is out of reach. P are sinusoids of
    a frame's place in its token, as in Non-Attentive Tacotron (Shen et al. 2020,
    arXiv:2010.04301): a token may be a word of many sounds.

    In training the durations are those of the recording: of all alignments that go through the
    text from its first token to its last, the best under the scores of `nn.speech_aligner` (Badlani
    et al. 2021, arXiv:2108.10447). The gradient of the predictor ends at m (Kim et al. 2020,
    arXiv:2005.11129).

    Frames should be about 0 on average with variance 1. `config` must be resolved. Token ids and
    frames in the padding may be anything.
    """

    config: DurationTTSConfig
    deterministic: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        config = self.config
        width, dtype = config.width, jnp.dtype(config.dtype)
        self.embedding = Embedding(config.vocab_size, width, init_scale=1.0)
        axes = ("classes", "embed")
        self.speaker_embedding = Embedding(config.num_speakers, width, axes, init_scale=0.5)
        self.encoder = self._stack(config.encoder_layers)
        self.encoder_norm = LayerNorm()
        self.aligner = SpeechAligner(config.aligner_width, config.aligner_kernel, dtype)
        self.durations = DurationPredictor(
            width,
            kernel=config.predictor_kernel,
            dropout_rate=config.dropout,
            deterministic=self.deterministic,
            dtype=dtype,
        )
        axes, scale = ("norm", "embed"), (2 * PLACE_WIDTH) ** -0.5
        self.places = Linear(width, axes, True, scale, dtype)
        self.decoder = self._stack(config.decoder_layers)
        self.decoder_norm = LayerNorm()
        mels, axes = config.front_end.num_mels, ("embed", "classes")
        self.output = Linear(mels, axes, True, width**-0.5, dtype)
        self.drop = nn.Dropout(config.dropout, deterministic=self.deterministic)

    def _stack(self, num_layers: int) -> nn.Module:
        config = self.config
        dtype = jnp.dtype(config.dtype)
        attention = AttentionConfig(
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_size=config.width // config.num_heads,
            causal=False,
            rotary=Rotary(),
            dtype=dtype,
        )
        block = BlockConfig(
            attention=attention,
            mlp_hidden=config.mlp_hidden,
            dropout_rate=config.dropout,
            dtype=dtype,
        )
        return stack(block, num_layers, deterministic=self.deterministic)

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        token_lengths: Int[Array, "B"],
        speakers: Int[Array, "B"],
        log_mels: Float[Array, "B T M"],
        mel_lengths: Int[Array, "B"],
    ) -> Predicted:
        """All frames of a recording, given how long each token of it lasts."""
        memory = self._read(tokens, token_lengths, speakers)
        num_frames = log_mels.shape[1]
        soft = self.aligner(
            self.embedding.table,
            tokens,
            token_lengths,
            log_mels,
            mel_lengths,
            diagonal_prior(mel_lengths, token_lengths, num_frames, tokens.shape[1]),
        )
        durations = monotonic_alignment_search(lax.stop_gradient(soft), mel_lengths, token_lengths)
        frames, _ = self._speak(memory, durations, num_frames)
        log_durations = self.durations(lax.stop_gradient(memory), token_lengths)
        return Predicted(frames, log_durations, durations, soft)

    def synthesise(
        self,
        tokens: Int[Array, "B S"],
        token_lengths: Int[Array, "B"],
        speakers: Int[Array, "B"],
        max_frames: int,
    ) -> Spoken:
        """A text as long as the predictor says, cut off at `max_frames`.

        A row without tokens has no frame.
        """
        memory = self._read(tokens, token_lengths, speakers)
        log_durations = self.durations(memory, token_lengths)
        durations = whole_durations(log_durations, token_lengths, max_frames)
        frames, lengths = self._speak(memory, durations, max_frames)
        return Spoken(frames, lengths, frame_alignment(durations, max_frames))

    def _read(self, tokens: Array, token_lengths: Array, speakers: Array) -> Array:
        """What decoder and predictor see of the tokens (B, S, D)."""
        valid = valid_steps_of(tokens, token_lengths)
        x = self.embedding(jnp.where(valid, tokens, 0))
        voice = self.speaker_embedding(speakers)[:, None]
        inputs = StackInputs(jnp.arange(tokens.shape[1])[None], valid.astype(jnp.int32))
        y, _ = self.encoder(self.drop(x), None, None, inputs)
        return zero_padding(self.encoder_norm(y) + voice, token_lengths)

    def _speak(self, memory: Array, durations: Array, num_frames: int) -> tuple[Array, Array]:
        """Frames (B, T, M) and how many of them each row has."""
        x, lengths = regulate_length(memory, durations, num_frames)
        places = [sinusoidal(p, PLACE_WIDTH) for p in places_in_tokens(durations, num_frames)]
        x = x + self.places(jnp.concatenate(places, axis=-1).astype(x.dtype))
        valid = valid_steps_of(x, lengths)
        inputs = StackInputs(jnp.arange(num_frames)[None], valid.astype(jnp.int32))
        y, _ = self.decoder(self.drop(x), None, None, inputs)
        return zero_padding(self.output(self.decoder_norm(y)), lengths), lengths
