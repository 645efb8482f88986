"""Dates as people write them, and as ISO 8601 has them: pairs made up, without any file."""

import datetime
import random
from dataclasses import dataclass

from jaxseq.data.corpus import Corpus
from jaxseq.data.made_up_pairs import MadeUpPairs
from jaxseq.data.pair_tokenizers import PairCoder, PairTokenizer
from jaxseq.data.ragged import Ragged

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
class DatesData(MadeUpPairs):
    """Made-up dates between 1600 and 2199, no day in two splits."""

    def load(self, tokenizer: PairTokenizer | None = None) -> Corpus[PairCoder, Ragged]:
        """Make up the pairs, by character; UserError for a bad count."""
        count, draw = self.count(), random.Random(self.seed)
        first, last = (datetime.date(year, 1, 1).toordinal() for year in (1600, 2200))
        days = map(datetime.date.fromordinal, draw.sample(range(first, last), count))
        made = [(write_date(day, draw), day.isoformat()) for day in days]
        return self.corpus(made, "character", tokenizer)
