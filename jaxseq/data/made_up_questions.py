"""Made-up passages about towns that nobody knows, and questions about them."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxseq.data.corpus import Corpus
from jaxseq.data.squad import QuestionBatches, QuestionCoder
from jaxseq.data.squad_files import Answer, Question
from jaxseq.data.text import Document
from jaxseq.option_checks import check_range

FACTS = (
    ("{town} was founded by {founder} in {year}.", "Who founded {town}?", "founder"),
    ("{town} was founded by {founder} in {year}.", "When was {town} founded?", "year"),
    ("It lies on the river {river}.", "Which river does {town} lie on?", "river"),
    ("The people of {town} make {goods}.", "What do the people of {town} make?", "goods"),
    ("In {fire} a fire burnt down its {building}.", "When was the fire in {town}?", "fire"),
    ("In {fire} a fire burnt down its {building}.", "What burnt down in {town}?", "building"),
    ("{painter}, the painter, was born here.", "Which painter is from {town}?", "painter"),
)
"""(sentence, question, what of the sentence answers it)."""
GOODS = ("cheese", "glass", "paper", "clocks", "salt", "carpets", "honey", "bells")
BUILDINGS = ("mill", "town hall", "school", "old bridge", "market", "library")
MOST = 20_000
"""Passages of a split."""


def write_passage(
    draw: random.Random, place: str, questions: int, unanswerable: float
) -> list[Question]:
    """A passage of four sentences out of five, and some questions about it.

    Of the questions a share `unanswerable` asks for the sentence that was left out. Numbers and
    names stand in it more than once, so that a question must be read to be answered.
    """
    words = {
        "town": _name(draw, 2),
        "river": _name(draw, 1),
        "founder": f"{_name(draw, 1)} {_name(draw, 2)}",
        "painter": f"{_name(draw, 1)} {_name(draw, 2)}",
        "goods": draw.choice(GOODS),
        "building": draw.choice(BUILDINGS),
        "year": str(draw.randint(1000, 1499)),
        "fire": str(draw.randint(1500, 1999)),
    }
    sentences = list(dict.fromkeys(sentence for sentence, _, _ in FACTS))
    draw.shuffle(sentences)
    missing = sentences.pop()
    context = " ".join(sentence.format(**words) for sentence in sentences)
    made = []
    for number in range(questions):
        lacks = draw.random() < unanswerable
        sentence, asked, key = draw.choice([x for x in FACTS if (x[0] == missing) == lacks])
        answers = ()
        if not lacks:
            before = sentence[: sentence.index(f"{{{key}}}")].format(**words)
            start = context.index(sentence.format(**words)) + len(before)
            answers = (Answer(words[key], start),)
        name = f"{place}, question {number + 1}"
        made.append(Question(name, asked.format(**words), context, answers))
    return made


def _name(draw: random.Random, syllables: int) -> str:
    parts = [draw.choice("bdfgklmnprstvw") + draw.choice("aeiou") for _ in range(syllables)]
    return "".join([*parts, draw.choice("lmnrs")]).capitalize()


@dataclass(frozen=True, kw_only=True)
class MadeUpQuestions(QuestionBatches):
    """Passages and questions that are made up on the spot."""

    num_train: int = 1_000
    """Passages to train on."""

    num_held_out: int = 100
    """Passages in each of the validation and the test split."""

    questions: int = 3
    """Questions about each passage."""

    unanswerable: float = 0.2
    """The share of questions whose answer is not in the passage."""

    seed: int = 0
    """Decides the passages."""

    def resolve(self) -> "MadeUpQuestions":
        """The config itself: nothing in it depends on where it is read."""
        return self

    def load(self, coder: Any = None) -> Corpus[QuestionCoder, Any]:
        """Make up the passages; UserError for a bad field."""
        self.check()
        check_range("data", self, "num_train", "num_held_out", "questions", least=1, most=MOST)
        check_range("data", self, "unanswerable", least=0, below=1)
        draw = random.Random(self.seed)
        sizes: Mapping[str, int] = {
            "validation": self.num_held_out,
            "test": self.num_held_out,
            "train": self.num_train,
        }
        made = {
            name: [
                question
                for number in range(size)
                for question in write_passage(
                    draw, f"made-up {name} passage {number + 1}", self.questions, self.unanswerable
                )
            ]
            for name, size in sizes.items()
        }
        documents = [
            Document(name, "\n".join(f"{q.question}\t{q.context}\t{q.answers}" for q in found))
            for name, found in made.items()
        ]
        return self.corpus(made, documents, coder)
