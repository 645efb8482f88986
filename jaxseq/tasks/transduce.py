"""Sequence to sequence: write a target for every source."""

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data.batches import Batch
from jaxseq.data.code_points import text_of
from jaxseq.data.pair_tokenizers import PairCoder
from jaxseq.data.pairs import PairBatches
from jaxseq.data.ragged import collate, room
from jaxseq.decoding.transduce import translate
from jaxseq.errors import UserError
from jaxseq.models.encoder_decoder import EncoderDecoderConfig
from jaxseq.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxseq.ops.alignment import coverage_loss
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.padding import valid_steps
from jaxseq.option_checks import check_range
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.edit_distance import edit_distance
from jaxseq.tasks.lines import GROUP, grouped
from jaxseq.tasks.translation_metrics import (
    CHRF_SIGNATURE,
    SIGNATURE,
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
)
from jaxseq.typing import Array, Float, Key, PyTree

Seq2SeqConfig = RNNSeq2SeqConfig | EncoderDecoderConfig

PICTURE = "attention.png"


@dataclasses.dataclass(frozen=True)
class Transduce:
    """A batch holds what `PairTokenizer.example` makes of a pair, with a leading batch axis."""

    answer: ClassVar[str] = "output"

    beam_size: int = 4
    """Hypotheses kept in decoding; 1: greedy."""
    length_penalty: float = 0.0
    """Exponent of the length by which hypotheses are compared (Wu et al. 2016); 0: by their log
    probability alone."""
    label_smoothing: float = 0.0
    """The share of a target that training spreads over all tokens alike (Szegedy et al. 2016)."""
    coverage: float = 0.0
    """Weight of the loss for looking twice at one place (See et al. 2017, arXiv:1704.04368)."""
    second_score_ignores: str = ""
    """Characters of target tokens that a second pair of metrics leaves out: "012" are the stress
    marks of phonemes."""

    def resolve(
        self, model: Seq2SeqConfig, data: PairBatches, tokenizer: PairCoder
    ) -> Seq2SeqConfig:
        """The model's config with the vocabularies filled in; UserError for a bad option."""
        check_range("task", self, "beam_size", least=1)
        check_range("task", self, "label_smoothing", least=0, below=1)
        check_range("task", self, "length_penalty", "coverage", least=0)
        if model.copy:
            raise UserError("--model.copy is for the task Summarise; drop it")
        if self.coverage and not isinstance(model, RNNSeq2SeqConfig):
            raise UserError(
                "--task.coverage needs a decoder that looks at one place at a time; train an "
                "RNNSeq2SeqConfig, or drop it"
            )
        if 0 < _positions(model) < tokenizer.longest:
            raise UserError(
                f"--model.context is {_positions(model)} and the data has a text of "
                f"{tokenizer.longest} tokens; raise it, or take --model.positions sinusoidal"
            )
        source, target = tokenizer.sizes
        return model.resolve(source_vocab_size=source, target_vocab_size=target)

    def init(self, model: Seq2SeqConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        one = jnp.zeros((1, 1), jnp.int32)
        return model.build().init(key, one, one[0] + 1, one, one[0] + 1)["params"]

    def loss(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Cross-entropy in nats: (sum over target tokens and ends, their number).

        Of smoothed labels where `label_smoothing` says so, which evaluation leaves away. With
        `coverage`, that much of `ops.alignment.coverage_loss` on top.
        """
        losses, tokens = self._losses(model, params, batch, dropout_key, self.label_smoothing)
        return losses.sum(), tokens.sum()

    def evaluator(self, model: Seq2SeqConfig, tokenizer: PairCoder) -> Evaluator:
        """(params, batch) -> of each pair: loss, and edits between decoded and reference.

        Where the data has references as texts, also the counts of BLEU and chrF.
        """
        losses_of = jax.jit(partial(self._losses, model))

        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Any]:
            losses, tokens = losses_of(params, batch)
            found, _, _, _ = self._decode(model, params, tokenizer, batch)
            found, targets, lengths = jax.device_get(
                (found, batch["targets"], batch["target_lengths"])
            )
            real = lengths > 0
            pairs = [
                (tokenizer.target_units(written), tokenizer.target_units(reference))
                for written, reference in zip(found[real], targets[real], strict=True)
            ]
            counts = {"pairs": np.ones(len(pairs), np.int32)}
            counts |= {"units": np.array([len(reference) for _, reference in pairs], np.int32)}
            counts |= _score(pairs, "")
            if self.second_score_ignores:
                dropped = str.maketrans("", "", self.second_score_ignores)

                def bare(units: list[str]) -> list[str]:
                    return [unit.translate(dropped) for unit in units]

                counts |= _score([(bare(one), bare(other)) for one, other in pairs], "_ignoring")
            if "references" in batch:
                outputs = [tokenizer.join(units) for units, _ in pairs]
                references = [
                    [text for text in map(text_of, texts) if text]
                    for texts in jax.device_get(batch["references"])[real]
                ]
                for name, count in (("bleu", bleu_counts), ("chrf", chrf_counts)):
                    counts[name] = np.stack(list(map(count, outputs, references)))
            rows = {
                name: np.zeros((len(real), *x.shape[1:]), x.dtype) for name, x in counts.items()
            }
            for name, of_pairs in counts.items():
                rows[name][real] = of_pairs
            return {"loss": losses, "tokens": tokens} | rows

        return contributions

    def metrics(self, totals: dict[str, Any]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = nats per target token; token_error_rate = edits (insertions, deletions and
        substitutions) per token of the references; exact = the share of targets without an edit;
        both once more without the characters that `second_score_ignores` names. bleu and chrf, 0
        to 100, where the data has references as texts (`translation_metrics`).
        """
        found = {"loss": totals["loss"] / totals["tokens"]}
        for suffix in ("", "_ignoring"):
            if f"edits{suffix}" in totals:
                rate = totals[f"edits{suffix}"] / max(totals["units"], 1)
                found[f"token_error_rate{suffix}"] = rate
                found[f"exact{suffix}"] = totals[f"exact{suffix}"] / totals["pairs"]
        if "bleu" in totals:
            found |= {"bleu": bleu(totals["bleu"]), "chrf": chrf(totals["chrf"])}
        return found | {"pairs": int(totals["pairs"])}

    def details(self, totals: dict[str, Any], tokenizer: PairCoder) -> dict[str, Any]:
        """What a score must be quoted with: sacreBLEU's signatures, which ours are equal to."""
        if "bleu" not in totals:
            return {}
        return {"signatures": {"bleu": SIGNATURE, "chrf": CHRF_SIGNATURE}}

    def predict(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        tokenizer: PairCoder,
        lines: Iterable[str],
    ) -> Iterator[dict[str, Any]]:
        """{"input", "output", "score"} for each line; the score is the output's log probability."""
        for line, units, score, _ in self._answers(model, params, tokenizer, lines):
            yield {"input": line, "output": tokenizer.join(units), "score": round(score, 4)}

    def examples(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        tokenizer: PairCoder,
        batch: Batch,
        folder: Path,
    ) -> list[dict[str, Any]]:
        """Input, output and references of each pair, and a picture of where the decoder looked."""
        found = jax.device_get(self._decode(model, params, tokenizer, batch))
        rows: list[dict[str, Any]] = []
        for row, (tokens, _, score, weights) in enumerate(zip(*found, strict=True)):
            if not batch["target_lengths"][row]:
                continue
            units = tokenizer.target_units(tokens)
            text, source = tokenizer.read_source(
                batch["source"][row][: batch["source_lengths"][row]]
            )
            reference = tokenizer.join(tokenizer.target_units(batch["targets"][row]))
            if "references" in batch:
                reference = [text for text in map(text_of, batch["references"][row]) if text]
            name = f"attention-{row}.png"
            draw_alignments(
                [(source, units, weights[: len(units) + 1, : len(source)])], folder / name
            )
            rows.append(
                {
                    "input": text,
                    "output": tokenizer.join(units),
                    "reference": reference,
                    "score": round(float(score), 4),
                    "unit": tokenizer.target_unit,
                    "files": {"attention": name},
                }
            )
        return rows

    def show(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        tokenizer: PairCoder,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints each input with its output; `folder` gets a picture of where the model looked."""
        maps = []
        for line, units, _, weights in self._answers(model, params, tokenizer, inputs):
            print(f"{line}  ->  {tokenizer.join(units)}")
            maps.append((tokenizer.source_units(line), units, weights))
        draw_alignments(maps, folder / PICTURE)
        print(f"where it looked: {folder / PICTURE}")

    def _answers(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        tokenizer: PairCoder,
        lines: Iterable[str],
    ) -> Iterator[tuple[str, list[str], float, np.ndarray]]:
        """(line, target units, log probability, alignments (units and end, source)) for each."""
        for group in grouped(lines):
            examples = [tokenizer.example(line) for line in group]
            batch = collate(examples, GROUP, room(examples))
            found = jax.device_get(self._decode(model, params, tokenizer, batch))
            for line, example, tokens, _, score, weights in zip(
                group, examples, *found, strict=False
            ):
                units = tokenizer.target_units(tokens)
                seen = weights[: len(units) + 1, : example["source_lengths"]]
                yield line, units, float(score), seen

    def _losses(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
        smoothing: float = 0.0,
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        """(loss, target tokens and end) of each pair."""
        module = model.build(deterministic=dropout_key is None)
        names = ("source", "source_lengths", "inputs", "target_lengths")
        logits, weights = module.apply(
            {"params": params},
            *(batch[name] for name in names),
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        inside = valid_steps(batch["target_lengths"], batch["targets"].shape[1])
        of_row = partial(softmax_cross_entropy, smoothing=smoothing)
        losses, tokens = jax.vmap(of_row)(logits, batch["targets"], inside)
        if self.coverage:
            assert isinstance(weights, Array)  # apply is typed for modules that return anything
            each = jax.vmap(lambda looks, steps: coverage_loss(looks[None], steps[None])[0])
            losses = losses + self.coverage * each(weights, inside)
        return losses, tokens

    def _decode(
        self, model: Seq2SeqConfig, params: PyTree, tokenizer: PairCoder, batch: Any
    ) -> tuple[Array, Array, Array, Array]:
        """(tokens, lengths, scores, alignments) of the best target found for each source."""
        # Room enough that no sensible target is cut; decoding ends when all rows have.
        room = 2 * batch["source"].shape[1] + 8
        return translate(
            model.build(),
            params,
            jnp.asarray(batch["source"]),
            jnp.asarray(batch["source_lengths"]),
            beam_size=self.beam_size,
            max_length=min(room, _positions(model) or room),
            start_token=tokenizer.start,
            end_token=tokenizer.end,
            length_penalty=self.length_penalty,
        )


def _positions(model: Seq2SeqConfig) -> int:
    """How many positions a model has a table for; 0: it needs none."""
    learned = isinstance(model, EncoderDecoderConfig) and model.positions == "learned"
    return model.context if learned else 0


def _score(pairs: list[tuple[list[str], list[str]]], suffix: str) -> dict[str, np.ndarray]:
    """Of each pair: edits, and whether there are none."""
    edits = np.array([edit_distance(written, reference) for written, reference in pairs], np.int32)
    return {f"edits{suffix}": edits, f"exact{suffix}": edits == 0}


def draw_alignments(maps: list[tuple[list[str], list[str], np.ndarray]], path: Path) -> None:
    """A picture of each (source units, target units, weights (targets and end, sources))."""
    from matplotlib.figure import Figure  # half a second that only this needs

    columns = min(len(maps), 3)
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
    for place, (sources, targets, weights) in enumerate(maps, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(weights, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        upright = 90 if max(map(len, sources), default=0) > 1 else 0  # words would overlap
        axes.set_xticks(range(len(sources)), [_visible(unit) for unit in sources], rotation=upright)
        axes.set_yticks(
            range(weights.shape[0]), [*map(_visible, targets), "end"][: weights.shape[0]]
        )
        axes.xaxis.tick_top()
        axes.set_xlabel("source")
        axes.set_ylabel("written")
    figure.savefig(path, dpi=120)


def _visible(unit: str) -> str:
    return "\u2423" if unit == " " else unit
