"""Dates as people write them, and as ISO 8601 has them: pairs made up, without any file."""

import datetime
import random
from dataclasses import dataclass

from jaxseq.data.corpus import Corpus
from jaxseq.data.pair_tokenizers import PairCoder, PairTokenizer
from jaxseq.data.pairs import Pair, PairBatches, pair_corpus
from jaxseq.data.ragged import Ragged
from jaxseq.data.text import Document
from jaxseq.errors import UserError

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def write_date(day: datetime.date, draw: random.Random) -> str:
    """The date in one of many forms: "Thursday, May 3rd, 1979", "3 may 79", "5/3/1979", ...

    Two digits of a year stand for 1950 to 2049; all-number dates are month first, or year first.
    """
    month = MONTHS[day.month - 1]
    month = draw.choice([month, month[:3], month[:3] + "."])
    number = draw.choice([str(day.day), _ordinal(day.day)])
    year = str(day.year)
    if 1950 <= day.year < 2050:
        year = draw.choice([year, year, year[2:], "'" + year[2:]])
    form = draw.choice(
        [
            f"{number} {month} {year}",
            f"{month} {number}, {year}",
            f"{month} {number} {year}",
            f"the {_ordinal(day.day)} of {month} {year}",
            f"{day.month}/{day.day}/{day.year}",
            f"{day.month:02}.{day.day:02}.{day.year}",
            f"{day.year}/{day.month:02}/{day.day:02}",
            f"{month} {day.year}, the {_ordinal(day.day)}",
        ]
    )
    if draw.random() < 0.3:
        weekday = WEEKDAYS[day.weekday()]
        form = f"{draw.choice([weekday, weekday[:3]])}{draw.choice([', ', ' '])}{form}"
    return draw.choice([form, form.lower(), form.upper()])


def _ordinal(number: int) -> str:
    suffix = "th" if 10 < number < 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


@dataclass(frozen=True, kw_only=True)
class DatesData(PairBatches):
    """Made-up dates between 1600 and 2199, no day in two splits."""

    num_train: int = 10_000
    """Pairs to train on."""

    num_held_out: int = 1_000
    """Pairs in each of the validation and the test split."""

    seed: int = 0
    """Decides the dates and how they are written."""

    def resolve(self) -> "DatesData":
        """The config itself: nothing in it depends on where it is read."""
        return self

    def load(self, tokenizer: PairTokenizer | None = None) -> Corpus[PairCoder, Ragged]:
        """Make up the pairs; UserError for a bad count."""
        self.check()
        for option, value in (
            ("num-train", self.num_train),
            ("num-held-out", self.num_held_out),
        ):
            if not 1 <= value <= 100_000:
                raise UserError(f"--data.{option} is {value}: it must be from 1 to 100000")
        draw = random.Random(self.seed)
        first, last = (datetime.date(year, 1, 1).toordinal() for year in (1600, 2200))
        count = self.num_train + 2 * self.num_held_out
        days = map(datetime.date.fromordinal, draw.sample(range(first, last), count))
        made: list[Pair] = [(write_date(day, draw), day.isoformat()) for day in days]
        held = self.num_held_out
        pairs = {
            "validation": made[:held],
            "test": made[held : 2 * held],
            "train": made[2 * held :],
        }
        if tokenizer is None:
            tokenizer = PairTokenizer.train(pairs["train"], "character", "character")
        text = "\n".join("\t".join(pair) for pair in made)
        return pair_corpus(tokenizer, pairs, self.batch_size, [Document("dates", text)])
