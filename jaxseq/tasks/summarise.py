"""Summaries, written by a model that may copy words of the text."""

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data.code_points import text_of
from jaxseq.data.extracts import words
from jaxseq.data.ragged import collate, room
from jaxseq.data.summaries import SummaryBatches
from jaxseq.data.summary_coders import UNKNOWN_NUMBER, SummaryCoder, split_sentences
from jaxseq.decoding.transduce import translate
from jaxseq.errors import UserError
from jaxseq.models.encoder_decoder import EncoderDecoderConfig
from jaxseq.ops.alignment import coverage_loss
from jaxseq.ops.copying import Mixture, mixture_cross_entropy
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.padding import valid_steps
from jaxseq.option_checks import check_range
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.lines import GROUP, grouped
from jaxseq.tasks.rouge import METRICS, rouge
from jaxseq.tasks.transduce import PICTURE, Seq2SeqConfig, draw_alignments
from jaxseq.typing import Array, Float, Key, PyTree

LOOKED_AT = 0.1
"""The weight from which on a word of the text gets a column in a picture."""


@dataclasses.dataclass(frozen=True)
class Summarise:
    """A batch holds what a `SummaryCoder` makes of texts and summaries, with a leading batch axis.

    With `--model.copy` a target that stands in the text may come from there (`ops.copying`).
    """

    answer: ClassVar[str] = "summary"

    beam_size: int = 4
    """Hypotheses kept in decoding; 1: greedy."""
    length_penalty: float = 1.0
    """Exponent of the length by which hypotheses are compared (Wu et al. 2016); 0: by their log
    probability alone, which favours short ones."""
    max_length: int = 60
    """Tokens of a summary at most, its end counted."""
    no_repeat: int = 3
    """No so many tokens in a row are written twice (Paulus et al. 2017); 0: they may be."""
    coverage: float = 0.0
    """Weight of the loss for looking twice at one place (See et al. 2017, arXiv:1704.04368)."""

    def resolve(
        self, model: Seq2SeqConfig, data: SummaryBatches, tokenizer: SummaryCoder
    ) -> Seq2SeqConfig:
        """The model's config with the vocabulary filled in; UserError for a bad option."""
        check_range("task", self, "beam_size", "max_length", least=1)
        check_range("task", self, "no_repeat", "length_penalty", "coverage", least=0)
        if self.coverage and isinstance(model, EncoderDecoderConfig) and not model.copy:
            raise UserError(
                "--task.coverage needs a decoder that looks at one place at a time; give "
                "--model.copy, or drop it"
            )
        longest = max(tokenizer.longest, self.max_length)
        learned = isinstance(model, EncoderDecoderConfig) and model.positions == "learned"
        if learned and model.context < longest:
            raise UserError(
                f"--model.context is {model.context}, and texts and summaries have up to "
                f"{longest} tokens; raise it, or take --model.positions sinusoidal"
            )
        size = tokenizer.size
        model = model.resolve(source_vocab_size=size, target_vocab_size=size)
        if {model.source_vocab_size, model.target_vocab_size} != {size}:
            raise UserError(
                "--model.source-vocab-size and --model.target-vocab-size are "
                f"{model.source_vocab_size} and {model.target_vocab_size}, but the data has {size} "
                "tokens, from where words that can only be copied are counted; leave both at 0"
            )
        return model

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

        With `coverage`, that much of `ops.alignment.coverage_loss` on top, of where the model
        looked or its pointer did.
        """
        losses, tokens = self._losses(model, params, batch, dropout_key)
        return losses.sum(), tokens.sum()

    def evaluator(self, model: Seq2SeqConfig, tokenizer: SummaryCoder) -> Evaluator:
        """(params, batch) -> of each text: loss, tokens, ROUGE, and what the summary is made of."""
        losses_of = jax.jit(partial(self._losses, model))

        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Any]:
            losses, tokens = losses_of(params, batch)
            found = self._decode(model, params, tokenizer, batch)
            texts = {name: batch[name] for name in ("text", "references")}
            tokens_found, host = jax.device_get((found[0], texts))
            names = (*METRICS, "summaries", "words", "novel", "text_words")
            rows = {name: np.zeros(len(host["text"]), np.float32) for name in names}
            summaries = _summaries(tokens_found, tokenizer, host)
            for place, (summary, text, references) in enumerate(summaries):
                if not text:
                    continue  # a filler row
                for name, value in _measured(summary, text, references).items():
                    rows[name][place] = value
            return {"loss": losses, "tokens": tokens} | rows

        return contributions

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = nats per token of the first references; rouge_* = the means of `tasks.rouge` over
        the texts, from 0 to 1; words = words of a summary; compression = words of the texts for one
        of a summary; novel = the share of the summaries' words that do not stand in their text.
        """
        texts, written = totals["summaries"], totals["words"]
        return {
            "loss": totals["loss"] / totals["tokens"],
            **{name: totals[name] / texts for name in METRICS},
            "words": written / texts,
            "compression": totals["text_words"] / max(written, 1),
            "novel": totals["novel"] / max(written, 1),
            "summaries": int(texts),
        }

    def predict(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        tokenizer: SummaryCoder,
        lines: Iterable[str],
    ) -> Iterator[dict[str, Any]]:
        """{"text", "summary", "score"} for each line, a whole text.

        The score is the summary's log probability, over its length penalty.
        """
        for line, units, score, _, _ in self._answers(model, params, tokenizer, lines):
            yield {"text": line, "summary": tokenizer.join(units), "score": round(score, 4)}

    def show(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        tokenizer: SummaryCoder,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints each text with its summary; `folder` gets a picture of where the model looked."""
        maps = []
        for line, units, _, sources, weights in self._answers(model, params, tokenizer, inputs):
            print(f"{line}\n  ->  {tokenizer.join(units)}\n")
            maps.append(looked_at(sources, units, weights))
        draw_alignments(maps, folder / PICTURE)
        print(f"where it looked: {folder / PICTURE}")

    def examples(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        tokenizer: SummaryCoder,
        batch: dict[str, np.ndarray],
        folder: Path,
    ) -> list[dict[str, Any]]:
        """What the model makes of a held-out batch, a picture of each summary in `folder`."""
        rows = []
        found = jax.device_get(self._decode(model, params, tokenizer, batch))
        folder.mkdir(parents=True, exist_ok=True)
        summaries = _summaries(found[0], tokenizer, batch)
        for place, (summary, text, references) in enumerate(summaries):
            if not text:
                continue
            units = tokenizer.written_units(found[0][place], text)
            sources = tokenizer.source_units(text)
            picture = f"attention-{place}.png"
            weights = found[3][place, : len(units) + 1, : len(sources)]
            draw_alignments([looked_at(sources, units, weights)], folder / picture)
            scores = {name: round(value, 4) for name, value in rouge(summary, references).items()}
            rows.append(
                {"input": text, "output": summary, "reference": references}
                | scores
                | {"score": round(float(found[2][place]), 4), "files": {"attention": picture}}
            )
        return rows

    def _answers(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        tokenizer: SummaryCoder,
        lines: Iterable[str],
    ) -> Iterator[tuple[str, list[str], float, list[str], np.ndarray]]:
        """(line, units, score, source units, weights (units and end, source)) for each."""
        for group in grouped(lines):
            texts = ["\n".join(split_sentences(line)) for line in group]
            examples = [tokenizer.example(text) for text in texts]
            batch = collate(examples, GROUP, room(examples))
            found = jax.device_get(self._decode(model, params, tokenizer, batch))
            for line, text, tokens, _, score, weights in zip(group, texts, *found, strict=False):
                units, sources = tokenizer.written_units(tokens, text), tokenizer.source_units(text)
                seen = weights[: len(units) + 1, : len(sources)]
                yield line, units, float(score), sources, seen

    def _losses(
        self,
        model: Seq2SeqConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        """(loss, target tokens and end) of each text."""
        module = model.build(deterministic=dropout_key is None)
        names = ("source", "source_lengths", "inputs", "target_lengths")
        found: Any = module.apply(
            {"params": params},
            *(batch[name] for name in names),
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        scores, weights = found
        inside = valid_steps(batch["target_lengths"], batch["targets"].shape[1])
        if isinstance(scores, Mixture):
            places = weights, batch["copies"], batch["targets"], inside
            losses, tokens = jax.vmap(mixture_cross_entropy)(scores, *places)
        else:
            targets = batch["targets"]
            targets = jnp.where(targets < model.target_vocab_size, targets, UNKNOWN_NUMBER)
            losses, tokens = jax.vmap(softmax_cross_entropy)(scores, targets, inside)
        if self.coverage:
            each = jax.vmap(lambda looks, steps: coverage_loss(looks[None], steps[None])[0])
            losses = losses + self.coverage * each(weights, inside)
        return losses, tokens

    def _decode(
        self, model: Seq2SeqConfig, params: PyTree, tokenizer: SummaryCoder, batch: Any
    ) -> tuple[Array, Array, Array, Array]:
        """(tokens, lengths, scores, alignments) of the best summary found of each text."""
        source, lengths, copies = (
            jnp.asarray(batch[name]) for name in ("source", "source_lengths", "copies")
        )
        return translate(
            model.build(),
            params,
            source,
            lengths,
            beam_size=self.beam_size,
            max_length=self.max_length,
            start_token=tokenizer.start,
            end_token=tokenizer.end,
            length_penalty=self.length_penalty,
            copies=copies,
            unknown_token=tokenizer.unknown,
            no_repeat=self.no_repeat,
        )


def looked_at(
    sources: list[str], units: list[str], weights: np.ndarray
) -> tuple[list[str], list[str], np.ndarray]:
    """(source units, units, weights) without the places of a text that no unit looked at."""
    seen = np.flatnonzero(weights.max(axis=0, initial=0.0) >= LOOKED_AT)
    seen = seen if len(seen) else np.arange(min(len(sources), 1))
    return [sources[place] for place in seen], units, weights[:, seen]


def _summaries(
    tokens: np.ndarray, tokenizer: SummaryCoder, batch: dict[str, np.ndarray]
) -> Iterator[tuple[str, str, list[str]]]:
    """(summary, text, references) of each row; a filler row has no text."""
    for numbers, text, references in zip(tokens, batch["text"], batch["references"], strict=True):
        source = text_of(text)
        summary = tokenizer.join(tokenizer.written_units(numbers, source)) if source else ""
        yield summary, source, [text_of(each) for each in references if each.any()]


def _measured(summary: str, text: str, references: list[str]) -> dict[str, float]:
    written, known = words(summary), words(text)
    novel = set(written) - set(known)
    return rouge(summary, references) | {
        "summaries": 1,
        "words": len(written),
        "novel": sum(word in novel for word in written),
        "text_words": len(known),
    }
