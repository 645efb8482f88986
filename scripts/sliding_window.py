"""Answers by matching words: the sliding window of Richardson et al. 2013 (MCTest, D13-1020), which
SQuAD's paper has as its baseline (arXiv:1606.05250, section 5.1)."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

FUNCTION_WORDS = frozenset((
    "a", "about", "after", "all", "also", "an", "and", "any", "are", "as", "at", "be",
    "because", "been", "before", "both", "but", "by", "can", "could", "did", "do", "does",
    "during", "each", "for", "from", "had", "has", "have", "he", "her", "his", "how", "however",
    "if", "in", "into", "is", "it", "its", "many", "may", "more", "most", "much", "name", "not",
    "of", "on", "one", "only", "or", "other", "she", "so", "some", "such", "than", "that",
    "the", "their", "them", "then", "there", "these", "they", "this", "those", "through", "to",
    "under", "until", "up", "used", "was", "were", "what", "when", "where", "which", "while",
    "who", "whom", "whose", "why", "will", "with", "would",
))  # fmt: skip


class Word(NamedTuple):
    """A word or a punctuation mark of a text."""

    text: str
    start: int
    end: int
    sentence: int


def sliding_window(question: str, context: str) -> str:
    """The candidate whose sentence shares most words with the question, "" where there is none.

    A candidate is a run of words of the context between function words and punctuation marks, none
    of which stands in the question. (The paper takes the constituents that a parser finds.) Of
    those whose sentences, without themselves, share most kinds of words with the question, the one
    with the largest `window_score` less `distance_score` wins, and the first of several.
    """
    words = _words(context)
    asked = {word.text for word in _words(question)}
    sentences: dict[int, set[str]] = {}
    found: list[tuple[int, int, int]] = []  # shared kinds of words, begin, end
    for begin, end in _candidates(words, asked):
        number = words[begin].sentence
        if number not in sentences:
            sentences[number] = {word.text for word in words if word.sentence == number}
        rest = sentences[number] - {word.text for word in words[begin:end]}
        found.append((len(rest & asked), begin, end))
    most = max((shared for shared, _, _ in found), default=0)
    passage = [word.text for word in words]

    def score(span: tuple[int, int]) -> float:
        answer = passage[slice(*span)]
        return window_score(passage, asked.union(answer)) - distance_score(passage, asked, answer)

    best = max(((b, e) for shared, b, e in found if shared == most), key=score, default=None)
    return "" if best is None else context[words[best[0]].start : words[best[1] - 1].end]


def window_score(passage: Sequence[str], wanted: Collection[str]) -> float:
    """The most that the `wanted` words in |wanted| words of the passage in a row weigh together:

    max_j  sum_{i < |wanted|}  log(1 + 1 / count(passage[j + i]))  where that is wanted
    """
    counts = Counter(passage)
    weights = [math.log1p(1 / counts[word]) if word in wanted else 0.0 for word in passage]
    size = len(wanted)
    total = best = sum(weights[:size])
    for leaving, coming in zip(weights, weights[size:], strict=False):
        total += coming - leaving
        best = max(best, total)
    return best


def distance_score(passage: Sequence[str], asked: Collection[str], answer: Sequence[str]) -> float:
    """The least distance of a word of the question to one of the answer, as a share of the passage.

    1 where one of them has no word in the passage; function words are none.
    """
    of_question = [
        i for i, word in enumerate(passage) if word in asked and word not in FUNCTION_WORDS
    ]
    of_answer = [i for i, word in enumerate(passage) if word in answer and word not in asked]
    if not of_question or not of_answer:
        return 1.0
    return min(abs(i - j) for i in of_question for j in of_answer) / (len(passage) - 1)


def _words(text: str) -> list[Word]:
    found: list[Word] = []
    sentence = 0
    for match in re.finditer(r"\w+(?:[.,'\u2019-]\w+)*|[^\w\s]", text):
        found.append(Word(match[0].casefold(), *match.span(), sentence))
        # A new sentence begins where white space follows.
        sentence += match[0] in (".", "!", "?") and text[match.end() :][:1].isspace()
    return found


def _candidates(words: Sequence[Word], asked: Collection[str]) -> Iterator[tuple[int, int]]:
    """(begin, end) of each run of words that may be an answer."""
    begin = 0
    for place in range(len(words) + 1):
        if place < len(words) and _may_answer(words[place].text, asked):
            continue
        if begin < place:
            yield begin, place
        begin = place + 1


def _may_answer(word: str, asked: Collection[str]) -> bool:
    return word[0].isalnum() and word not in FUNCTION_WORDS and word not in asked
