"""CTC loss and gradient beside optax, and beside PyTorch where it is installed.

    python scripts/bench_ctc.py

One ragged batch in float32. First the sides have to give the same losses and gradients as our own
in float64, ours to 1e-4 of the loss; the errors of all are printed. Then they are timed in turns,
compilation not: a turn is some calls in a row, as in training. ratio = the other's seconds / ours
of the same round: above 1 is faster.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from bench import interleaved, machine, spread

from jaxseq.ops.ctc import ctc_loss

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Side = Callable[[], tuple[Any, Any]]
LOSS, GRADIENT = "loss", "loss and gradient"


def bench_ctc(
    batch: int = 16,
    frames: int = 200,
    vocab_size: int = 32,
    labels: int = 40,
    full: bool = False,
    threads: int = 2,
    rounds: int = 31,
    calls: int = 10,
    seed: int = 0,
) -> None:
    """Times CTC loss, with and without its gradient.

    Args:
        batch: Utterances.
        frames: Frames of the longest; the others have between half of that and that.
        vocab_size: Symbols, the blank counted.
        labels: Labels of the longest; the others have between half of that and that.
        full: Every utterance as long as the longest.
        threads: Threads of PyTorch.
        rounds: Turns of each side.
        calls: Calls in a turn, whose mean counts.
        seed: Seed of logits, labels and lengths.
    """
    torch_too = find_spec("torch") is not None
    print(machine("jax", "optax", *(["torch"] if torch_too else [])))
    print(f"batch {batch}, {frames} frames, {vocab_size} symbols, {labels} labels", end="; ")
    print("full" if full else "ragged", end=f"; {rounds} rounds of {calls} calls\n")
    random = np.random.default_rng(seed)
    lengths = random.integers(frames // 2, frames + 1, batch)
    counts = random.integers(labels // 2, labels + 1, batch)
    longest = slice(None) if full else slice(1)
    lengths[longest], counts[longest] = frames, labels
    case = (
        random.standard_normal((batch, frames, vocab_size), np.float32),
        lengths,
        random.integers(1, vocab_size, (batch, labels)),
        counts,
    )
    sides = {"jaxseq": our_sides(case), "optax": optax_sides(case)}
    if torch_too:
        sides["torch"] = torch_sides(case, threads)
    check(case, {name: each[GRADIENT] for name, each in sides.items()})
    for what in (GRADIENT, LOSS):
        seconds = interleaved({name: each[what] for name, each in sides.items()}, rounds, calls)
        print(f"  {what}")
        for name, taken in seconds.items():
            ratio = f"  ratio {spread(taken / seconds['jaxseq'])}" if name != "jaxseq" else ""
            print(f"    {name:8s} {spread(taken, 1e3)} ms{ratio}")


def jax_sides(loss: Callable[[jax.Array], jax.Array], logits: np.ndarray) -> dict[str, Side]:
    """The two computations of losses (B,) from logits, compiled."""

    def total(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses = loss(logits)
        return jnp.sum(losses), losses

    forward = jax.jit(loss)
    gradient = jax.jit(jax.value_and_grad(total, has_aux=True))
    device_logits = jnp.asarray(logits)

    def both() -> tuple[jax.Array, jax.Array]:
        (_, losses), slope = gradient(device_logits)
        return losses, slope

    return {LOSS: lambda: (forward(device_logits), None), GRADIENT: both}


def our_sides(case: Case) -> dict[str, Side]:
    """Ours; which labels are possible is computed too."""
    logits, lengths, labels, counts = case
    rest = (jnp.asarray(lengths), jnp.asarray(labels), jnp.asarray(counts))
    return jax_sides(lambda logits: ctc_loss(logits, *rest)[0], logits)


def optax_sides(case: Case) -> dict[str, Side]:
    """optax.ctc_loss, which takes paddings in place of lengths."""
    logits, lengths, labels, counts = case
    frame_padding = jnp.asarray(np.arange(logits.shape[1])[None] >= lengths[:, None], jnp.float32)
    label_padding = jnp.asarray(np.arange(labels.shape[1])[None] >= counts[:, None], jnp.float32)
    numbers = jnp.asarray(labels)
    return jax_sides(
        lambda logits: optax.ctc_loss(logits, frame_padding, numbers, label_padding), logits
    )


def torch_sides(case: Case, threads: int) -> dict[str, Side]:
    """torch.nn.functional.ctc_loss behind a log-softmax."""
    import torch

    torch.set_num_threads(threads)
    logits = torch.tensor(case[0], requires_grad=True)
    lengths, labels, counts = map(torch.tensor, case[1:])

    def forward() -> Any:
        log_probs = logits.log_softmax(-1).transpose(0, 1)
        return torch.nn.functional.ctc_loss(log_probs, labels, lengths, counts, reduction="none")

    def loss() -> tuple[Any, None]:
        with torch.no_grad():
            return forward().numpy(), None

    def both() -> tuple[Any, Any]:
        logits.grad = None
        losses = forward()
        losses.sum().backward()
        assert logits.grad is not None
        return losses.detach().numpy(), logits.grad.numpy()

    return {LOSS: loss, GRADIENT: both}


def check(case: Case, sides: dict[str, Side]) -> None:
    """Leaves with a message where a side differs from ours in float64."""
    with jax.enable_x64(True):
        exact = our_sides((case[0].astype(np.float64), *case[1:]))[GRADIENT]()
    exact_losses, exact_gradient = map(np.asarray, exact)
    for name, side in sides.items():
        losses, gradient = map(np.asarray, side())
        errors = (
            np.max(np.abs(losses - exact_losses) / np.maximum(1, exact_losses)),
            np.max(np.abs(gradient - exact_gradient)),
        )
        print(f"  {name:8s} largest error of a loss {errors[0]:.1e}, of a slope {errors[1]:.1e}")
        if not max(errors) < (1e-4 if name == "jaxseq" else 1e-2):
            raise SystemExit(f"{name} computes something else, nothing is timed")


if __name__ == "__main__":
    tyro.cli(bench_ctc)
