"""Questions and the texts that hold their answers, in windows of a length that a model reads."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxseq.data.batches import Batch, spread
from jaxseq.data.code_points import code_points, stacked_points
from jaxseq.data.corpus import Corpus, fingerprint
from jaxseq.data.files import absolute
from jaxseq.data.labelled import WORDPIECE
from jaxseq.data.marked_tokenizer import marked_tokenizer
from jaxseq.data.named_tokenizer import absolute_name
from jaxseq.data.ragged import Example, Ragged, RaggedBatches, collate, room
from jaxseq.data.rows import BadRows, OnBadRow
from jaxseq.data.split_files import SplitFiles
from jaxseq.data.squad_files import Answer, Question, read_squad
from jaxseq.data.subword_training import train_subwords
from jaxseq.data.subwords import SubwordTokenizer
from jaxseq.data.text import Document, read_documents
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range
from jaxseq.typing import Int

SHOWN = 6
"""Held-out questions that show what the trained model makes of them."""


@dataclass(frozen=True)
class QuestionCoder:
    """Questions and contexts as a model reads them."""

    tokenizer: SubwordTokenizer
    max_length: int
    """Tokens of a window at most: [CLS] question [SEP] part of the context [SEP]."""
    max_question: int
    """Tokens of a question that are kept; the rest of a longer one is cut off."""
    stride: int
    """Tokens of the context from the beginning of one window to that of the next."""
    unanswerable: bool = False
    """Whether there are questions without an answer, so that none may be given."""
    matches: bool = False
    """Whether tokens of the context that stand in the question too are of a type of their own."""

    def windows(self, question: str, context: str, answer: Answer | None = None) -> list[Example]:
        """The windows in which the model sees a question's context, one at least.

        tokens (T)      [CLS] question [SEP] part of the context [SEP]
        types (T)       0 up to the first [SEP] and on it, 1 behind it; with `matches` 2 for the
                        context's tokens that are among the question's (Chen et al. 2017,
                        arXiv:1704.00051, section 3.2)
        lengths ()      T
        starts ()       the first token that holds a character of the answer
        ends ()         the last one; both 0, which is [CLS], where the window does not hold
                        all of the answer
        begins (T)      where the token begins in the characters of the context; 0 for others
        stops (T)       the character behind its last; 0 for those that are not of the context
        """
        start, stop = (self.tokenizer.special(role) for role in ("classify", "separate"))
        asked = self.tokenizer.encode(question)[: self.max_question]
        text, offsets = self._read(context)
        span = None if answer is None else token_span(offsets, answer)
        lead = len(asked) + 2
        size = self.max_length - lead - 1
        found = []
        for begin in range(0, max(len(text) - size, 0) + self.stride, self.stride):
            part = text[begin : begin + size]
            first = last = 0
            if span is not None and begin <= span[0] and span[1] < begin + len(part):
                first, last = lead + span[0] - begin, lead + span[1] - begin
            length = lead + len(part) + 1
            types = (np.arange(length) >= lead).astype(np.int32)
            if self.matches:
                types[lead:-1] += np.isin(part, asked)
            places = np.zeros((2, length), np.int32)
            places[:, lead:-1] = offsets[begin : begin + size].T
            found.append(
                {
                    "tokens": np.concatenate([[start], asked, [stop], part, [stop]]).astype(
                        np.int32
                    ),
                    "types": types,
                    "lengths": np.array(length, np.int32),
                    "starts": np.array(first, np.int32),
                    "ends": np.array(last, np.int32),
                    "begins": places[0],
                    "stops": places[1],
                }
            )
        return found

    @functools.cached_property
    def _read(self) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
        # The questions about one context come one after the other.
        return functools.lru_cache(maxsize=1)(self.tokenizer.encode_with_offsets)


def token_span(offsets: Int[np.ndarray, "tokens 2"], answer: Answer) -> tuple[int, int] | None:
    """The first and the last token that hold a character of the answer, None where none does."""
    first = int(np.searchsorted(offsets[:, 1], answer.start, side="right"))
    last = int(np.searchsorted(offsets[:, 0], answer.start + len(answer.text))) - 1
    return (first, last) if first <= last else None


class QuestionWindows:
    """Held-out questions, each with all its windows, its context and its references."""

    def __init__(self, coder: QuestionCoder, questions: Sequence[Question], batch_size: int):
        """Cut the contexts of `questions` into windows."""
        self.questions = questions
        self.windows = [
            coder.windows(question.question, question.context, first_answer(question))
            for question in questions
        ]
        most = max(map(len, self.windows))
        self.batch_rows = -(-most // batch_size) * batch_size
        """Rows of a batch: a multiple of the batch size in which every question finds room."""

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.questions)

    def batches(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """Yield batches that hold all windows of each of the questions `numbers`, shortest first.

        Row r is a window, and beside what `QuestionCoder.windows` gives has

            question (B)          the row whose context and references are its, counted in the batch
            context (B C)         characters of the context of question r, as code points; then 0
            references (B A L)    the same of its references
            asked (B Q)           the same of the question itself
            num_windows (B)       how many windows question r has

        Rows behind the last window have length 0 and question -1.
        """
        longest = {i: max(len(window["tokens"]) for window in self.windows[i]) for i in numbers}
        group: list[int] = []
        rows = 0
        for number in sorted(numbers, key=longest.__getitem__):
            if rows + len(self.windows[number]) > self.batch_rows:
                yield self._batch(group)
                group, rows = [], 0
            group.append(number)
            rows += len(self.windows[number])
        if group:
            yield self._batch(group)

    def _batch(self, numbers: Sequence[int]) -> Batch:
        windows, texts = [], []
        for place, number in enumerate(numbers):
            windows += [
                window | {"question": np.array(place, np.int32)} for window in self.windows[number]
            ]
            question = self.questions[number]
            references = [answer.text for answer in question.answers]
            texts.append(
                {
                    "context": code_points(question.context),
                    "references": stacked_points(references),
                    "asked": code_points(question.question),
                    "num_windows": np.array(len(self.windows[number]), np.int32),
                }
            )
        batch = collate(windows, self.batch_rows, room(windows))
        batch |= collate(texts, self.batch_rows, room(texts))
        batch["question"][len(windows) :] = -1
        return batch


def first_answer(question: Question) -> Answer | None:
    """The answer that a model is trained to give: the first."""
    return question.answers[0] if question.answers else None


@dataclass(frozen=True, kw_only=True)
class QuestionBatches:
    """How questions and contexts become windows and batches; what files and made-up ones share."""

    vocab_size: int = 8000
    """Tokens of the vocabulary of word pieces, in lower case, that is made from the questions and
    contexts of training where no other tokenizer is named."""

    max_length: int = 384
    """Tokens of a window: [CLS] question [SEP] part of the context [SEP]."""

    max_question: int = 64
    """Tokens of a question that are kept."""

    stride: int = 128
    """Tokens from the beginning of one part of a context to that of the next."""

    matches: bool = False
    """Tell the model which tokens of the context stand in the question too, by a type of their own;
    it needs --model.num-types 3. It takes the place of what pretraining on much text teaches."""

    batch_size: int = 16
    """Windows in a batch, B, over all devices."""

    def train_batches(self, corpus: Corpus[QuestionCoder, Any], seed: int) -> RaggedBatches:
        """The batches of a training run."""
        return RaggedBatches(corpus.train, seed)

    def evaluation_batches(
        self, split: QuestionWindows, at_most: int | None = None
    ) -> Iterator[Batch]:
        """The questions of a held-out split, or about `at_most` batches of them."""
        return split.batches(spread(len(split), self.batch_size, at_most))

    def describe(self, corpus: Corpus[QuestionCoder, Any]) -> str:
        """What there is to train on, for a person."""
        return f"{len(corpus.train):,} windows of questions and contexts"

    def corpus(
        self,
        questions: Mapping[str, Sequence[Question]],
        documents: Sequence[Document],
        coder: Any,
        name: str = WORDPIECE,
    ) -> Corpus[QuestionCoder, Any]:
        """The corpus of the splits "train", "validation" and perhaps "test" of `documents`.

        Training has windows, a question's first answer in them; the other splits have questions
        with all their references. A `QuestionCoder` is used as it is, a bare tokenizer for a new
        one; without either the tokenizer is that of the path `name`, or made ("wordpiece").

        Raises UserError for a tokenizer without [CLS] and [SEP].
        """
        train = questions["train"]
        if coder is None and name == WORDPIECE:
            # The questions about one context come one after the other.
            contexts = dict.fromkeys(question.context for question in train)
            texts = [*contexts, *(question.question for question in train)]
            coder = train_subwords("wordpiece", texts, self.vocab_size, lowercase=True)
        if not isinstance(coder, QuestionCoder):
            coder = QuestionCoder(
                marked_tokenizer(coder, name, "classify", "separate"),
                self.max_length,
                self.max_question,
                self.stride,
                unanswerable=any(not question.answers for question in train),
                matches=self.matches,
            )
        held_out = {
            name: QuestionWindows(coder, found, self.batch_size)
            for name, found in questions.items()
            if name != "train"
        }
        shown = questions["validation"]
        return Corpus(
            tokenizer=coder,
            train=Ragged(_training_windows(coder, train), "tokens", self.batch_size),
            validation=held_out["validation"],
            test=held_out.get("test"),
            fingerprint=fingerprint(documents),
            inputs=tuple(map(_as_line, shown[:: max(len(shown) // SHOWN, 1)][:SHOWN])),
        )

    def check(self) -> None:
        """Raises UserError for a count out of range."""
        check_range("data", self, "max_question", "stride", "batch_size", least=1)
        room = self.max_length - self.max_question - 3
        if self.stride > room:
            raise UserError(
                f"--data.stride is {self.stride}: beside [CLS], two [SEP] and a question of "
                f"--data.max-question {self.max_question} tokens, a window of --data.max-length "
                f"{self.max_length} has room for {room} of the context, and what lies between two "
                "windows would never be seen"
            )


@dataclass(frozen=True, kw_only=True)
class SquadData(SplitFiles, QuestionBatches):
    """Questions in SQuAD's JSON, version 1.1 or 2.0, and how they are batched.

    A split may be several files: a directory or a pattern of them.
    """

    tokenizer: str = WORDPIECE
    """A subword tokenizer that has [CLS] and [SEP]: a tokenizer.json, a vocab.txt, a directory with
    one of them or a run directory; "wordpiece": one is made, of --data.vocab-size tokens."""

    on_bad_row: OnBadRow = "error"
    """Stop at a question that cannot be used, naming its file and id, or count it and leave it
    out."""

    def resolve(self) -> "SquadData":
        """The config with absolute paths, good in every working directory."""
        made = self.tokenizer == WORDPIECE
        tokenizer = self.tokenizer if made else absolute_name(self.tokenizer)
        return dataclasses.replace(super().resolve(), tokenizer=tokenizer)

    def load(self, coder: Any = None) -> Corpus[QuestionCoder, Any]:
        """Read the files and cut contexts into windows; see `corpus`.

        Raises UserError for a bad field, and what `read_squad` and `corpus` find.
        """
        self.check()
        bad_rows = BadRows(self.on_bad_row)
        documents = {name: read_documents(absolute(path)) for name, path in self._paths()}
        questions = {
            name: [question for text in texts for question in read_squad(text, bad_rows)]
            for name, texts in documents.items()
        }
        bad_rows.report()
        every = [text for texts in documents.values() for text in texts]
        return self.corpus(questions, every, coder, self.tokenizer)


def _training_windows(coder: QuestionCoder, questions: Sequence[Question]) -> list[Example]:
    """The windows of all questions, without characters' places, which training does not look at."""
    return [
        {name: array for name, array in window.items() if name not in ("begins", "stops")}
        for question in questions
        for window in coder.windows(question.question, question.context, first_answer(question))
    ]


def _as_line(question: Question) -> str:
    """QUESTION TAB CONTEXT in one line."""
    return "\t".join(" ".join(text.split()) for text in (question.question, question.context))
