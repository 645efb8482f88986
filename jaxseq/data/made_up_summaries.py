"""Made-up reports and their summaries, whose names no vocabulary has."""

import random
from dataclasses import dataclass

from jaxseq.data.corpus import Corpus
from jaxseq.data.ragged import Ragged
from jaxseq.data.summaries import Summarised, SummaryBatches, summary_corpus
from jaxseq.data.summary_coders import SummaryCoder
from jaxseq.option_checks import check_range

FIELDS = ("speech", "music", "maps", "rivers", "trees", "stars", "games", "letters")
PROBLEMS = ("noise", "cost", "memory", "errors", "time", "waste")
FILLERS = (
    "Many people work on {field}.",
    "Systems for {field} suffer from {problem}.",
    "It is known that {other} is hard.",
    "Earlier work on {other} did not look at {problem}.",
    "We tried it on {other} too.",
    "Much remains to be done for {other}.",
)


def write_report(draw: random.Random) -> Summarised:
    """Four sentences, the second, third or last of which says what is new, under a made-up name.

    The summary says that again in other words, so that a model has to find the sentence, and to
    copy a name that it has never seen.
    """
    name = "".join(draw.choice(pair) for pair in ("bdgklmnprstvz", "aeiou") * 3).capitalize()
    field, other = draw.sample(FIELDS, 2)
    problem, less = draw.sample(PROBLEMS, 2)
    words = {"name": name, "field": field, "other": other, "problem": problem, "less": less}
    news = f"Here we present {name}, which treats {field} with less {less}."
    sentences = [FILLERS[0], *draw.sample(FILLERS[1:], 2)]
    sentences.insert(draw.randint(1, 3), news)
    return Summarised(
        tuple(sentence.format(**words) for sentence in sentences),
        (f"{name} is a new way to {field} that needs less {less}.",),
    )


@dataclass(frozen=True, kw_only=True)
class MadeUpSummaries(SummaryBatches):
    """Made-up reports and summaries, each split with names of its own."""

    num_train: int = 2_000
    """Reports to train on."""

    num_held_out: int = 200
    """Reports in each of the validation and the test split."""

    seed: int = 0
    """Decides the reports."""

    def resolve(self) -> "MadeUpSummaries":
        """The config itself: nothing in it depends on where it is read."""
        return self

    def load(self, coder: SummaryCoder | None = None) -> Corpus[SummaryCoder, Ragged]:
        """Make up the reports; UserError for a bad count."""
        self.check()
        check_range("data", self, "num_train", "num_held_out", least=1, most=100_000)
        draw = random.Random(self.seed)
        sizes = {"validation": self.num_held_out, "test": self.num_held_out}
        sizes |= {"train": self.num_train}
        splits = {name: [write_report(draw) for _ in range(n)] for name, n in sizes.items()}
        coder = self.coder(splits["train"]) if coder is None else coder
        return summary_corpus(coder, splits, self.batch_size, self.extracts)
