"""Recognising speech: what is said in a waveform."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data.audio import write_wav
from jaxseq.data.ragged import collate, room
from jaxseq.data.speech import Clip, SpeechCoder, read_clip
from jaxseq.decoding.ctc import ctc_greedy, ctc_prefix_beam
from jaxseq.decoding.ngram import LARGEST, NGram
from jaxseq.decoding.transcribe import transcribe
from jaxseq.errors import UserError
from jaxseq.models.speech_recognizer import Recognized, SpeechRecognizerConfig
from jaxseq.ops.ctc import ctc_loss
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.padding import valid_steps
from jaxseq.option_checks import check_range
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.lines import GROUP, grouped
from jaxseq.tasks.spectrograms import draw_spectrograms, spectrogram
from jaxseq.tasks.word_errors import alignment, count_errors
from jaxseq.typing import Array, Bool, Float, Int, Key, PyTree

PICTURE = "spectrograms.png"
_BLANK_START = 4.0
"""Logit of the blank above those of the labels, at first."""
_CONFUSED = 50
"""Labels up to which a table of what was heard as what can be read."""


@dataclasses.dataclass(frozen=True)
class Recognise:
    """A batch holds what `SpeechCoder.example` makes of an utterance, with a leading batch axis."""

    answer: ClassVar[str] = "text"

    decoding: Literal["greedy", "beam", "attention"] = "greedy"
    """How labels are found: of the likeliest path of CTC, by a beam over prefixes, or by a beam of
    the attention decoder, ranked by CTC too."""
    beam_size: int = 8
    """Hypotheses kept in both beams."""
    language_model_order: int = 0
    """Labels, the next one included, that the language model of the beam over prefixes looks at; it
    is fitted to transcripts of training. 0: no language model."""
    language_model_weight: float = 0.5
    """Weight of the language model's log-probability."""
    label_bonus: float = 0.0
    """What the beam over prefixes gives for every label, against short transcripts."""
    ctc_weight: float = 0.3
    """Share of CTC, beside the attention decoder, in loss and ranking."""

    def resolve(
        self, model: SpeechRecognizerConfig, data: Any, tokenizer: SpeechCoder
    ) -> SpeechRecognizerConfig:
        """The model's config with the vocabulary filled in; UserError for a bad option."""
        check_range("task", self, "beam_size", least=1)
        check_range("task", self, "language_model_order", "language_model_weight", least=0)
        check_range("task", self, "ctc_weight", least=0, most=1)
        if len(tokenizer.labels) ** self.language_model_order > LARGEST:
            raise UserError(
                f"--task.language-model-order {self.language_model_order} of "
                f"{len(tokenizer.labels)} labels takes too large a table; take a lower order"
            )
        if self.decoding == "attention" and model.decoder == "none":
            raise UserError(
                "--task.decoding attention needs a decoder; give --model.decoder attention, or "
                "decode by greedy or beam"
            )
        if model.front_end.rate != tokenizer.rate:
            raise UserError(
                f"--model.front-end.rate is {model.front_end.rate} and the data is at "
                f"{tokenizer.rate} Hz; make them the same"
            )
        return model.resolve(vocab_size=len(tokenizer.labels))

    def init(self, model: SpeechRecognizerConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes.

        CTC's blank starts out far likelier than the labels. Where all are alike the first that is
        learnt is to say nothing, by gradients so large and so constant that units saturate, and
        what follows is learnt several times more slowly.
        """
        samples = jnp.zeros((1, 8 * model.front_end.hop * model.subsampling))
        params = model.build().init(key, samples, jnp.array([samples.shape[1]]))["params"]
        output = dict(params["output"])
        output["bias"] = jax.tree.map(lambda bias: bias.at[0].add(_BLANK_START), output["bias"])
        return {**params, "output": output}

    def loss(
        self,
        model: SpeechRecognizerConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Nats: (sum over utterances, how many were summed).

            -log p_ctc(y | x)                                      without a decoder, else
            -w log p_ctc(y | x) - (1 - w) log p_decoder(y, end | x),   w = ctc_weight

        An utterance with fewer frames than CTC needs for its labels is left out of both.
        """
        losses, feasible, _ = self._losses(model, params, batch, dropout_key)
        return losses.sum(), feasible.sum().astype(losses.dtype)

    def evaluator(self, model: SpeechRecognizerConfig, tokenizer: SpeechCoder) -> Evaluator:
        """(params, batch) -> of each utterance: loss, and edits between it and its reference."""
        losses_of = jax.jit(partial(self._losses, model))
        decode = self._decoder(model, tokenizer)

        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Any]:
            losses, feasible, recognized = losses_of(params, batch)
            found = decode(params, batch, recognized)
            heard, labels, sizes, lengths, feasible = jax.device_get(
                (found[0], batch["labels"], batch["label_lengths"], batch["lengths"], feasible)
            )
            rows: dict[str, np.ndarray] = {
                name: np.zeros(len(labels), np.int32)
                for name in ("words", "word_edits", "characters", "character_edits", "exact")
            }
            if len(tokenizer.labels) <= _CONFUSED:
                shape = (len(labels), *[len(tokenizer.labels)] * 2)
                rows["confusion"] = np.zeros(shape, np.int32)
            for row in np.flatnonzero(lengths):
                reference = labels[row, : sizes[row]]
                counts = count_errors(tokenizer.text(heard[row]), tokenizer.text(reference))
                for name, count in counts._asdict().items():
                    rows[name][row] = count
                rows["exact"][row] = counts.character_edits == 0
                if "confusion" in rows:
                    said = heard[row][heard[row] > 0]
                    _count_confusions(rows["confusion"][row], said, reference)
            real = lengths > 0
            rows |= {"utterances": real, "infeasible": real & ~feasible}
            return {"loss": losses} | rows

        return contributions

    def metrics(self, totals: dict[str, Any]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = nats per utterance; word_error_rate and character_error_rate = edits (insertions,
        deletions and substitutions) over words and characters of the references; exact = the share
        of utterances without an edit; infeasible = how many have too few frames for their labels,
        and no loss.
        """
        utterances = totals["utterances"]
        return {
            "loss": totals["loss"] / max(utterances - totals["infeasible"], 1),
            "word_error_rate": totals["word_edits"] / max(totals["words"], 1),
            "character_error_rate": totals["character_edits"] / max(totals["characters"], 1),
            "exact": totals["exact"] / max(utterances, 1),
            "utterances": int(utterances),
            "words": int(totals["words"]),
            "infeasible": int(totals["infeasible"]),
        }

    def details(self, totals: dict[str, Any], tokenizer: SpeechCoder) -> dict[str, Any]:
        """What was heard as what, where there are few labels: rows are what was said.

        In the row of nothing said stand insertions, in the column of nothing heard deletions.
        """
        if "confusion" not in totals:
            return {}
        labels = ["nothing", *tokenizer.labels.entries[1:]]
        counts = np.asarray(totals["confusion"], np.int64).tolist()
        return {"confusion": {"labels": labels, "counts": counts}}

    def predict(
        self,
        model: SpeechRecognizerConfig,
        params: PyTree,
        tokenizer: SpeechCoder,
        lines: Iterable[str],
    ) -> Iterator[dict[str, Any]]:
        """{"file", "text", "score"} for each line, which is the path of a sound file.

        The score is the text's log-probability (with greedy decoding, that of its likeliest path).
        Raises UserError naming a file that cannot be read.
        """
        for clip, text, score in self._answers(model, params, tokenizer, lines):
            yield {"file": clip.name, "text": text, "score": round(score, 4)}

    def show(
        self,
        model: SpeechRecognizerConfig,
        params: PyTree,
        tokenizer: SpeechCoder,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints what is heard in each input; `folder` gets a picture of their spectrograms."""
        pictures = []
        for clip, text, _ in self._answers(model, params, tokenizer, inputs):
            print(f"{clip.name}  ->  {text}")
            pictures.append((spectrogram(clip.samples, model.front_end), f"heard: {text}"))
        if pictures:
            draw_spectrograms(pictures, model.front_end, folder / PICTURE)
            print(f"what it heard: {folder / PICTURE}")

    def examples(
        self,
        model: SpeechRecognizerConfig,
        params: PyTree,
        tokenizer: SpeechCoder,
        batch: dict[str, Any],
        folder: Path,
    ) -> list[dict[str, Any]]:
        """What is heard in each utterance, with its sound and its spectrogram in `folder`."""
        decode = self._decoder(model, tokenizer)
        labels, _, scores = jax.device_get(decode(params, batch, None))
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for row in np.flatnonzero(batch["lengths"]).tolist():
            samples = np.asarray(batch["samples"][row, : batch["lengths"][row]])
            reference = tokenizer.text(batch["labels"][row, : batch["label_lengths"][row]])
            output = tokenizer.text(labels[row])
            counts = count_errors(output, reference)
            speaker = tokenizer.speakers[int(batch["speakers"][row])]
            seconds = f"{len(samples) / tokenizer.rate:.1f} s"
            files = {"audio": f"{row}.wav", "spectrogram": f"{row}.png"}
            write_wav(folder / files["audio"], samples, tokenizer.rate)
            mels = spectrogram(samples, model.front_end)
            draw_spectrograms([(mels, "")], model.front_end, folder / files["spectrogram"])
            found.append(
                {
                    "input": f"{speaker}, {seconds}" if speaker else seconds,
                    "output": output,
                    "reference": reference,
                    "score": round(float(scores[row]), 4),
                    "errors": counts.word_edits,
                    "files": files,
                }
            )
        return found

    def _answers(
        self,
        model: SpeechRecognizerConfig,
        params: PyTree,
        tokenizer: SpeechCoder,
        lines: Iterable[str],
    ) -> Iterator[tuple[Clip, str, float]]:
        """(clip, text, score) for each line."""
        decode = self._decoder(model, tokenizer)
        for group in grouped(lines):
            clips = [read_clip(line, tokenizer.rate) for line in group]
            examples = [tokenizer.example(clip.samples) for clip in clips]
            batch = collate(examples, GROUP, room(examples))
            labels, _, scores = jax.device_get(decode(params, batch, None))
            for clip, found, score in zip(clips, labels, scores, strict=False):
                yield clip, tokenizer.text(found), float(score)

    def _losses(
        self,
        model: SpeechRecognizerConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B"], Bool[Array, "B"], Recognized]:
        """(loss, whether it is there, scores) of each utterance."""
        labels, sizes = batch["labels"], batch["label_lengths"]
        arguments = [batch["samples"], batch["lengths"]]
        if model.decoder == "attention":
            arguments += [jnp.pad(labels, ((0, 0), (1, 0))), sizes + 1]
        recognized = model.build(deterministic=dropout_key is None).apply(
            {"params": params},
            *arguments,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        assert isinstance(recognized, Recognized)  # apply is typed for modules that return anything
        nats, feasible = ctc_loss(recognized.logits, recognized.lengths, labels, sizes)
        feasible &= batch["lengths"] > 0  # a filler row is no utterance
        if recognized.target_logits is not None:
            written = jnp.where(valid_steps(sizes, labels.shape[1]), labels, 0)
            targets = jnp.pad(written, ((0, 0), (0, 1)))  # 0 is the end too
            inside = valid_steps(sizes + 1, targets.shape[1])
            attention, _ = jax.vmap(softmax_cross_entropy)(
                recognized.target_logits, targets, inside
            )
            nats = self.ctc_weight * nats + (1 - self.ctc_weight) * attention
        return jnp.where(feasible, nats, 0), feasible, recognized

    def _decoder(
        self, model: SpeechRecognizerConfig, tokenizer: SpeechCoder
    ) -> Callable[[PyTree, Any, Recognized | None], tuple[Array, Array, Array]]:
        """(params, batch, what was recognised, if so) -> labels (B, L), lengths (B), scores (B)."""
        module = model.build()
        if self.decoding == "attention":

            def by_attention(params: PyTree, batch: Any, _: Recognized | None) -> Any:
                frames = model.front_end.num_frames(batch["samples"].shape[1])
                return transcribe(
                    module,
                    params,
                    jnp.asarray(batch["samples"]),
                    jnp.asarray(batch["lengths"]),
                    beam_size=self.beam_size,
                    max_length=max(frames // model.subsampling, 1),
                    ctc_weight=self.ctc_weight,
                )

            return by_attention

        search = jax.jit(self._ctc_search(tokenizer))

        @jax.jit
        def hear(params: PyTree, samples: Array, lengths: Array) -> Any:
            return module.apply({"params": params}, samples, lengths)

        def by_ctc(params: PyTree, batch: Any, recognized: Recognized | None) -> Any:
            if recognized is None:
                recognized = hear(params, batch["samples"], batch["lengths"])
            return search(recognized.logits, recognized.lengths)

        return by_ctc

    def _ctc_search(
        self, tokenizer: SpeechCoder
    ) -> Callable[[Array, Array], tuple[Array, Array, Array]]:
        """(logits (B, T, V), lengths (B)) -> the best labels, their lengths, and scores."""
        if self.decoding == "greedy":
            return lambda logits, lengths: ctc_greedy(jax.nn.log_softmax(logits), lengths)
        grams = None
        if self.language_model_order:
            spoken = [tokenizer.encode(text).tolist() for text in tokenizer.transcripts]
            grams = NGram.fit(spoken, self.language_model_order, len(tokenizer.labels))

        def search(
            logits: Float[Array, "B T V"], lengths: Int[Array, "B"]
        ) -> tuple[Array, Array, Array]:
            language_model = None
            if grams is not None:
                language_model = grams.step, grams.start_carry(len(logits) * self.beam_size)
            found = ctc_prefix_beam(
                jax.nn.log_softmax(logits),
                lengths,
                beam_size=self.beam_size,
                language_model=language_model,
                weight=self.language_model_weight,
                bonus=self.label_bonus,
            )
            return found[0][:, 0], found[1][:, 0], found[2][:, 0]

        return search


def _count_confusions(
    counts: Int[np.ndarray, "V V"], heard: Int[np.ndarray, " n"], said: Int[np.ndarray, " m"]
) -> None:
    """Adds 1 to [said, heard] for each pair; 0 stands for nothing."""
    for here, there in alignment(heard.tolist(), said.tolist()):
        counts[0 if there is None else said[there], 0 if here is None else heard[here]] += 1
