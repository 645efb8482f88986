"""minGRU over sequences of many lengths: one step at a time, and in each parallel form.

    python scripts/bench_recurrence.py

All forms are checked to give the same outputs and gradients, then timed in turns, on the device
that JAX sees. ratio = seconds of "scan" / seconds of the form, in the same round (above 1 is
faster than the loop); the last column is what "auto" takes, over the best of the other three.
"""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from bench import interleaved, machine, spread

from jaxseq.nn.linear_recurrent import MinGRU
from jaxseq.ops.recurrence import Method, linear_recurrence
from jaxseq.typing import Array, PyTree

METHODS: tuple[Method, ...] = ("scan", "associative", "chunked", "auto")


def bench_recurrence(
    lengths: tuple[int, ...] = (64, 256, 1024, 4096, 16384),
    batch_size: int = 8,
    features: int = 128,
    rounds: int = 15,
) -> None:
    """Times a minGRU layer, forward and forward+backward.

    Args:
        lengths: Steps in a sequence.
        batch_size: Sequences in a batch.
        features: Size of the inputs and of the state.
        rounds: How often each form is timed, in turns.
    """
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), float32; {machine('jax')}")
    print(f"batch {batch_size}, features {features}, {rounds} rounds; median ms, ratio [quartiles]")
    cell = MinGRU(features)
    for num_steps in lengths:
        x = jax.random.normal(jax.random.key(0), (batch_size, num_steps, features))
        params = cell.init(jax.random.key(1), x[:, :1])
        forward = {method: jax.jit(partial(outputs, cell, method)) for method in METHODS}
        both = {method: jax.jit(partial(gradients, cell, method)) for method in METHODS}
        expected, _ = jax.jit(cell.apply)(params, x)
        for method in METHODS:
            check_equal(forward[method](params, x), expected, method)
            check_equal(both[method](params, x), both["scan"](params, x), method)
        for what, forms in (("forward", forward), ("forward+backward", both)):
            runs = {method: partial(form, params, x) for method, form in forms.items()}
            print(f"  T {num_steps:5d} {what:16s} {row(interleaved(runs, rounds))}")


def outputs(cell: MinGRU, method: Method, params: PyTree, x: Array) -> Array:
    """What the layer computes, in the form `method`."""
    a, b = cast(tuple[Array, Array], cell.apply(params, x, method="_gates"))
    return linear_recurrence(a, b, method=method)[0]


def gradients(cell: MinGRU, method: Method, params: PyTree, x: Array) -> PyTree:
    """Gradients of the mean square of the outputs by parameters and input."""

    def loss(params: PyTree, x: Array) -> Array:
        return jnp.mean(jnp.square(outputs(cell, method, params, x)))

    return jax.grad(loss, argnums=(0, 1))(params, x)


def check_equal(actual: PyTree, expected: PyTree, method: str) -> None:
    """Stops if two forms differ by more than float32 explains."""
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        error = float(jnp.max(jnp.abs(a - e)) / jnp.max(jnp.abs(e)))
        if not error < 1e-4:
            raise SystemExit(f"'{method}' differs from 'scan' by {error:.1e} of the largest value")


def row(seconds: dict[Method, np.ndarray]) -> str:
    """Median milliseconds and ratio to the loop of each form, and how far "auto" is off."""
    cells = []
    for method, times in seconds.items():
        ratio = "" if method == "scan" else f" {spread(seconds['scan'] / times)}"
        cells.append(f"{method} {1e3 * np.median(times):.2f}{ratio}")
    best = min((times for method, times in seconds.items() if method != "auto"), key=np.median)
    return f"{'  '.join(cells)}  auto/best {np.median(seconds['auto'] / best):.2f}"


if __name__ == "__main__":
    tyro.cli(bench_recurrence)
