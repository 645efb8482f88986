"""CRF speed beside pytorch-crf: same weights, same ragged batch, float32.

    pip install -e ".[bench]" && python scripts/bench_crf.py

Both sides first have to give the same loss, gradients and best tags, and the k best tags have to
be distinct and in order. Then the sides are timed in turns, compilation not: a turn is some calls
in a row, since the first after another library finds its code and data out of the caches. ratio =
the seconds of pytorch-crf's best side / ours of the same round: above 1 is faster. It runs on one
thread, which is its best on small batches; `--threads 1 2` tries two as well, whose idle ones spin
for a while after each run and slow down what comes next. SynJax is not measured: it does
not install beside the JAX of today.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchcrf
import tyro
from bench import interleaved, machine, spread

from jaxseq.nn.crf import negative_log_likelihood
from jaxseq.ops.chain import Chain
from jaxseq.ops.chain_paths import k_best, viterbi

Potentials = tuple[jax.Array, ...]
Sides = dict[str, Callable[[], Any]]

LOSS, BEST, SEVERAL = "loss and gradient", "best tags", "k best tags"
NAMES = ("logits", "transitions", "initial", "final")


def bench_crf(
    batch: int = 32,
    length: int = 50,
    num_tags: int = 20,
    k: int = 5,
    threads: tuple[int, ...] = (1,),
    rounds: int = 31,
    calls: int = 10,
    seed: int = 0,
) -> None:
    """Times loss with gradient, the best tags and the k best tags of a CRF.

    Args:
        batch: Sentences.
        length: Words of the longest; the others have between half of that and that.
        num_tags: Tags.
        k: How many of the best taggings to find.
        threads: Numbers of threads that pytorch-crf is timed with.
        rounds: Turns of each side.
        calls: Calls in a turn, whose mean counts: as in training, where one follows another.
        seed: Seed of weights, scores, tags and lengths.
    """
    print(machine("jax", "torch", "pytorch-crf"))
    print(f"batch {batch}, length {length} (ragged), {num_tags} tags, k {k}")
    print(f"{rounds} rounds of {calls} calls")
    random = np.random.default_rng(seed)
    lengths = random.integers(length // 2, length + 1, batch)
    lengths[0] = length
    case = Case(
        logits=random.standard_normal((batch, length, num_tags), np.float32),
        tags=random.integers(0, num_tags, (batch, length)),
        lengths=lengths,
        transitions=random.standard_normal((num_tags, num_tags), np.float32),
        initial=random.standard_normal(num_tags, np.float32),
        final=random.standard_normal(num_tags, np.float32),
    )
    ours, theirs = our_sides(case, k), {n: their_sides(case, n) for n in sorted(set(threads))}
    check(ours, theirs[min(theirs)], k)
    for what in (LOSS, BEST):
        peers = {f"pytorch-crf, {n} threads": sides[what] for n, sides in theirs.items()}
        report(what, {"jaxseq": ours[what], **peers}, rounds, calls)
    report(f"{k} best tags", {"jaxseq": ours[SEVERAL]}, rounds, calls)


@dataclasses.dataclass(frozen=True)
class Case:
    """One batch and one set of weights, in NumPy."""

    logits: np.ndarray  # (B, T, C)
    tags: np.ndarray  # (B, T)
    lengths: np.ndarray  # (B,)
    transitions: np.ndarray  # (C, C)
    initial: np.ndarray  # (C,)
    final: np.ndarray  # (C,)


def our_sides(case: Case, k: int) -> Sides:
    """Our three computations, compiled and ready to be timed."""
    tags, lengths = jnp.asarray(case.tags), jnp.asarray(case.lengths)

    def chain(potentials: Potentials) -> Chain:
        logits, transitions, initial, final = potentials
        return Chain(logits, transitions, initial[None], final[None], lengths)

    def loss(potentials: Potentials) -> jax.Array:
        return negative_log_likelihood(chain(potentials), tags)[0]

    gradient = jax.jit(jax.value_and_grad(loss))
    best, several = (
        jax.jit(lambda potentials: viterbi(chain(potentials))[0]),
        jax.jit(lambda potentials: k_best(chain(potentials), k)),
    )
    potentials = tuple(
        jnp.asarray(each) for each in (case.logits, case.transitions, case.initial, case.final)
    )
    return {
        LOSS: lambda: jax.block_until_ready(gradient(potentials)),
        BEST: lambda: jax.block_until_ready(best(potentials)),
        SEVERAL: lambda: jax.block_until_ready(several(potentials)),
    }


def their_sides(case: Case, threads: int) -> Sides:
    """The first two by pytorch-crf, ready to be timed with this number of threads."""
    model = torchcrf.CRF(case.logits.shape[2], batch_first=True)
    with torch.no_grad():
        model.transitions.copy_(torch.tensor(case.transitions))
        model.start_transitions.copy_(torch.tensor(case.initial))
        model.end_transitions.copy_(torch.tensor(case.final))
    logits = torch.tensor(case.logits, requires_grad=True)
    tags = torch.tensor(case.tags)
    mask = torch.arange(case.logits.shape[1])[None] < torch.tensor(case.lengths)[:, None]

    def loss() -> tuple:
        torch.set_num_threads(threads)
        model.zero_grad()
        logits.grad = None
        value = -model(logits, tags, mask=mask)
        value.backward()
        weights = model.transitions, model.start_transitions, model.end_transitions
        return value.detach(), tuple(each.grad for each in (logits, *weights))

    def best() -> list:
        torch.set_num_threads(threads)
        with torch.no_grad():
            return model.decode(logits, mask=mask)

    return {LOSS: loss, BEST: best}


def check(ours: Sides, theirs: Sides, k: int) -> None:
    """Leaves with a message where the two sides differ; the k best are checked among themselves."""
    value, gradients = ours[LOSS]()
    their_value, their_gradients = theirs[LOSS]()
    pairs = [("loss", value, their_value)]
    pairs += [
        (f"gradient of the {name}", a, b)
        for name, a, b in zip(NAMES, gradients, their_gradients, strict=True)
    ]
    for what, a, b in pairs:
        a, b = np.asarray(a, np.float64), b.numpy().astype(np.float64)
        if np.max(np.abs(a - b)) > 1e-4 * max(1.0, np.max(np.abs(b))):
            raise SystemExit(f"the two sides differ in the {what}, nothing is timed")
    best = np.asarray(ours[BEST]())
    if any(list(row[: len(tags)]) != tags for row, tags in zip(best, theirs[BEST](), strict=True)):
        raise SystemExit("the two sides find different best tags, nothing is timed")
    paths, scores = (np.asarray(each) for each in ours[SEVERAL]())
    distinct = all(len({tuple(path) for path in row}) == k for row in paths)
    if not (distinct and np.array_equal(paths[:, 0], best) and np.all(np.diff(scores) <= 1e-3)):
        raise SystemExit(f"the {k} best tags are not the best first, or not {k}; nothing is timed")
    print("both sides give the same loss, gradients and best tags")


def report(what: str, sides: Sides, rounds: int, calls: int) -> None:
    """Times the sides in turns and prints a line for each; the first is ours."""
    seconds = interleaved(sides, rounds, calls)
    ours, *peers = (seconds[side] for side in sides)
    print(f"  {what}")
    for side, taken in seconds.items():
        print(f"    {side:24s} {spread(taken, 1e3)} ms")
    if peers:
        print(f"    ratio {spread(min(peers, key=np.median) / ours)}")


if __name__ == "__main__":
    tyro.cli(bench_crf)
