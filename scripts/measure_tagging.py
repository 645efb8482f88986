"""The ladder of taggers on UD English EWT: accuracy on the test split, over seeds.

    JAXSEQ_DATA=DIR python scripts/measure_tagging.py [--rungs hmm crf] [--seeds 0]

most-frequent-tag: each word's most frequent tag in training, and the commonest tag of all for a
word that training did not have; it is counted here. The others are `experiments/tag_upos.py` with
the options below. A run directory that already holds a run is not trained again.
"""

import dataclasses
from collections import Counter, defaultdict
from pathlib import Path

import tyro
from measure import data_file, mean_and_spread, measure

from jaxseq.data.tagged import read_tagged
from jaxseq.data.text import read_documents

RUNGS: dict[str, list[object]] = {
    "hmm": ["--model.encoder", "words", "--model.output", "hmm", "--optimizer.learning-rate", 0.1],
    "features-crf": ["--model.encoder", "features", "--optimizer.learning-rate", 0.02],
    "bilstm": ["--model.output", "softmax"],
    "bilstm-crf": [],
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates and prints a table; see the head of this file."""

    rungs: tuple[str, ...] = tuple(RUNGS)
    """Which taggers beside the most frequent tag."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each."""
    runs: Path = Path("runs") / "tagging"
    """Where the run directories go."""


def measure_tagging(options: Options) -> None:
    """Trains and evaluates every rung with every seed, and prints a row a rung."""
    print("| tagger | parameters | test accuracy, % | on rare words, % | seeds | CPU minutes |")
    print("|---|---|---|---|---|---|")
    print(f"| most-frequent-tag | | {100 * most_frequent_tag():.2f} | | | |", flush=True)
    for rung in options.rungs:
        results = [
            measure(
                "tag_upos.py",
                options.runs / f"{rung}-{seed}",
                ["--seed", seed, *RUNGS[rung]],
                split="test",
            )
            for seed in options.seeds
        ]
        right = [100 * result.metrics["accuracy"] for result in results]
        rare = [100 * result.metrics["accuracy_on_rare_words"] for result in results]
        each = ", ".join(f"{accuracy:.2f}" for accuracy in right)
        print(
            f"| {rung} | {results[0].parameters:,} | {mean_and_spread(right, 2)} | "
            f"{mean_and_spread(rare, 2)} | {each} | "
            f"{mean_and_spread([result.cpu_minutes for result in results], 1)} |",
            flush=True,
        )


def most_frequent_tag() -> float:
    """The test accuracy of each word's most frequent tag in training."""
    train, test = (
        read_tagged(read_documents(data_file(f"tagging/en_ewt.{split}.tsv"))[0])
        for split in ("train", "test")
    )
    tags: dict[str, Counter[str]] = defaultdict(Counter)
    commonest: Counter[str] = Counter()
    for sentence in train:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            tags[word][tag] += 1
            commonest[tag] += 1
    (default, _), *_ = commonest.most_common(1)
    best = {word: counts.most_common(1)[0][0] for word, counts in tags.items()}
    hits = [
        best.get(word, default) == tag
        for sentence in test
        for word, tag in zip(sentence.words, sentence.tags, strict=True)
    ]
    return sum(hits) / len(hits)


if __name__ == "__main__":
    measure_tagging(tyro.cli(Options))
