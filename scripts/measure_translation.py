"""English to French: Transformer, recurrent with and without attention, and PyTorch's tutorial.

    JAXSEQ_DATA=DIR python scripts/measure_translation.py [--minutes 45]

Each of ours trains for the steps in its experiment, about 45 processor minutes on one core; the
tutorial's model trains for `--minutes` of them to the second. All see the same pairs and subwords,
and are scored on the test split against all references. A run directory that already holds the
finished run is not trained again. The tutorial's model needs torch (`--no-peer` leaves it out).
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from measure import COST_FILE, measure

from jaxseq.data.code_points import text_of
from jaxseq.data.pair_tokenizers import SubwordPairTokenizer
from jaxseq.data.tokenizers import load_tokenizer
from jaxseq.tasks.translation_metrics import bleu, bleu_counts, chrf, chrf_counts
from jaxseq.training.bootstrap import bootstrap_intervals
from jaxseq.training.experiment import read_experiment
from jaxseq.training.run_directory import provenance

NAMES = {"experiment": "transformer", "attention": "attention", "plain": "plain"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates and prints a table; see the head of this file."""

    variants: tuple[str, ...] = tuple(NAMES)
    """Which experiments of translate.py."""
    minutes: float = 45.0
    """Processor minutes that the tutorial's model trains for."""
    peer: bool = True
    """Train the tutorial's model too."""
    runs: Path = Path("runs")
    """Where the run directories go."""


def measure_translation(options: Options) -> None:
    """Trains and evaluates every model, and prints a row each."""
    print("| model | parameters | BLEU | chrF | CPU minutes |")
    print("|---|---|---|---|---|")
    for variant in options.variants:
        result = measure(
            f"translate.py:{variant}",
            options.runs / f"translate-{NAMES[variant]}",
            split="test",
        )
        _print_row(variant, result.parameters, result.metrics, result.cpu_minutes)
    if options.peer:
        _peer(options)


def _peer(options: Options) -> None:
    import torch_seq2seq

    like = options.runs / f"translate-{NAMES['experiment']}"
    experiment, coder = read_experiment(like), load_tokenizer(like / "tokenizer.json")
    assert isinstance(coder, SubwordPairTokenizer)
    corpus = experiment.data.load(coder)
    pairs = [(_numbers(e, "source"), _numbers(e, "target")) for e in corpus.train.examples]
    model = torch_seq2seq.train(
        pairs,
        coder.sizes[1],
        coder.start,
        options.minutes,
        lambda line: print(line, file=sys.stderr),
    )
    held_out = corpus.test.examples
    sources = [_numbers(example, "source") for example in held_out]
    written = torch_seq2seq.translate(model, sources, coder.start, coder.end)
    outputs = [coder.join(coder.target_units(numbers)) for numbers in written]
    references = [[text_of(row) for row in e["references"] if row.any()] for e in held_out]
    rows = {
        name: np.stack(list(map(count, outputs, references)))
        for name, count in (("bleu", bleu_counts), ("chrf", chrf_counts))
    }
    metrics = _metrics({name: counts.sum(axis=0) for name, counts in rows.items()})
    run_dir = options.runs / "translate-torch-tutorial"
    run_dir.mkdir(parents=True, exist_ok=True)
    found = {
        "experiment": "translate.py",
        "model": "PyTorch's tutorial: GRU 128, Bahdanau attention, greedy",
        "split": "test",
        "metrics": metrics | {"pairs": len(outputs)},
        "intervals": bootstrap_intervals(_metrics, rows),
        **provenance(),
        "command": sys.argv,
    }
    (run_dir / "evaluation-test.json").write_text(json.dumps(found, indent=2))
    (run_dir / COST_FILE).write_text(json.dumps({"cpu_minutes": options.minutes}))
    size = sum(parameter.numel() for parameter in model.parameters())
    _print_row("PyTorch's tutorial", size, found["metrics"], options.minutes)


def _metrics(totals: dict[str, Any]) -> dict[str, float]:
    return {"bleu": bleu(totals["bleu"]), "chrf": chrf(totals["chrf"])}


def _numbers(example: dict[str, Any], side: str) -> Sequence[int]:
    return example["source" if side == "source" else "targets"].tolist()


def _print_row(name: str, size: int, metrics: dict[str, Any], minutes: float) -> None:
    scores = f"{metrics['bleu']:.2f} | {metrics['chrf']:.2f}"
    print(f"| {name} | {size:,} | {scores} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    measure_translation(tyro.cli(Options))
