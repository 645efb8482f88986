"""Short texts packed into rows against short texts padded to rows: tokens learned from a second.

    JAXSEQ_DATA=DIR python scripts/bench_packing.py

The training step of masked-token pretraining (experiments/bert_pretrain.py) on the sentences of
the sentiment data, each a document of its own. Packed and padded batches have one shape, and a
step of either takes as long; a packed one holds more tokens. Reading the batches is timed too.
ratio = tokens a second packed / padded, in the same round.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from bench import interleaved, machine, spread
from measure import data_file

from jaxseq.data.masked_text import MaskedBatches, MaskedText
from jaxseq.models.bert import BertConfig
from jaxseq.parallel.mesh import one_device
from jaxseq.tasks.masked_lm import MaskedLM
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.state import create_state
from jaxseq.training.step import make_train_step

KINDS = {"padded": False, "packed": True}


def bench_packing(context: int = 64, batch_size: int = 32, rounds: int = 15) -> None:
    """Times training steps, packed and padded in turns.

    Args:
        context: Tokens of a row.
        batch_size: Rows in a batch.
        rounds: How often each is timed, ten steps at a time.
    """
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), bfloat16 products; {machine('jax')}")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        lines = data_file("sentiment/rt_polarity.train.tsv").read_text(encoding="utf-8")
        sentences = [line.split("\t")[1] for line in lines.splitlines()]
        text.write_text("\n\n".join(sentences), encoding="utf-8")
        sides = {name: Side(text, packing, context, batch_size) for name, packing in KINDS.items()}
    for name, side in sides.items():
        print(f"{name}: {side.fill():.1%} of {batch_size} x {context} places hold a token")
    seconds = interleaved({name: side.step for name, side in sides.items()}, rounds, calls=10)
    speed = {
        name: side.fill() * batch_size * context / seconds[name] for name, side in sides.items()
    }
    for name in sides:
        print(f"{name}: {spread(seconds[name], 1e3)} ms a step, {spread(speed[name])} tokens/s")
    print(f"ratio {spread(speed['packed'] / speed['padded'])}")


class Side:
    """Training on packed or on padded rows."""

    def __init__(self, text: Path, packing: bool, context: int, batch_size: int):
        vocabulary = str(data_file("vocab/bert-base-uncased-vocab.txt"))
        data = MaskedText(
            path=text,
            tokenizer=vocabulary,
            sentences="line",
            context=context,
            batch_size=batch_size,
            packing=packing,
        )
        corpus = data.load()
        self.batches: MaskedBatches = data.train_batches(corpus, seed=0)
        task, optimizer = MaskedLM(), Optimizer()
        model: Any = BertConfig(num_layers=4, dtype="bfloat16", unroll_layers=4)
        model = task.resolve(model, data, corpus.tokenizer)
        rule = optimizer.build(1000)
        key = jax.random.key(0)
        self.state = create_state(partial(task.init, model), rule, one_device(), key)
        step = make_train_step(partial(task.loss, model), rule, optimizer.learning_rates(1000), key)
        self.train_step = jax.jit(step, donate_argnums=0)
        self.number = 0

    def step(self) -> jax.Array:
        """One training step, its batch read first."""
        self.state, metrics = self.train_step(self.state, self.batches[self.number])
        self.number += 1
        return metrics["loss"]

    def fill(self) -> float:
        """The share of places that hold a token, over 50 batches."""
        return float(np.mean([(self.batches[i]["segments"] != 0).mean() for i in range(50)]))


if __name__ == "__main__":
    tyro.cli(bench_packing)
