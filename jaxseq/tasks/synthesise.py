"""Speech synthesis: a waveform for every text, in the voice asked for."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data.audio import write_wav
from jaxseq.data.ragged import collate, room
from jaxseq.data.speech import SpeechCoder
from jaxseq.errors import UserError
from jaxseq.models import attention_tts, duration_tts
from jaxseq.models.attention_tts import AttentionTTSConfig
from jaxseq.models.duration_tts import DurationTTSConfig
from jaxseq.models.spoken import Spoken
from jaxseq.ops.griffin_lim import griffin_lim
from jaxseq.ops.guided_attention import diagonality
from jaxseq.ops.padding import zero_padding
from jaxseq.ops.spectral import FrontEnd, log_mel, mel_cepstra, mel_to_magnitudes
from jaxseq.option_checks import check_range
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.lines import GROUP, grouped, numbered_groups
from jaxseq.tasks.spectrograms import draw_spectrograms
from jaxseq.tasks.speech_metrics import mel_cepstral_distortion
from jaxseq.tasks.spoken_files import write_utterance
from jaxseq.tasks.synthesis_losses import (
    Targets,
    attention_losses,
    duration_losses,
    mel_errors,
)
from jaxseq.tasks.utterances import Request, Utterance, between_silences, read_request
from jaxseq.typing import Array, Float, Int, Key, PyTree

SynthesiserConfig = AttentionTTSConfig | DurationTTSConfig
Predicted = attention_tts.Predicted | duration_tts.Predicted

FOLDER = "speech"
"""Where in the run directory `show` leaves sound and pictures."""


def vocode(
    log_mels: Float[Array, "B T M"], lengths: Int[Array, "B"], front_end: FrontEnd, steps: int
) -> tuple[Float[Array, "B n"], Int[Array, "B"]]:
    """Waveforms of log-mel frames, and the samples of each row: `lengths` counts frames.

    The mel filters are undone first, then phases are found in `steps` of Griffin-Lim. Of the
    frames of recordings this is copy synthesis, the best that a synthesiser can sound.
    """
    return griffin_lim(mel_to_magnitudes(log_mels, front_end), lengths, front_end, steps)


@dataclasses.dataclass(frozen=True)
class Synthesise:
    """A batch holds what `SpeechCoder.example` makes of an utterance, with a leading batch axis.

    Models see the tokens of `between_silences` and features z = (log-mel - mel_mean) / mel_scale.
    """

    answer: ClassVar[str] = "file"
    writes_files: ClassVar[bool] = True
    """`predict` takes the folder where sound is to go."""

    mel_mean: float = -6.0
    """What is subtracted from log-mel features, so that they are about 0."""
    mel_scale: float = 2.0
    """What they are then divided by, so that their variance is about 1."""
    guide: float = 5.0
    """Weight of the loss for looking away from the diagonal (recurrent model)."""
    stop_weight: float = 5.0
    """Weight of an utterance's last frame in the loss of the stop token (recurrent model)."""
    duration_weight: float = 1.0
    """Weight of the loss of durations (Transformer)."""
    align_weight: float = 0.1
    """Weight of the loss of the aligner (Transformer)."""
    max_frames_per_token: int = 24
    """Frames that a text may take for each token: speech that does not end by itself ends there."""
    griffin_lim_steps: int = 60
    """Steps in which the phases of a waveform are found."""

    def resolve(
        self, model: SynthesiserConfig, data: Any, tokenizer: SpeechCoder
    ) -> SynthesiserConfig:
        """The model's config with vocabulary and speakers filled in; UserError for a bad option."""
        weights = ("guide", "stop_weight", "duration_weight", "align_weight")
        check_range("task", self, *weights, least=0)
        check_range("task", self, "max_frames_per_token", "griffin_lim_steps", least=1)
        check_range("task", self, "mel_scale", above=0)
        if model.front_end.rate != tokenizer.rate:
            raise UserError(
                f"--model.front-end.rate is {model.front_end.rate} and the data has "
                f"{tokenizer.rate} samples a second; make them equal"
            )
        return model.resolve(vocab_size=len(tokenizer.labels), num_speakers=len(tokenizer.speakers))

    def init(self, model: SynthesiserConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        one = jnp.ones((1,), jnp.int32)
        mels = jnp.zeros((1, 2, model.front_end.num_mels))
        return model.build().init(key, one[None], one, one - 1, mels, 2 * one)["params"]

    def loss(
        self,
        model: SynthesiserConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(sum of `tasks.synthesis_losses` over utterances, frames in them)."""
        targets = self._targets(model, batch)
        predicted = self._predict(model, params, batch, targets, dropout_key)
        losses = self._losses(predicted, targets)
        return losses.sum(), targets.frames.sum().astype(losses.dtype)

    def evaluator(self, model: SynthesiserConfig, tokenizer: SpeechCoder) -> Evaluator:
        """(params, batch) -> of each utterance: loss, frames, and how what is spoken compares."""

        @jax.jit
        def compare(params: PyTree, batch: dict[str, Array]) -> tuple[dict[str, Array], tuple]:
            targets = self._targets(model, batch)
            predicted = self._predict(model, params, batch, targets)
            spoken = self._speak(model, params, batch)
            if isinstance(predicted, duration_tts.Predicted):  # what it speaks is always in order
                looks, looking = jax.nn.softmax(predicted.soft), targets.frames
            else:
                looks, looking = spoken.alignments, spoken.lengths
            counts = {
                "loss": self._losses(predicted, targets),
                "mel_error": self.mel_scale * mel_errors(_told(predicted), targets),
                "frames": targets.frames,
                "spoken_frames": spoken.lengths,
                "diagonality": diagonality(looks, looking, targets.tokens),
                "utterances": targets.frames > 0,
            }
            real = mel_cepstra(self._natural(targets.log_mels, targets.frames))
            return counts, (mel_cepstra(spoken.log_mels), spoken.lengths, real, targets.frames)

        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Any]:
            counts, sides = compare(params, batch)
            found = [
                mel_cepstral_distortion(spoken[:length], real[:frames]) if frames else (0.0, 0)
                for spoken, length, real, frames in zip(*jax.device_get(sides), strict=True)
            ]
            distortions, paths = zip(*found, strict=True)
            return counts | {
                "distortion": np.array(distortions, np.float32),
                "path": np.array(paths, np.int32),
            }

        return contributions

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = `loss` a frame; mel_error = nats between log-mels, told the recording's frames
        before or its durations; mel_cepstral_distortion = dB between speech that is told nothing
        and the recording, warped on it; diagonality = of attention in speaking, or of the aligner
        on recordings; length_ratio = frames spoken per frame recorded.
        """
        return {
            "loss": totals["loss"] / totals["frames"],
            "mel_error": totals["mel_error"] / totals["frames"],
            "mel_cepstral_distortion": totals["distortion"] / max(totals["path"], 1),
            "diagonality": totals["diagonality"] / totals["utterances"],
            "length_ratio": totals["spoken_frames"] / totals["frames"],
            "utterances": int(totals["utterances"]),
        }

    def predict(
        self,
        model: SynthesiserConfig,
        params: PyTree,
        tokenizer: SpeechCoder,
        lines: Iterable[str],
        folder: Path = Path(),
    ) -> Iterator[dict[str, Any]]:
        """{"text", "speaker", "file", "seconds"} for each line `TEXT` or `SPEAKER: TEXT`.

        `folder` gets a WAV file for each; numerals are read digit by digit. Raises UserError that
        names the line for an unknown speaker or symbol, and for a line without a text.
        """
        groups = (
            [read_request(line, tokenizer, f"line {number}") for number, line in group]
            for group in numbered_groups(lines)
        )
        folder.mkdir(parents=True, exist_ok=True)
        said = self.utterances(model, params, groups)
        for number, (request, utterance) in enumerate(said, start=1):
            words = re.sub(r"[^a-z0-9]+", "-", request.text.lower()).strip("-")
            file = folder / f"{number:04}-{words[:40]}.wav"
            write_wav(file, utterance.samples, model.front_end.rate)
            yield {
                "text": request.text,
                "speaker": tokenizer.speakers[request.speaker],
                "file": str(file),
                "seconds": _seconds(utterance.samples, model),
            }

    def show(
        self,
        model: SynthesiserConfig,
        params: PyTree,
        tokenizer: SpeechCoder,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints what is spoken; its sound, spectrograms and alignments go to `folder`/speech."""
        folder = folder / FOLDER
        folder.mkdir(exist_ok=True)
        requests = [read_request(line, tokenizer, "a held-out input") for line in inputs]
        said = self.utterances(model, params, grouped(requests))
        for number, (request, utterance) in enumerate(said, start=1):
            files = write_utterance(
                folder, f"{number:04}", model.front_end, tokenizer, request, utterance
            )
            seconds = _seconds(utterance.samples, model)
            print(f"{request.text}  ->  {folder / files['audio']} ({seconds:.2f} s)")

    def examples(
        self,
        model: SynthesiserConfig,
        params: PyTree,
        tokenizer: SpeechCoder,
        batch: dict[str, np.ndarray],
        folder: Path,
    ) -> list[dict[str, Any]]:
        """What is spoken of the texts of a batch, and the recordings of the same."""
        requests = []
        for labels, count, speaker in zip(
            *(batch[name] for name in ("labels", "label_lengths", "speakers")), strict=True
        ):
            if count:
                text = tokenizer.text(labels[:count])
                requests.append(Request(text, int(speaker), labels[:count]))
        mels, frames = jax.jit(partial(log_mel, front_end=model.front_end))(
            *(jnp.asarray(batch[name]) for name in ("samples", "lengths"))
        )
        real = [row for row, count in enumerate(batch["label_lengths"]) if count]
        found = []
        folder.mkdir(parents=True, exist_ok=True)
        said = self.utterances(model, params, grouped(requests))
        for number, (row, (request, utterance)) in enumerate(zip(real, said, strict=True), start=1):
            name = f"{number:04}"
            files = write_utterance(folder, name, model.front_end, tokenizer, request, utterance)
            files |= {
                "reference_audio": f"{name}-recorded.wav",
                "reference_spectrogram": f"{name}-recorded.png",
            }
            samples = batch["samples"][row][: batch["lengths"][row]]
            recorded = np.asarray(mels[row][: frames[row]])
            write_wav(folder / files["reference_audio"], samples, model.front_end.rate)
            picture = folder / files["reference_spectrogram"]
            draw_spectrograms([(recorded, "")], model.front_end, picture)
            total, path = mel_cepstral_distortion(_cepstra(utterance.log_mels), _cepstra(recorded))
            found.append(
                {
                    "input": f"{tokenizer.speakers[request.speaker]}: {request.text}",
                    "output": f"{_seconds(utterance.samples, model):.2f} s of speech",
                    "mel_cepstral_distortion": round(total / path, 2),
                    "files": files,
                }
            )
        return found

    def utterances(
        self, model: SynthesiserConfig, params: PyTree, groups: Iterable[list[Request]]
    ) -> Iterator[tuple[Request, Utterance]]:
        """Yield each request, in order, with what is made of it; groups are of `tasks.lines`."""

        @jax.jit
        def speak(params: PyTree, batch: dict[str, Array]) -> tuple[Array, ...]:
            said = self._speak(model, params, batch)
            steps = self.griffin_lim_steps
            sound = vocode(said.log_mels, said.lengths, model.front_end, steps)
            return *sound, said.log_mels, said.lengths, said.alignments

        for group in groups:
            examples = [
                {
                    "labels": request.labels,
                    "label_lengths": np.array(len(request.labels), np.int32),
                    "speakers": np.array(request.speaker, np.int32),
                }
                for request in group
            ]
            batch = collate(examples, GROUP, room(examples))
            found = jax.device_get(speak(params, batch))
            for request, samples, size, mels, frames, looks in zip(group, *found, strict=False):
                looks = looks[:frames, : len(request.labels) + 2]
                yield request, Utterance(samples[:size], mels[:frames], looks)

    def _targets(self, model: SynthesiserConfig, batch: dict[str, Array]) -> Targets:
        """What the recordings of a batch sound like, in the models' scale."""
        mels, frames = log_mel(batch["samples"], batch["lengths"], model.front_end)
        tokens = jnp.where(frames > 0, batch["label_lengths"] + 2, 0)
        return Targets((mels - self.mel_mean) / self.mel_scale, frames, tokens)

    def _natural(
        self, log_mels: Float[Array, "B T M"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B T M"]:
        """Log-mels of the models' scale in nats."""
        return zero_padding(log_mels * self.mel_scale + self.mel_mean, lengths)

    def _predict(
        self,
        model: SynthesiserConfig,
        params: PyTree,
        batch: dict[str, Array],
        targets: Targets,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Predicted:
        """What the model says of recordings that it is told."""
        tokens, lengths = between_silences(batch["labels"], batch["label_lengths"])
        predicted = model.build(deterministic=dropout_key is None).apply(
            {"params": params},
            *(tokens, lengths, batch["speakers"], targets.log_mels, targets.frames),
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        assert isinstance(predicted, Predicted)  # apply is typed for modules that return anything
        return predicted

    def _losses(self, predicted: Predicted, targets: Targets) -> Float[Array, "B"]:
        if isinstance(predicted, duration_tts.Predicted):
            weights = {"duration_weight": self.duration_weight, "align_weight": self.align_weight}
            return duration_losses(predicted, targets, **weights)
        weights = {"guide": self.guide, "stop_weight": self.stop_weight}
        return attention_losses(predicted, targets, **weights)

    def _speak(self, model: SynthesiserConfig, params: PyTree, batch: dict[str, Array]) -> Spoken:
        """What is made of the texts of a batch, its log-mels in nats."""
        tokens, lengths = between_silences(batch["labels"], batch["label_lengths"])
        module = model.build()
        spoken = module.apply(
            {"params": params},
            *(tokens, lengths, batch["speakers"], self.max_frames_per_token * tokens.shape[1]),
            method=module.synthesise,
            rngs={"dropout": jax.random.key(0)},
        )
        assert isinstance(spoken, Spoken)  # apply is typed for modules that return anything
        return spoken.replace(log_mels=self._natural(spoken.log_mels, spoken.lengths))


def _told(predicted: Predicted) -> Float[Array, "B T M"]:
    is_at_once = isinstance(predicted, duration_tts.Predicted)
    return predicted.log_mels if is_at_once else predicted.after


def _cepstra(log_mels: np.ndarray) -> np.ndarray:
    return np.asarray(mel_cepstra(jnp.asarray(log_mels)[None])[0])


def _seconds(samples: np.ndarray, model: SynthesiserConfig) -> float:
    return round(len(samples) / model.front_end.rate, 3)
