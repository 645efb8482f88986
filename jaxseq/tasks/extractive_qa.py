"""Extractive question answering: the piece of a text that answers a question about it."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data.code_points import text_of
from jaxseq.data.ragged import collate, room
from jaxseq.data.squad import QuestionCoder, SquadData
from jaxseq.errors import UserError
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.padding import valid_steps
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.lines import GROUP, grouped, numbered_groups
from jaxseq.tasks.squad_metrics import best_scores
from jaxseq.typing import Array, Bool, Float, Int, Key, PyTree


@runtime_checkable
class SpanConfig(Protocol):
    """What a config of a model of spans offers: BertConfig, a fork's own."""

    @property
    def context(self) -> int:
        """The most tokens that a window may have; 0: as many as the data's."""
        ...

    def resolve(self, *, vocab_size: int, context: int) -> Any:
        """The config completed and checked; UserError names the option."""
        ...

    def build(self, head: Literal["spans"], deterministic: bool = True) -> Any:
        """The module, which maps tokens (B T), with types= and segments= (B T), to the logits
        (B T) of an answer's first token, and those of its last."""
        ...


class Spans(NamedTuple):
    """The best span of each window, and how good it is to give none; on the device or fetched."""

    starts: Int[Array | np.ndarray, "B"]
    ends: Int[Array | np.ndarray, "B"]
    scores: Float[Array | np.ndarray, "B"]
    """Logit of the first token and logit of the last one; -inf where there is no context."""
    none_scores: Float[Array | np.ndarray, "B"]
    """The same of [CLS], which stands for no answer in this window."""


class Answered(NamedTuple):
    """An answer out of all windows of a question."""

    text: str
    start: int | None
    """Characters of the context: `text == context[start:end]`; None where there is no answer."""
    end: int | None
    score: float


@dataclasses.dataclass(frozen=True)
class ExtractiveQA:
    """A batch holds what `QuestionCoder.windows` makes of a question and its context."""

    answer: ClassVar[str] = "answer"

    longest_answer: int = 30
    """Tokens of an answer at most."""

    def resolve(self, model: SpanConfig, data: SquadData, tokenizer: QuestionCoder) -> SpanConfig:
        """The model's config with the vocabulary and the longest window filled in.

        Raises UserError for an option out of range, and windows longer than the model reads.
        """
        if self.longest_answer < 1:
            raise UserError(
                f"--task.longest-answer is {self.longest_answer}; it must be at least 1"
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
        question q of the batch, and those behind the last one are 0.
        """

        @jax.jit
        def found(params: PyTree, batch: dict[str, Array]) -> tuple[Spans, Array, Array]:
            start, end = self._logits(model, params, batch)
            spans = best_span(start, end, context_tokens(batch), self.longest_answer)
            return spans, *_losses(start, end, batch)

        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Any]:
            names = ("question", "context", "references", "begins", "stops")
            rest = {name: batch[name] for name in batch if name not in names}
            spans, losses, windows = jax.device_get(found(params, rest))
            question, context, references, begins, stops = jax.device_get(
                [batch[name] for name in names]
            )
            sums = {
                name: np.zeros(len(question))
                for name in ("loss", "windows", "exact_match", "f1", "questions")
            }
            for q in range(question.max() + 1):
                of_q = question == q
                own = Spans(*(part[of_q] for part in spans))
                text = text_of(context[q])
                answer = best_answer(own, begins[of_q], stops[of_q], text, tokenizer.unanswerable)
                wanted = [text_of(reference) for reference in references[q]]
                sums["exact_match"][q], sums["f1"][q] = best_scores(answer.text, wanted)
                sums["loss"][q], sums["windows"][q] = losses[of_q].sum(), windows[of_q].sum()
                sums["questions"][q] = 1
            return sums

        return contributions

    def metrics(self, totals: dict[str, Any]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = nats per window; exact_match and f1 = shares of the questions, 0 to 1.
        """
        questions = totals["questions"]
        return {
            "loss": totals["loss"] / totals["windows"],
            "exact_match": totals["exact_match"] / questions,
            "f1": totals["f1"] / questions,
            "questions": int(questions),
        }

    def predict(
        self, model: SpanConfig, params: PyTree, tokenizer: QuestionCoder, lines: Iterable[str]
    ) -> Iterator[dict[str, Any]]:
        """{"answer", "start", "end", "score"} for each line, in order.

        A line is {"question": ..., "context": ...} in JSON, or QUESTION TAB CONTEXT. The answer is
        `context[start:end]`; "" with null for both where the model, trained on questions without
        an answer, finds none. The score is that of `Spans.scores`. Raises UserError with its number
        for a line that is neither.
        """

        @jax.jit
        def found(params: PyTree, batch: dict[str, Array]) -> Spans:
            start, end = self._logits(model, params, batch)
            return best_span(start, end, context_tokens(batch), self.longest_answer)

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
                    own, places["begins"], places["stops"], context, tokenizer.unanswerable
                )
                yield {
                    "answer": answer.text,
                    "start": answer.start,
                    "end": answer.end,
                    "score": round(answer.score, 4),
                }

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


def best_span(
    start: Float[Array, "B T"], end: Float[Array, "B T"], context: Bool[Array, "B T"], longest: int
) -> Spans:
    """The span of at most `longest` tokens of the context with the largest sum of logits:

    argmax over  i <= j < i + longest,  context_i and context_j,  of  start_i + end_j
    """
    none = start[:, 0] + end[:, 0]
    start = jnp.where(context, start, -jnp.inf)
    end = jnp.where(context, end, -jnp.inf)
    # What lies behind the window is no end.
    end = jnp.pad(end, ((0, 0), (0, longest - 1)), constant_values=-jnp.inf)
    following = jnp.stack([end[:, k : k + start.shape[1]] for k in range(longest)], axis=-1)
    scores = (start[..., None] + following).reshape(len(start), -1)
    best = scores.argmax(axis=1)
    score = jnp.take_along_axis(scores, best[:, None], axis=1)[:, 0]
    first, more = jnp.divmod(best, longest)
    return Spans(first, first + more, score, none)


def context_tokens(batch: dict[str, Array]) -> Bool[Array, "B T"]:
    """True for the tokens of the context: those of type 1 without the last [SEP]."""
    return (batch["types"] == 1) & valid_steps(batch["lengths"] - 1, batch["types"].shape[1])


def best_answer(
    spans: Spans,
    begins: Int[np.ndarray, "W T"],
    stops: Int[np.ndarray, "W T"],
    context: str,
    unanswerable: bool,
) -> Answered:
    """The best answer of a question's W windows; none where that is `unanswerable` and better."""
    window = int(np.argmax(spans.scores))
    score, none = float(spans.scores[window]), float(np.min(spans.none_scores))
    if score == -np.inf or (unanswerable and none > score):
        return Answered("", None, None, none)
    start = int(begins[window, spans.starts[window]])
    end = int(stops[window, spans.ends[window]])
    return Answered(context[start:end], start, end, score)


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


def _losses(
    start: Float[Array, "B T"], end: Float[Array, "B T"], batch: dict[str, Array]
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    some = batch["lengths"] > 0
    each = jax.vmap(softmax_cross_entropy)
    first, windows = each(start, batch["starts"], some)
    last, _ = each(end, batch["ends"], some)
    return (first + last) / 2, windows
