"""Extractive question answering: the piece of a text that answers a question about it."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data.batches import Batch
from jaxseq.data.code_points import text_of
from jaxseq.data.ragged import collate, room
from jaxseq.data.squad import QuestionBatches, QuestionCoder
from jaxseq.errors import UserError
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.padding import valid_steps
from jaxseq.option_checks import check_range
from jaxseq.tasks.answer_spans import (
    Answered,
    Spans,
    best_answer,
    best_span,
    context_tokens,
    preference_for_none,
)
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.lines import GROUP, grouped, numbered_groups
from jaxseq.tasks.squad_metrics import best_scores
from jaxseq.typing import Array, Float, Key, PyTree

THRESHOLDS = np.linspace(-16, 16, 65)
"""What is tried for `ExtractiveQA.no_answer_threshold` on a held-out split."""


@runtime_checkable
class SpanConfig(Protocol):
    """What a config of a model of spans offers: BertConfig, a fork's own."""

    @property
    def context(self) -> int:
        """The most tokens that a window may have; 0: as many as the data's."""
        ...

    @property
    def num_types(self) -> int:
        """Kinds of token that it tells apart."""
        ...

    def resolve(self, *, vocab_size: int, context: int) -> Any:
        """The config completed and checked; UserError names the option."""
        ...

    def build(self, head: Literal["spans"], deterministic: bool = True) -> Any:
        """The module, which maps tokens (B T), with types= and segments= (B T), to the logits
        (B T) of an answer's first token, and those of its last."""
        ...


@dataclasses.dataclass(frozen=True)
class ExtractiveQA:
    """A batch holds what `QuestionCoder.windows` makes of a question and its context."""

    answer: ClassVar[str] = "answer"

    longest_answer: int = 30
    """Tokens of an answer at most."""
    no_answer_threshold: float = 0.0
    """Where training had questions without an answer: give none where that scores higher than the
    best span by more than this. Evaluation tells the best threshold ("best_f1_threshold")."""

    def resolve(
        self, model: SpanConfig, data: QuestionBatches, tokenizer: QuestionCoder
    ) -> SpanConfig:
        """The model's config with the vocabulary and the longest window filled in.

        Raises UserError for an option out of range, and windows longer than the model reads.
        """
        check_range("task", self, "longest_answer", least=1)
        if tokenizer.matches and model.num_types < 3:
            raise UserError(
                f"--model.num-types is {model.num_types}, and --data.matches gives tokens 3 types: "
                "say --model.num-types 3, or --data.no-matches"
            )
        if 0 < model.context < tokenizer.max_length:
            raise UserError(
                f"windows have up to {tokenizer.max_length} tokens, and the model reads "
                f"{model.context}: say --data.max-length {model.context}"
            )
        return model.resolve(
            vocab_size=tokenizer.tokenizer.vocab_size, context=tokenizer.max_length
        )

    def init(self, model: SpanConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        return model.build("spans").init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def loss(
        self,
        model: SpanConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(sum over windows, their number), in nats:  -1/2 [log p(start) + log p(end)],

        each a softmax over the tokens of the window; [CLS] is both where the answer is not in it
        (Devlin et al. 2018, arXiv:1810.04805, section 4.2 and 4.3).
        """
        start, end = self._logits(model, params, batch, dropout_key)
        losses, windows = _losses(start, end, batch)
        return losses.sum(), windows.sum()

    def evaluator(self, model: SpanConfig, tokenizer: QuestionCoder) -> Evaluator:
        """(params, batch) -> of each question: loss over its windows, exact match and token F1.

        A batch holds whole questions (`data.squad.QuestionWindows`); row q of the result is
        question q of the batch, and those behind the last one are 0. Where a question may have no
        answer, "exact_match_at" and "f1_at" are of each of the `THRESHOLDS`.
        """

        @jax.jit
        def found(params: PyTree, batch: dict[str, Array]) -> tuple[Spans, Array, Array]:
            start, end = self._logits(model, params, batch)
            spans = best_span(start, end, context_tokens(batch), self.longest_answer)
            return spans, *_losses(start, end, batch)

        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Any]:
            (spans, losses, windows), batch = jax.device_get((found(params, _inputs(batch)), batch))
            size = len(batch["question"])
            names = ("loss", "windows", "exact_match", "f1", "questions")
            sums = {name: np.zeros(size) for name in names}
            at = {name: np.zeros((size, len(THRESHOLDS))) for name in ("exact_match_at", "f1_at")}
            for q in range(batch["question"].max() + 1):
                of_q = batch["question"] == q
                own = Spans(*(part[of_q] for part in spans))
                answer = self._answer(own, batch, q, tokenizer)
                wanted = [text_of(reference) for reference in batch["references"][q]]
                sums["exact_match"][q], sums["f1"][q] = best_scores(answer.text, wanted)
                sums["loss"][q], sums["windows"][q] = losses[of_q].sum(), windows[of_q].sum()
                sums["questions"][q] = 1
                if tokenizer.unanswerable:
                    some = self._answer(own, batch, q, tokenizer, threshold=np.inf)
                    given = np.array([best_scores("", wanted), best_scores(some.text, wanted)])
                    kept = (preference_for_none(own) <= THRESHOLDS).astype(int)
                    at["exact_match_at"][q], at["f1_at"][q] = given[kept].T
            return sums | (at if tokenizer.unanswerable else {})

        return contributions

    def metrics(self, totals: dict[str, Any]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = nats per window; exact_match and f1 = shares of the questions, 0 to 1. Where a
        question may have no answer, "best_exact_match" and "best_f1" are those of the best of the
        `THRESHOLDS`, which "best_exact_match_threshold" and "best_f1_threshold" are, as SQuAD 2.0's
        script has them (arXiv:1806.03822): to be chosen on one split, and reported on another.
        """
        questions = totals["questions"]
        found = {
            "loss": totals["loss"] / totals["windows"],
            "exact_match": totals["exact_match"] / questions,
            "f1": totals["f1"] / questions,
        }
        for name in ("exact_match", "f1"):
            if f"{name}_at" in totals:
                best = int(np.argmax(totals[f"{name}_at"]))
                found[f"best_{name}"] = float(totals[f"{name}_at"][best]) / questions
                found[f"best_{name}_threshold"] = float(THRESHOLDS[best])
        return found | {"questions": int(questions)}

    def predict(
        self, model: SpanConfig, params: PyTree, tokenizer: QuestionCoder, lines: Iterable[str]
    ) -> Iterator[dict[str, Any]]:
        """{"answer", "start", "end", "score"} for each line, in order.

        A line is {"question": ..., "context": ...} in JSON, or QUESTION TAB CONTEXT. The answer is
        `context[start:end]`; "" with null for both where the model, trained on questions without
        an answer, finds none. The score is that of `Spans.scores`. Raises UserError with its number
        for a line that is neither.
        """
        found = self._found(model)
        for group in numbered_groups(lines):
            asked = [read_question(line, number) for number, line in group]
            windows = [tokenizer.windows(*pair) for pair in asked]
            # Whole groups of windows: a context may have any number of them.
            examples = [window for some in windows for window in some]
            found_spans = []
            for part in grouped(examples):
                batch = collate(part, GROUP, room(part))
                inputs = {name: batch[name] for name in ("tokens", "types", "lengths")}
                found_spans.append(jax.device_get(found(params, inputs)))
            spans = Spans(*map(np.concatenate, zip(*found_spans, strict=True)))
            first = 0
            for (_, context), some in zip(asked, windows, strict=True):
                own = Spans(*(part[first : first + len(some)] for part in spans))
                first += len(some)
                places = collate(some, len(some), room(some))
                answer = best_answer(
                    own, places["begins"], places["stops"], context, self._threshold(tokenizer)
                )
                yield {
                    "answer": answer.text,
                    "start": answer.start,
                    "end": answer.end,
                    "score": round(answer.score, 4),
                }

    def examples(
        self,
        model: SpanConfig,
        params: PyTree,
        tokenizer: QuestionCoder,
        batch: Batch,
        folder: Path,
    ) -> list[dict[str, Any]]:
        """Each question with its context, its answer and all references; no file is written.

        A question of which the batch has not all windows is left out.
        """
        spans = jax.device_get(self._found(model)(params, _inputs(batch)))
        rows = []
        for q in range(batch["question"].max() + 1):
            of_q = (batch["question"] == q) & (batch["lengths"] > 0)
            if not of_q.any() or of_q.sum() != batch["num_windows"][q]:
                continue
            own = Spans(*(part[of_q] for part in spans))
            answer = self._answer(own, batch, q, tokenizer)
            wanted = [text for text in map(text_of, batch["references"][q]) if text] or [""]
            rows.append(
                {
                    "input": f"{text_of(batch['asked'][q])}\n{text_of(batch['context'][q])}",
                    "output": answer.text,
                    "reference": wanted,
                    "unit": "word",
                    "score": round(answer.score, 4),
                    "f1": round(best_scores(answer.text, wanted)[1], 4),
                }
            )
        return rows

    def show(
        self,
        model: SpanConfig,
        params: PyTree,
        tokenizer: QuestionCoder,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints each question with its answer; `folder` gets nothing."""
        answers = self.predict(model, params, tokenizer, inputs)
        for line, answer in zip(inputs, answers, strict=True):
            print(f"{line.partition(chr(9))[0]}  ->  {answer['answer'] or '(no answer)'}")

    def _answer(
        self,
        spans: Spans,
        batch: Batch,
        number: int,
        tokenizer: QuestionCoder,
        threshold: float | None = None,
    ) -> Answered:
        """The answer to question `number` of a batch, out of the `spans` of its windows."""
        of_it = (batch["question"] == number) & (batch["lengths"] > 0)
        return best_answer(
            spans,
            batch["begins"][of_it],
            batch["stops"][of_it],
            text_of(batch["context"][number]),
            self._threshold(tokenizer) if threshold is None else threshold,
        )

    def _threshold(self, tokenizer: QuestionCoder) -> float:
        return self.no_answer_threshold if tokenizer.unanswerable else np.inf

    def _found(self, model: SpanConfig) -> Callable[[PyTree, Any], Spans]:
        @jax.jit
        def found(params: PyTree, batch: dict[str, Array]) -> Spans:
            start, end = self._logits(model, params, batch)
            return best_span(start, end, context_tokens(batch), self.longest_answer)

        return found

    def _logits(
        self,
        model: SpanConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Logits of first and last token; -inf in padding."""
        inside = valid_steps(batch["lengths"], batch["tokens"].shape[1])
        start, end = model.build("spans", deterministic=dropout_key is None).apply(
            {"params": params},
            batch["tokens"],
            types=batch["types"],
            segments=inside.astype(jnp.int32),
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        return jnp.where(inside, start, -jnp.inf), jnp.where(inside, end, -jnp.inf)


def read_question(line: str, number: int) -> tuple[str, str]:
    """The question and the context of a line; UserError naming its number where it has none."""
    if line.lstrip().startswith("{"):
        try:
            tree = json.loads(line)
        except ValueError:
            tree = {}
        pair = [tree.get("question"), tree.get("context")]
    else:
        pair = line.split("\t", 1)
    match pair:
        case [str(question), str(context)] if question.strip() and context.strip():
            return question, context
    raise UserError(
        f'line {number} is neither {{"question": ..., "context": ...}} nor QUESTION TAB CONTEXT: '
        f"{line[:60]!r}; mend it"
    )


def _inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What the model and its loss read of a batch of whole questions."""
    return {name: batch[name] for name in ("tokens", "types", "lengths", "starts", "ends")}


def _losses(
    start: Float[Array, "B T"], end: Float[Array, "B T"], batch: dict[str, Array]
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    some = batch["lengths"] > 0
    each = jax.vmap(softmax_cross_entropy)
    first, windows = each(start, batch["starts"], some)
    last, _ = each(end, batch["ends"], some)
    return (first + last) / 2, windows
