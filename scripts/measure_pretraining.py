"""Does pretraining help? A BERT pretrained here, fine-tuned on sentiment, against itself from
scratch, and both beside a logistic regression on bags of words.

    JAXSEQ_DATA=DIR python scripts/measure_pretraining.py [--steps 6000] [--seeds 0]

Text to pretrain on: what running English JAXSEQ_DATA has (abstracts of SciTLDR, contexts of SQuAD,
UD English EWT, tiny Shakespeare), and the sentences of the sentiment
data's training split, without their labels. Nothing of its dev and test splits. Sentences are cut
to the 64 tokens that the pretrained model has positions for (one is longer). A run directory
that already holds a finished run is not trained again. Needs scikit-learn.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import tyro
from bag_of_words import bag_of_words_accuracy
from measure import data_file, jaxseq, mean_and_spread, measure

from jaxseq.data.tagged import read_tagged
from jaxseq.data.text import read_documents

LIKE = [
    *("--model.num-layers", 4, "--model.width", 128, "--model.dropout", 0.2),
    *("--task.hidden-words", 0.0, "--optimizer.learning-rate", 5e-4),
    *("--optimizer.ema-decay", 0.0, "--num-steps", 1300),
]
"""What makes a classifier like the pretrained encoder, and its training like it too."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates and prints a table; see the head of this file."""

    steps: int = 6000
    """Of pretraining."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of fine-tuning and of training from scratch: one run each."""
    runs: Path = Path("runs") / "pretraining"
    """Where text, tokenizer and run directories go."""


def measure_pretraining(options: Options) -> None:
    """Pretrains once, trains with every seed, and prints a row a model."""
    text, tokenizer = options.runs / "text.txt", options.runs / "tokenizer"
    options.runs.mkdir(parents=True, exist_ok=True)
    if not text.exists():
        text.write_text("\n\n".join(documents()) + "\n", encoding="utf-8")
    if not tokenizer.exists():
        words = ["--data.path", text, "--kind", "wordpiece", "--lowercase", "--vocab-size", 8000]
        jaxseq(["tokenizer", tokenizer, *words])
    data = ["--data.tokenizer", tokenizer]
    pretrained = options.runs / f"bert-{options.steps}"
    where = ["--data.path", text, "--data.sentences", "line", "--data.no-next-sentence"]
    result = measure(
        "bert_pretrain.py",
        pretrained,
        [*data, *where, "--data.packing", "--num-steps", options.steps],
    )
    print(
        f"pretraining: masked-token loss {result.metrics['loss']:.3f}, accuracy "
        f"{100 * result.metrics['masked_accuracy']:.1f} %, {result.cpu_minutes:.1f} CPU minutes"
    )
    print("| model | test accuracy, % | 95 % interval of each seed | CPU minutes |")
    print("|---|---|---|---|")
    linear = 100 * bag_of_words_accuracy(sentiment("train"), sentiment("test"))
    print(f"| bag of words, logistic regression | {linear:.2f} | | |", flush=True)
    kinds = {"from scratch": [], "pretrained": ["--finetune.from-run", pretrained]}
    for kind, start in kinds.items():
        results = [
            measure(
                "classify.py",
                options.runs / f"{kind.replace(' ', '-')}-{options.steps}-{seed}",
                ["--seed", seed, *data, "--data.max-length", 64, *LIKE, *start],
                split="test",
            )
            for seed in options.seeds
        ]
        right = [100 * result.metrics["accuracy"] for result in results]
        bounds = [result.metrics["intervals"]["accuracy"] for result in results]
        each = ", ".join(f"{100 * low:.1f} to {100 * high:.1f}" for low, high in bounds)
        minutes = mean_and_spread([result.cpu_minutes for result in results], 1)
        print(f"| {kind} | {mean_and_spread(right, 2)} | {each} | {minutes} |", flush=True)


def sentiment(split: str) -> list[tuple[str, str]]:
    """(sentence, label) of a split."""
    (document,) = read_documents(data_file(f"sentiment/rt_polarity.{split}.tsv"))
    rows = [line.split("\t") for line in document.text.splitlines()]
    return [(sentence, label) for label, sentence in rows]


def documents() -> Iterator[str]:
    """Documents of one sentence a line."""
    for sentence, _ in sentiment("train"):
        yield sentence
    for line in read_documents(data_file("summarisation/scitldr_a.train.jsonl"))[0].text.split(
        "\n"
    ):
        if line:
            yield "\n".join(json.loads(line)["source"])
    for name in ("train-slice", "dev"):
        (document,) = read_documents(data_file(f"qa/squad11.{name}.json"))
        for article in json.loads(document.text)["data"]:
            for paragraph in article["paragraphs"]:
                yield paragraph["context"].replace(". ", ".\n")
    for sentence in read_tagged(read_documents(data_file("tagging/en_ewt.train.tsv"))[0]):
        yield " ".join(sentence.words)
    (document,) = read_documents(data_file("lm/tinyshakespeare.txt"))
    yield from document.text.split("\n\n")


if __name__ == "__main__":
    measure_pretraining(tyro.cli(Options))
