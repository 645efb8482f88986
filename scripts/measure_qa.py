"""Questions about texts: `experiments/qa.py` on slices of SQuAD, from scratch and pretrained,
beside a sliding window.

    JAXSEQ_DATA=DIR python scripts/measure_qa.py [--seeds 0] [--steps 4000]

5,520 questions to train on, 957 about four other articles to score on: the shared data has no more,
so nothing was chosen by them and nothing is left for a test. The encoder is pretrained on what
running English JAXSEQ_DATA has (scripts/measure_pretraining.py), without the four articles, in
windows as long as those of the questions; its vocabulary is everyone's here. A run directory that
already holds the finished run is not trained again. What the sliding window reaches goes to
figures-window.json in the first run.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

import tyro
from measure import data_file, jaxseq, measure, score_row, write_figures
from measure_pretraining import documents
from sliding_window import sliding_window

from jaxseq.data.rows import BadRows
from jaxseq.data.squad_files import Question, read_squad
from jaxseq.data.text import read_documents
from jaxseq.tasks.squad_metrics import best_scores

METRICS = ("exact_match", "f1")


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates and prints a table; see the head of this file."""

    seeds: tuple[int, ...] = (0,)
    """One run each of each model."""
    steps: int = 4000
    """Of pretraining."""
    runs: Path = Path("runs") / "qa"
    """Where text, tokenizer and run directories go."""


def measure_qa(options: Options) -> None:
    """Trains and evaluates every model with every seed, and prints a row each."""
    held_out = questions("dev")
    text, tokenizer = options.runs / "text.txt", options.runs / "tokenizer"
    options.runs.mkdir(parents=True, exist_ok=True)
    if not text.exists():
        text.write_text("\n\n".join(texts(held_out)) + "\n", encoding="utf-8")
    if not tokenizer.exists():
        words = ["--data.path", text, "--kind", "wordpiece", "--lowercase", "--vocab-size", 8000]
        jaxseq(["tokenizer", tokenizer, *words])
    data = ["--data.tokenizer", tokenizer]

    print("| model | exact match, % | F1, % | F1 of each seed, 95 % | CPU minutes |")
    print("|---|---|---|---|---|")
    window = window_scores(held_out)
    scores = " | ".join(f"{100 * window[metric]:.2f}" for metric in METRICS)
    print(f"| sliding window | {scores} | | |", flush=True)
    pretrained = options.runs / f"bert-{options.steps}"
    reading = ["--data.path", text, "--data.sentences", "line", "--data.no-next-sentence"]
    sizes: list[object] = ["--data.packing", "--data.context", 192, "--data.batch-size", 11]
    sizes += ["--model.num-types", 3, "--num-steps", options.steps]
    result = measure("bert_pretrain.py", pretrained, [*data, *reading, *sizes])
    minutes = result.cpu_minutes
    models = {
        "Transformer": ("qa.py", []),
        "LSTM": ("qa.py:recurrent", []),
        f"Transformer, pretrained ({minutes:.1f} minutes)": (
            "qa.py",
            ["--finetune.from-run", pretrained],
        ),
    }
    for place, (name, (experiment, start)) in enumerate(models.items()):
        folder = ("scratch", "recurrent", "pretrained")[place]
        results = [
            measure(
                experiment,
                options.runs / f"{folder}-{seed}",
                ["--seed", seed, *data, *start],
            )
            for seed in options.seeds
        ]
        print(score_row(name, results, METRICS, "f1"), flush=True)
    title = "sliding window (Richardson et al. 2013) on the same questions"
    write_figures(options.runs / f"scratch-{options.seeds[0]}", "window", title, window)


def questions(part: str) -> list[Question]:
    """The questions of a slice."""
    (document,) = read_documents(data_file(f"qa/squad11.{part}.json"))
    return read_squad(document, BadRows())


def window_scores(held_out: Sequence[Question]) -> dict[str, float]:
    """{"exact_match", "f1"} of the sliding window."""
    each = [
        best_scores(
            sliding_window(question.question, question.context),
            [answer.text for answer in question.answers],
        )
        for question in held_out
    ]
    return {
        name: statistics.mean(of) for name, of in zip(METRICS, zip(*each, strict=True), strict=True)
    }


def texts(held_out: Sequence[Question]) -> list[str]:
    """Documents of one sentence a line, without the contexts of the held-out questions."""
    known = {_sentences(question.context) for question in held_out}
    own = dict.fromkeys(_sentences(question.context) for question in questions("train"))
    return [text for text in (*documents(), *own) if text not in known]


def _sentences(context: str) -> str:
    return context.replace(". ", ".\n")


if __name__ == "__main__":
    measure_qa(tyro.cli(Options))
