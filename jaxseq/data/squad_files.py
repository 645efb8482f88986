"""SQuAD's JSON files (Rajpurkar et al. 2016, arXiv:1606.05250; 2018, arXiv:1806.03822)."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxseq.data.rows import BadRows
from jaxseq.data.text import Document
from jaxseq.errors import UserError


class Answer(NamedTuple):
    """A piece of a context: `context[start : start + len(text)] == text`."""

    text: str
    start: int


class Question(NamedTuple):
    """A question, the text that may hold its answer, and the answers that people gave."""

    place: str
    """`FILE, question ID`."""
    question: str
    context: str
    answers: tuple[Answer, ...]
    """None where the question has no answer in its context (version 2.0)."""


def read_squad(document: Document, bad_rows: BadRows) -> list[Question]:
    """The questions of a file, in its order.

    Raises UserError for a file that is not SQuAD's JSON or has no question, naming the place in it;
    and, or counted by `bad_rows`, with file and question id, for an answer that is not in its
    context at its `answer_start`, an empty answer, and a question without words.
    """
    try:
        tree = json.loads(document.text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{document.name}, line {error.lineno}: not JSON ({error.msg}); give a file in SQuAD's "
            "format"
        ) from error
    found = []
    for article, in_file in _items(tree, "data", document.name):
        for paragraph, in_article in _items(article, "paragraphs", in_file):
            context = _field(paragraph, "context", str, in_article)
            for question, in_paragraph in _items(paragraph, "qas", in_article):
                identity = _field(question, "id", str | int, in_paragraph)
                place = f"{document.name}, question {identity}"
                asked = _field(question, "question", str, place)
                answers = _answers(question, context, place, bad_rows)
                if not asked.strip():
                    bad_rows.add(place, "question without words")
                elif answers is not None:
                    found.append(Question(place, asked, context, answers))
    if not found:
        raise UserError(f"{document.name} has no question that can be used: give a file with some")
    return found


def _answers(
    question: dict[str, Any], context: str, place: str, bad_rows: BadRows
) -> tuple[Answer, ...] | None:
    """The answers, None where one of them is bad."""
    if question.get("is_impossible"):
        return ()
    found = []
    for answer, where in _items(question, "answers", place):
        text = _field(answer, "text", str, where)
        start = _field(answer, "answer_start", int, where)
        if not text.strip():
            bad_rows.add(place, "empty answer")
            return None
        if start < 0 or not context.startswith(text, start):
            at = context.find(text)
            stands = f"it stands at {at}" if at >= 0 else "it is nowhere in it"
            detail = f"{text!r} is not at answer_start {start}; {stands}"
            bad_rows.add(place, "answer that is not in its context", detail)
            return None
        found.append(Answer(text, start))
    return tuple(found)


def _items(tree: Any, name: str, where: str) -> Iterator[tuple[Any, str]]:
    """The entries of a list in a JSON object, and what each is called in errors."""
    singular = {"data": "article", "paragraphs": "paragraph", "qas": "question"}.get(name, "answer")
    for number, item in enumerate(_field(tree, name, list, where), start=1):
        yield item, f"{where}, {singular} {number}"


def _field(tree: Any, name: str, kind: Any, where: str) -> Any:
    value = tree.get(name) if isinstance(tree, dict) else None
    if not isinstance(value, kind):
        raise UserError(
            f'{where}: "{name}" is missing or of the wrong kind; give a file in SQuAD\'s format'
        )
    return value
