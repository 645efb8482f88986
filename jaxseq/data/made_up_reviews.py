"""Made-up film reviews, good and bad, in which what is denied or conceded does not count."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from jaxseq.data.corpus import Corpus
from jaxseq.data.labelled import ClassCoder, Labelled, LabelledBatches
from jaxseq.data.ragged import Ragged
from jaxseq.data.rows import BadRows
from jaxseq.data.tokenizers import Tokenizer
from jaxseq.option_checks import check_range

PARTS = ("film", "plot", "cast", "music", "ending", "story", "camera", "dialogue")
GOOD = ("good", "moving", "clever", "funny", "warm", "fresh", "bright", "gripping")
BAD = ("bad", "dull", "slow", "silly", "cold", "stale", "clumsy", "empty")
DEGREES = ("", "very ", "rather ", "often ", "at times ")
DENIALS = ("not ", "never ", "hardly ", "far from ")
OPENINGS = (
    "",
    "in the end ",
    "to be honest ",
    "for the most part ",
    "once again ",
    "as expected ",
)
MOST = 20_000
"""Texts of a split."""

Made = TypeVar("Made", bound="MadeUpLabelled")


def write_review(draw: random.Random) -> tuple[str, str]:
    """(text, "negative" or "positive").

    Two words of five are denied ("not dull"), and half the reviews concede the opposite ("although
    the plot is clever , the film is dull"), so that counting good and bad words says little.
    """
    good = draw.random() < 0.5
    part, other = draw.sample(PARTS, 2)
    verdict = _clause(draw, part, good)
    if draw.random() < 0.5:
        conceded = _clause(draw, other, not good)
        form = draw.choice(("although {0} , {1}", "{1} , even though {0}"))
        verdict = form.format(conceded, verdict)
    return draw.choice(OPENINGS) + verdict, "positive" if good else "negative"


def _clause(draw: random.Random, part: str, good: bool) -> str:
    denied = draw.random() < 0.4
    word = draw.choice(GOOD if good != denied else BAD)
    degree = draw.choice(DENIALS if denied else DEGREES)
    return f"the {part} is {degree}{word}"


@dataclass(frozen=True, kw_only=True)
class MadeUpLabelled(LabelledBatches):
    """How many labelled texts are made up, no text in two splits."""

    num_train: int = 3_000
    """Texts to train on."""

    num_held_out: int = 300
    """Texts in each of the validation and the test split."""

    seed: int = 0
    """Decides the texts."""

    def resolve(self: Made) -> Made:
        """The config itself: nothing in it depends on where it is read."""
        return self

    def made(
        self,
        write: Callable[[random.Random], tuple[str, str]],
        coder: ClassCoder | Tokenizer | None,
    ) -> Corpus[ClassCoder, Ragged]:
        """The corpus of texts and labels that `write` draws; UserError for a bad count."""
        sizes = {"validation": self.num_held_out, "test": self.num_held_out}
        sizes |= {"train": self.num_train}
        check_range("data", self, "num_train", "num_held_out", least=1, most=MOST)
        draw = random.Random(self.seed)
        seen = set[str]()
        rows: dict[str, list[Labelled]] = {name: [] for name in sizes}
        for name, size in sizes.items():
            while len(rows[name]) < size:
                text, label = write(draw)
                if text not in seen:
                    seen.add(text)
                    place = f"made-up {name} texts, line {len(rows[name]) + 1}"
                    rows[name].append(Labelled(place, (text,), label))
        return self.corpus(rows, coder, pairs=False, bad_rows=BadRows())


@dataclass(frozen=True, kw_only=True)
class MadeUpReviews(MadeUpLabelled):
    """Film reviews of one sentence."""

    def load(self, coder: ClassCoder | Tokenizer | None = None) -> Corpus[ClassCoder, Ragged]:
        """Make up the reviews; UserError for a bad field."""
        return self.made(write_review, coder)
