"""Character language models on tiny Shakespeare, all with the tokens of nanoGPT's laptop budget.

    JAXSEQ_DATA=DIR python scripts/measure_shakespeare.py [--models gpt lstm] [--seeds 0]

Trains each model with each seed through the command line, one after another, and evaluates it
over the whole validation split: the GPT of `experiments/gpt_shakespeare.py` and the cells of
`experiments/rnn_char.py`. A run directory that already holds a run is not trained again.
"""

import dataclasses
from pathlib import Path

import tyro
from measure import data_file, mean_and_spread, measure

NANOGPT_LOSS = 1.898
"""nanoGPT's laptop configuration after the same tokens, over the same split."""


DEEP: list[object] = [
    *("--model.num-layers", 4, "--model.width", 128, "--model.mlp-hidden", 256),
]
"""What cells without a nonlinearity from step to step are stacked like."""

MODELS: dict[str, list[object]] = {
    "gpt": [],
    "lstm": ["--model.cell", "lstm"],
    "gru": ["--model.cell", "gru"],
    "mingru": ["--model.cell", "mingru", *DEEP],
    "rglru": ["--model.cell", "rglru", *DEEP],
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, evaluates and prints a table; see the head of this file."""

    models: tuple[str, ...] = tuple(MODELS)
    """"gpt", or a cell of `experiments/rnn_char.py`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run each."""
    runs: Path = Path("runs") / "shakespeare"
    """Where the run directories go."""


def measure_shakespeare(options: Options) -> None:
    """Trains and evaluates every model with every seed, and prints a row a model."""
    text = data_file("lm/tinyshakespeare.txt")
    print(f"nanoGPT: loss {NANOGPT_LOSS} after 2000 x 12 x 64 tokens")
    print("\n| model | parameters | loss | bits per byte | seeds | CPU minutes a run |")
    print("|---|---|---|---|---|---|")
    for model in options.models:
        file = "gpt_shakespeare.py" if model == "gpt" else "rnn_char.py"
        results = [
            measure(
                file,
                options.runs / f"{model}-{seed}",
                ["--seed", seed, "--data.path", text, *MODELS[model]],
            )
            for seed in options.seeds
        ]
        losses = [result.metrics["loss"] for result in results]
        bits = [result.metrics["bits_per_byte"] for result in results]
        each = ", ".join(f"{loss:.4f}" for loss in losses)
        print(
            f"| {model} | {results[0].parameters:,} | {mean_and_spread(losses, 4)} | "
            f"{mean_and_spread(bits, 4)} | {each} | "
            f"{mean_and_spread([result.cpu_minutes for result in results], 1)} |",
            flush=True,
        )


if __name__ == "__main__":
    measure_shakespeare(tyro.cli(Options))
