"""The loss over a vocabulary in chunks against the whole logits: memory, and time of a gradient.

    python scripts/bench_vocabulary_loss.py

Hidden states and the tied table in, loss and both gradients out, bfloat16 products: the end of a
language model by itself. memory = what the compiled program needs beside its arguments and its
result. ratio = seconds with whole logits / in chunks, in the same round.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from bench import interleaved, machine, spread

from jaxseq.ops.linear import linear
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.vocabulary_loss import OutputMap, linear_cross_entropy


@dataclasses.dataclass(frozen=True)
class Case:
    """The sizes that matter."""

    batch: int
    time: int
    width: int
    vocab: int


CASES = {
    "characters": Case(12, 64, 128, 65),
    "GPT-2": Case(2, 512, 768, 50304),
    "GPT-2, larger batch": Case(8, 1024, 768, 50304),
}
CHUNKS = (64, 128, 256, 512)


def bench_vocabulary_loss(
    cases: tuple[str, ...] = ("characters", "GPT-2"), rounds: int = 9
) -> None:
    """Prints a table.

    Args:
        cases: Names of sizes: characters, "GPT-2", "GPT-2, larger batch".
        rounds: How often each side is timed.
    """
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), bfloat16 products; {machine('jax')}")
    for name in cases:
        case = CASES[name]
        arrays = draw(case)
        chunks = [chunk for chunk in CHUNKS if chunk <= case.time]
        losses = {0: whole} | {chunk: partial(in_chunks, chunk) for chunk in chunks}
        runs, memory, values = {}, {}, {}
        for chunk, loss in losses.items():
            step = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()
            needs = step.memory_analysis()
            assert needs is not None  # of a backend that plans its memory, as all of ours do
            memory[chunk] = needs.temp_size_in_bytes / 2**20
            runs[chunk] = partial(step, *arrays)
            values[chunk] = step(*arrays)
            check(values[chunk], values[0])
        seconds = interleaved(runs, rounds)
        print(f"{name}: {case}")
        for chunk in losses:
            what = f"chunks of {chunk}" if chunk else "whole logits"
            taken, ratio = seconds[chunk], seconds[0] / seconds[chunk]
            print(
                f"  {what:>14}: {memory[chunk]:8.1f} MiB, {spread(taken, 1e3)} ms, "
                f"ratio {spread(ratio)}"
            )


def draw(case: Case) -> tuple[jax.Array, ...]:
    """Hidden states, table, targets and mask."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(case.batch, case.time, case.width)).astype(np.float32)
    table = rng.normal(scale=0.02, size=(case.vocab, case.width)).astype(np.float32)
    targets = rng.integers(0, case.vocab, (case.batch, case.time), np.int32)
    return tuple(map(jnp.asarray, (hidden, table, targets, np.ones(targets.shape, bool))))


def whole(hidden: jax.Array, table: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """The loss by way of all logits."""
    logits = linear(hidden, table.T, dtype=jnp.dtype("bfloat16"))
    return softmax_cross_entropy(logits, targets, mask)[0]


def in_chunks(
    chunk: int, hidden: jax.Array, table: jax.Array, targets: jax.Array, mask: jax.Array
) -> jax.Array:
    """The same, never with all logits."""
    output = OutputMap(table.T, dtype=jnp.dtype("bfloat16"))
    return linear_cross_entropy(hidden, output, targets, mask, chunk=chunk)[0]


def check(found: tuple, expected: tuple) -> None:
    """Both sides compute the same thing."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-2 * np.abs(b).max())


if __name__ == "__main__":
    tyro.cli(bench_vocabulary_loss)
