"""A recogniser of speech: waveform in, scores of labels in time (CTC) and one by one out."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.struct import PyTreeNode

from jaxseq.errors import UserError
from jaxseq.models.checks import check_heads, check_vocabulary
from jaxseq.models.encoder_decoder import DecoderCarry, Encoded
from jaxseq.nn.attention import AttentionConfig, KVCache
from jaxseq.nn.conformer import (
    ConformerCache,
    ConformerConfig,
    ConformerInputs,
    chunk_mask,
    conformer,
)
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.normalization import LayerNorm
from jaxseq.nn.recurrent import RecurrentStack
from jaxseq.nn.speech_features import (
    FeatureCarry,
    Normalise,
    SpecAugment,
    SpeechFeatures,
    check_stream,
)
from jaxseq.nn.transformer import BlockCache, BlockConfig, StackInputs, stack
from jaxseq.ops.padding import valid_steps, zero_padding
from jaxseq.ops.positions import Rotary
from jaxseq.ops.spectral import FrontEnd
from jaxseq.option_checks import check_range, option
from jaxseq.typing import Array, Bool, Float, Int, PyTree


@dataclasses.dataclass(frozen=True)
class SpeechRecognizerConfig:
    """The architecture. Of the labels, 0 is the blank of CTC, and start and end to the decoder."""

    front_end: FrontEnd = dataclasses.field(default_factory=FrontEnd)
    """How the waveform becomes features."""
    vocab_size: int = 0
    """Labels, the blank among them; 0: as many as the data has."""
    encoder: Literal["bilstm", "lstm", "conformer"] = "bilstm"
    """What reads the features: recurrent both ways or forwards alone, or a Conformer."""
    num_layers: int = 2
    """Layers of the encoder."""
    width: int = 128
    """Size of the encoder's and the decoder's vectors (D)."""
    num_heads: int = 4
    """Attention heads of Conformer and decoder."""
    kernel: int = 15
    """Frames that a Conformer's convolution sees."""
    subsampling: Literal[2, 4] = 4
    """Frames of features for one of the encoder."""
    decoder: Literal["none", "attention"] = "none"
    """What writes labels one by one, beside CTC: a Transformer that looks at the encoder."""
    decoder_layers: int = 1
    """Layers of the decoder."""
    chunk: int = 0
    """Frames of the encoder that it hears at once as speech comes in; 0: whole utterances."""
    left_chunks: int = 4
    """Chunks before its own that a Conformer's frame looks at."""
    deltas: bool = False
    """First and second differences over time beside the features."""
    normalise: Normalise = "utterance"
    """Mean and variance of each feature made 0 and 1: over the utterance, over what was heard so
    far (running), or as they are."""
    spec_augment: SpecAugment = dataclasses.field(default_factory=SpecAugment)
    """What of the features is hidden in training."""
    dropout: float = 0.1
    """Share of activations dropped in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""

    def resolve(self, *, vocab_size: int) -> "SpeechRecognizerConfig":
        """The config with every 0 filled in, checked.

        Raises UserError naming the option for sizes or options that do not fit together, or a
        vocabulary smaller than the data's.
        """
        resolved = dataclasses.replace(self, vocab_size=self.vocab_size or vocab_size)
        for field in ("front_end", "spec_augment"):
            try:
                getattr(self, field).check()
            except ValueError as error:
                raise UserError(f"{option('model', field)}: {error}") from error
        check_range(
            "model",
            resolved,
            *("num_layers", "width", "num_heads", "kernel", "decoder_layers"),
            least=1,
        )
        check_range("model", resolved, "dropout", least=0, below=1)
        check_vocabulary(resolved, vocab_size, "vocab_size", "the data")
        if resolved.vocab_size < 2:
            raise UserError("--model.vocab-size: there must be a label beside the blank")
        if self.encoder == "bilstm" and self.width % 2:
            raise UserError(
                f"--model.width {self.width} is odd and cannot be halved between the two "
                "directions of --model.encoder bilstm; make it even"
            )
        if self.encoder == "conformer" or self.decoder == "attention":
            check_heads(resolved)
            if self.width // self.num_heads % 2:
                raise UserError(
                    f"--model.width {self.width} over --model.num-heads {self.num_heads} gives "
                    "heads of an odd size; rotary positions need an even one"
                )
        check_range("model", self, "chunk", "left_chunks", least=0)
        if self.chunk:
            self._check_streaming()
        return resolved

    def _check_streaming(self) -> None:
        try:
            if self.encoder == "bilstm":
                raise ValueError("encoder bilstm hears backwards")
            check_stream(self.front_end, self.subsampling, self.chunk, self.normalise, self.deltas)
        except ValueError as error:
            raise UserError(
                f"with --model.chunk {self.chunk} speech is recognised as it comes in, but "
                f"--model.{error}; change it or give --model.chunk 0"
            ) from error

    @property
    def stream_samples(self) -> int:
        """Samples of each chunk that `SpeechRecognizer.stream_step` is given."""
        return self.chunk * self.subsampling * self.front_end.hop

    def build(self, deterministic: bool = True) -> "SpeechRecognizer":
        """The module; dropout and SpecAugment are on where it is not deterministic."""
        return SpeechRecognizer(self, deterministic)


class Recognized(PyTreeNode):
    """Scores of labels at each frame, how many frames, and scores of each next target label."""

    logits: Float[Array, "B T V"]
    lengths: Int[Array, "B"]
    target_logits: Float[Array, "B N V"] | None = None


class StreamCarry(PyTreeNode):
    """Where a recogniser stands in streams of speech.

    `encoder` holds the states of the LSTM; or the Conformer's caches, and `slots` says which of
    the steps in them are there.
    """

    features: FeatureCarry
    encoder: PyTree
    slots: Bool[Array, "B S"]


class SpeechRecognizer(nn.Module):
    """Labels of speech by CTC, and by a decoder with attention (Watanabe et al. 2017).

        x = features(samples)                       log-mel, convolutions: `nn.speech_features`
        m = encoder(x)                              BiLSTM, LSTM or Conformer
        logits = W m + b                            for CTC, at every frame
        target_logits = W_y decoder(E[y_0 ... y_{n-1}], m) + b_y

    One encoder learns from both losses (Kim, Hori and Watanabe 2017, arXiv:1609.06773). With a
    chunk it hears nothing later than the chunk that it is in, and `stream_step` gives, chunk by
    chunk, the logits that a call gives of the whole utterance.

    `config` must be resolved. Samples behind their length may be anything, and a length may be 0.
    `scan_layers=False` is the same model for decoding (`decoding.cache.layer_by_layer`).
    """

    config: SpeechRecognizerConfig
    deterministic: bool = True
    scan_layers: bool = True

    def setup(self) -> None:
        """Creates the layers."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        self.features = SpeechFeatures(
            config.front_end,
            config.width,
            config.subsampling,
            config.normalise,
            config.deltas,
            config.spec_augment,
            causal=config.chunk > 0,
            deterministic=self.deterministic,
            dtype=dtype,
        )
        if config.encoder == "conformer":
            block = ConformerConfig(
                self._attention(causal=False),
                mlp_hidden=4 * config.width,
                kernel=config.kernel,
                causal=config.chunk > 0,
                dropout_rate=config.dropout,
                dtype=dtype,
            )
            self.conformer = conformer(block, config.num_layers, deterministic=self.deterministic)
        else:
            ways = 2 if config.encoder == "bilstm" else 1
            self.recurrent = RecurrentStack(
                "lstm",
                config.width // ways,
                config.num_layers,
                bidirectional=ways == 2,
                dropout_rate=config.dropout,
                deterministic=self.deterministic,
                dtype=dtype,
            )
        self.drop = nn.Dropout(config.dropout, deterministic=self.deterministic)
        self.output = Linear(config.vocab_size, ("embed", "vocab"), dtype=dtype)
        if config.decoder == "attention":
            block = BlockConfig(
                self._attention(causal=True),
                mlp_hidden=4 * config.width,
                cross_attention=True,
                dropout_rate=config.dropout,
                dtype=dtype,
            )
            self.target_embedding = Embedding(config.vocab_size, config.width)
            self.decoder = stack(
                block,
                config.decoder_layers,
                deterministic=self.deterministic,
                scan=self.scan_layers,
            )
            self.decoder_norm = LayerNorm()
            self.target_output = Linear(config.vocab_size, ("embed", "vocab"), dtype=dtype)

    def _attention(self, *, causal: bool) -> AttentionConfig:
        config = self.config
        return AttentionConfig(
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_size=config.width // config.num_heads,
            causal=causal,
            rotary=Rotary(),
            dropout_rate=config.dropout,
            dtype=jnp.dtype(config.dtype),
        )

    def __call__(
        self,
        samples: Float[Array, "B n"],
        lengths: Int[Array, "B"],
        target_inputs: Int[Array, "B N"] | None = None,
        target_lengths: Int[Array, "B"] | None = None,
    ) -> Recognized:
        """Scores for CTC and, given `target_inputs`, of the label after each of them.

        The inputs are the start label 0 and the labels without the end; from `target_lengths` (all
        are valid) on they may be anything and target logits are 0, as logits are behind their
        lengths. Raises ValueError for inputs without a decoder.
        """
        memory, frames = self.hear(samples, lengths)
        logits = self.ctc(memory, frames)
        if self.config.decoder == "none":
            if target_inputs is not None:
                raise ValueError('target_inputs: the model has no decoder (decoder="none")')
            return Recognized(logits, frames)
        if target_inputs is None:
            if not self.is_initializing():
                return Recognized(logits, frames)
            target_inputs = jnp.zeros((len(samples), 1), jnp.int32)
        if target_lengths is None:
            target_lengths = jnp.full(len(samples), target_inputs.shape[1])
        valid = valid_steps(target_lengths, target_inputs.shape[1])
        x, _ = self._write(
            jnp.where(valid, target_inputs, 0),
            None,
            jnp.int32(0),
            segments=valid.astype(jnp.int32),
            memory=memory,
            memory_mask=valid_steps(frames, memory.shape[1]),
        )
        return Recognized(logits, frames, zero_padding(x, target_lengths))

    def hear(
        self, samples: Float[Array, "B n"], lengths: Int[Array, "B"]
    ) -> tuple[Float[Array, "B T D"], Int[Array, "B"]]:
        """The encoder's output, which in the padding means nothing, and its lengths in frames."""
        x, frames = self.features(samples, lengths)
        x = self.drop(x)
        if self.config.encoder != "conformer":
            x, _ = self.recurrent(x, None, frames)
            return self.drop(x), frames
        steps, mask = x.shape[1], None
        if self.config.chunk:
            mask = chunk_mask(steps, self.config.chunk, self.config.left_chunks)
        inputs = ConformerInputs(jnp.arange(steps)[None], valid_steps(frames, steps), mask)
        return self.conformer(x, None, inputs)[0], frames

    def ctc(self, memory: Float[Array, "B T D"], frames: Int[Array, "B"]) -> Float[Array, "B T V"]:
        """The logits of labels and blank at every frame of the output of `hear`; 0 behind them."""
        return zero_padding(self.output(memory), frames)

    # --- The decoder, label by label -------------------------------------------------------------

    def encode(self, samples: Float[Array, "B n"], lengths: Int[Array, "B"]) -> Encoded:
        """What decoding an utterance needs of it; `remember` for one that was heard already."""
        return self.remember(*self.hear(samples, lengths))

    def remember(self, memory: Float[Array, "B T D"], frames: Int[Array, "B"]) -> Encoded:
        """What decoding needs of the output of `hear`. Needs `scan_layers=False`."""
        mask, batch = valid_steps(frames, memory.shape[1]), len(memory)
        # Reading no label at all fills the caches with the keys and values of the memory.
        nothing, caches = jnp.zeros((batch, 0), jnp.int32), map(BlockCache, self._caches(batch, 1))
        where = {"memory": memory, "memory_mask": mask}
        _, written = self._write(nothing, tuple(caches), jnp.int32(0), **where)
        return Encoded(tuple(cache.memory for cache in written), mask)

    def start(self, encoded: Encoded, max_length: int) -> DecoderCarry:
        """The carry before the first of at most `max_length` labels."""
        batch = len(encoded.mask)
        return DecoderCarry(self._caches(batch, max_length), jnp.zeros(batch, jnp.int32))

    def decode_step(
        self, tokens: Int[Array, "B"], carry: DecoderCarry, encoded: Encoded
    ) -> tuple[Float[Array, "B V"], None, DecoderCarry]:
        """Logits of the label after `tokens`, and the next carry. All rows have one length.

        Needs `scan_layers=False`, like `encode`.
        """
        caches = tuple(map(BlockCache, carry.own, encoded.memory))
        where = {"memory_mask": encoded.mask}
        logits, caches = self._write(tokens[:, None], caches, carry.length[0], **where)
        own = tuple(cache.own for cache in caches)
        return logits[:, 0], None, DecoderCarry(own, carry.length + 1)

    def _caches(self, batch: int, slots: int) -> tuple[KVCache, ...]:
        config = self.config
        shape = batch, slots, config.num_heads, config.width // config.num_heads
        zeros = jnp.zeros(shape, config.dtype)
        return (KVCache(zeros, zeros),) * config.decoder_layers

    def _write(self, tokens, caches, start, **inputs):
        positions = (start + jnp.arange(tokens.shape[1]))[None]
        cache_length = None if caches is None else start
        inputs = StackInputs(positions, cache_length=cache_length, **inputs)
        x, caches = self.decoder(self.drop(self.target_embedding(tokens)), caches, None, inputs)
        return self.target_output(self.drop(self.decoder_norm(x))), caches

    # --- Speech as it comes in -------------------------------------------------------------------

    def stream_start(self, batch_size: int) -> StreamCarry:
        """The carry before the first samples; ValueError without a chunk."""
        config = self.config
        if not config.chunk:
            raise ValueError("chunk: without one the model hears whole utterances alone")
        slots = config.left_chunks * config.chunk
        if config.encoder == "lstm":
            encoder = self.recurrent.zero_carry(batch_size)
        else:
            layers = config.num_layers, batch_size
            shape = *layers, slots, config.num_heads, config.width // config.num_heads
            keys = KVCache(jnp.zeros(shape), jnp.zeros(shape))
            encoder = ConformerCache(keys, jnp.zeros((*layers, config.kernel - 1, config.width)))
        heard = jnp.zeros((batch_size, slots), bool)
        return StreamCarry(self.features.start(batch_size), encoder, heard)

    def stream_step(
        self,
        samples: Float[Array, "B n"],
        carry: StreamCarry,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Recognized, StreamCarry]:
        """The scores of the next frames for CTC, and the new carry.

        n is the config's `stream_samples`, and the frames are `chunk` or, where a row ends, fewer.
        It ends in the first call whose `lengths` (None: n) has less than n samples for it, 0
        perhaps: only then are its last frames certain. Raises ValueError for another n.
        """
        config = self.config
        if samples.shape[1] != config.stream_samples:
            raise ValueError(
                f"samples: a chunk has {config.stream_samples} of them, not {samples.shape[1]}"
            )
        if lengths is None:
            lengths = jnp.full(len(samples), samples.shape[1])
        number = carry.features.chunks
        x, valid, features = self.features.step(samples, lengths, carry.features)
        frames, slots = valid.sum(axis=1), carry.slots
        if config.encoder == "lstm":
            x, encoder = self.recurrent(x, carry.encoder, frames)
        else:
            slots = jnp.concatenate([slots, valid], axis=1)
            positions = (number * config.chunk + jnp.arange(config.chunk))[None]
            inputs = ConformerInputs(positions, valid, slots=slots)
            x, encoder = self.conformer(x, carry.encoder, inputs)
            slots = slots[:, config.chunk :]
        return Recognized(self.ctc(x, frames), frames), StreamCarry(features, encoder, slots)
