"""The best span of a text for an answer, in one window of it and over all of them."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxseq.ops.padding import valid_steps
from jaxseq.typing import Array, Bool, Float, Int


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
    """True for the tokens of the context: those of type 1 and 2 without the last [SEP]."""
    return (batch["types"] >= 1) & valid_steps(batch["lengths"] - 1, batch["types"].shape[1])


def best_answer(
    spans: Spans,
    begins: Int[np.ndarray, "W T"],
    stops: Int[np.ndarray, "W T"],
    context: str,
    threshold: float,
) -> Answered:
    """The best answer of a question's W windows.

    It is none where that is better by more than `threshold` (inf: never), or where no window has a
    token of the context.
    """
    window = int(np.argmax(spans.scores))
    score = float(spans.scores[window])
    if score == -np.inf or preference_for_none(spans) > threshold:
        return Answered("", None, None, float(np.min(spans.none_scores)))
    start = int(begins[window, spans.starts[window]])
    end = int(stops[window, spans.ends[window]])
    return Answered(context[start:end], start, end, score)


def preference_for_none(spans: Spans) -> float:
    """By how much no answer scores higher than the best span of a question's windows:

    min over windows of none_scores - max over windows of scores     (arXiv:1810.04805, section 4.3)
    """
    return float(np.min(spans.none_scores) - np.max(spans.scores))
