"""From a waveform to the vectors that a recogniser's encoder reads, whole or as it is heard."""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.struct import PyTreeNode
from jax import lax

from jaxseq.nn.convolution import Subsampling
from jaxseq.ops.frame_normalization import (
    RunningMoments,
    no_moments,
    standardise_running,
    standardise_utterances,
)
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.spec_augment import spec_augment
from jaxseq.ops.spectral import FrontEnd, deltas, log_mel
from jaxseq.typing import Array, Bool, Float, Int

Normalise = Literal["utterance", "running", "none"]


@dataclasses.dataclass(frozen=True)
class SpecAugment:
    """What is hidden of an utterance in training; see `ops.spec_augment` (arXiv:1904.08779)."""

    time_masks: int = 0
    """Stretches of time that are hidden; 0: none."""
    time_width: int = 10
    """The longest of them, in frames."""
    mel_masks: int = 0
    """Bands of mel filters that are hidden; 0: none."""
    mel_width: int = 8
    """The widest of them, in filters."""

    def check(self) -> None:
        """Raises ValueError, which names the field, for less than nothing."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(
                    f"{field.name} is {getattr(self, field.name)}; it must be at least 0"
                )


class FeatureCarry(PyTreeNode):
    """Where streams of speech stand: chunks heard, how many samples of each row, the last of them.

    A row has ended where it had fewer samples than the chunks could hold.
    """

    chunks: Int[Array, ""]
    heard: Int[Array, "B"]
    samples: Float[Array, "B n"]
    moments: RunningMoments
    convolutions: tuple[Array, ...]


class SpeechFeatures(nn.Module):
    """x = subsampling(normalise(log mel of the waveform)), `subsampling` frames for one of x.

    With `deltas` the first and second differences over time stand beside the features; SpecAugment
    hides parts of them (makes them 0, which is their mean) unless `deterministic`. A `causal` layer
    hears `step` by step what it hears at once; it has no deltas, and does not normalise by what is
    heard later. It does not see the last frames of a row, fewer than `subsampling`.
    """

    front_end: FrontEnd
    features: int
    subsampling: int = 4
    normalise: Normalise = "utterance"
    deltas: bool = False
    augment: SpecAugment = dataclasses.field(default_factory=SpecAugment)
    causal: bool = False
    deterministic: bool = True
    dtype: jnp.dtype | None = None

    def setup(self) -> None:
        """Creates the convolutions."""
        shape = self.features, self.subsampling
        self.convolutions = Subsampling(*shape, self.causal, self.dtype)

    def __call__(
        self, samples: Float[Array, "B n"], lengths: Int[Array, "B"]
    ) -> tuple[Float[Array, "B T D"], Int[Array, "B"]]:
        """The vectors of whole utterances, and how many each row has; `lengths` is in samples."""
        x, frames = log_mel(samples, lengths, self.front_end)
        if self.normalise == "utterance":
            x = standardise_utterances(x, frames)
        elif self.normalise == "running":
            valid = valid_steps(frames, x.shape[1])
            x, _ = standardise_running(x, valid, no_moments(len(x), x.shape[2]))
        masks = self.augment
        if not self.deterministic and (masks.time_masks or masks.mel_masks):
            x = spec_augment(
                x,
                frames,
                self.make_rng("dropout"),
                time_masks=masks.time_masks,
                time_width=masks.time_width,
                mel_masks=masks.mel_masks,
                mel_width=masks.mel_width,
            )
        if self.deltas:
            first = deltas(x, frames)
            x = jnp.concatenate([x, first, deltas(first, frames)], axis=-1)
        x, _, _ = self.convolutions(x, valid_steps(frames, x.shape[1]))
        return x, -(-frames // self.subsampling)

    # --- As it is heard --------------------------------------------------------------------------

    def start(self, batch_size: int) -> FeatureCarry:
        """The carry before the first samples."""
        mels = self.front_end.num_mels
        return FeatureCarry(
            chunks=jnp.int32(0),
            heard=jnp.zeros(batch_size, jnp.int32),
            samples=jnp.zeros((batch_size, self._kept() * self.front_end.hop)),
            moments=no_moments(batch_size, mels),
            convolutions=self.convolutions.start(batch_size, mels),
        )

    def step(
        self, samples: Float[Array, "B n"], lengths: Int[Array, "B"], carry: FeatureCarry
    ) -> tuple[Float[Array, "B T D"], Bool[Array, "B T"], FeatureCarry]:
        """The next vectors, which of them are there, and the new carry.

        n is the same in every call and a multiple of hop x `subsampling`; T is n over that. A row
        ends in the first call that gives it fewer than n samples, 0 perhaps; what calls behind that
        give it is not heard.
        """
        hop, ahead, kept = self.front_end.hop, self.subsampling - 1, self._kept()
        size = samples.shape[1]
        begun = carry.chunks > 0
        goes_on = carry.heard == carry.chunks * size
        lengths = jnp.where(goes_on, lengths, 0).astype(carry.heard.dtype)
        samples = jnp.where(valid_steps(lengths, size), samples, 0)
        heard = carry.heard + lengths

        # A stretch of the waveform with all that the new frames see. At first it begins where the
        # row does, so that it is reflected there; later `kept` frames earlier, for the same reason.
        past = carry.samples.astype(samples.dtype)
        later = jnp.concatenate([past, samples], axis=1)
        first = jnp.concatenate([samples, past], axis=1)
        stretch = jnp.where(begun, later, first)
        x, _ = log_mel(stretch, jnp.where(begun, kept * hop, 0) + lengths, self.front_end)

        # Its last frame is the last that the last vector sees: `ahead` before the next chunk's.
        per_chunk = size // hop
        x = jnp.pad(x, ((0, 0), (ahead, 0), (0, 0)))
        x = lax.dynamic_slice_in_dim(x, jnp.where(begun, kept, 0), per_chunk, axis=1)
        numbers = carry.chunks * per_chunk - ahead + jnp.arange(per_chunk)
        frames = jnp.where(heard > 0, 1 + heard // hop, 0)
        valid = (numbers >= 0)[None] & (numbers[None] < frames[:, None])

        moments = carry.moments
        if self.normalise == "running":
            x, moments = standardise_running(x, valid, moments)
        x, valid, convolutions = self.convolutions(x, valid, carry.convolutions)
        return (
            x,
            valid,
            FeatureCarry(carry.chunks + 1, heard, later[:, size:], moments, convolutions),
        )

    def _kept(self) -> int:
        """Frames from where the kept samples begin to the next chunk."""
        reach = -(-self.front_end.window // (2 * self.front_end.hop))
        return self.subsampling - 1 + reach


def check_stream(
    front_end: FrontEnd, subsampling: int, chunk: int, normalise: Normalise, deltas: bool
) -> None:
    """Raises ValueError for features that cannot be heard `chunk` vectors at a time.

    They may not need what is heard later: the last window of a chunk must end in it. Nor may the
    first window that the second chunk sees begin before the row.
    """
    if deltas:
        raise ValueError("deltas looks ahead")
    if normalise == "utterance":
        raise ValueError("normalise utterance needs all of it")
    reach = front_end.window / (2 * front_end.hop)
    longest = 2 * front_end.hop * subsampling
    if reach > subsampling:
        raise ValueError(
            f"front-end.window {front_end.window}, above {longest} samples, ends behind its chunk"
        )
    if reach > 1 + subsampling * (chunk - 1):
        raise ValueError(f"front-end.window {front_end.window} is longer than a chunk")
