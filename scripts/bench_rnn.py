"""Elman, LSTM and GRU beside torch.nn.RNN, LSTM and GRU: same weights, same input.

    pip install -e ".[bench]" && python scripts/bench_rnn.py

Every case first compares outputs and the gradients of the input and of all weights in float32,
which must agree to 1e-5 of the largest; then forward passes, and forward with backward passes (of
the sum of squared outputs, for weights and input), are timed in turns, compilation not. Each side
has a process of its own, idle while the other runs. Parameters and states are float32 on both
sides in both modes; "bfloat16" means operands of products (torch: autocast). ratio = the seconds of
torch's mode of the same precision / ours, in the same round: above 1 is faster than torch; "best"
compares each side's best mode.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
import tyro
from bench import Side, machine, spread

Arrays = dict[str, np.ndarray]
Cell = Literal["elman", "lstm", "gru"]
Serve = Callable[[Connection, "Case"], None]

DTYPES = ("float32", "bfloat16")
PASSES = ("forward", "forward+backward")


@dataclasses.dataclass(frozen=True)
class Case:
    """One cell, and the sizes of its input and state."""

    cell: Cell
    batch: int
    steps: int
    inputs: int
    features: int


SHAPES = {"wide": (32, 64, 128, 256), "long": (16, 512, 64, 64)}


def bench_rnn(
    cells: tuple[Cell, ...] = ("lstm", "gru", "elman"),
    shapes: tuple[Literal["wide", "long"], ...] = ("wide", "long"),
    rounds: int = 21,
    seed: int = 0,
) -> None:
    """Times recurrent layers of jaxseq beside PyTorch.

    Args:
        cells: Cells to time.
        shapes: Sizes: wide is batch 32, 64 steps, 128 to 256 features; long 16, 512, 64 to 64.
        rounds: How often every mode is timed.
        seed: Seed of weights and input.
    """
    print(machine("jax", "torch"))
    for cell in cells:
        for shape in shapes:
            case = Case(cell, *SHAPES[shape])
            print(f"\n{shape}: {case}")
            bench_case(case, rounds, seed)


def bench_case(case: Case, rounds: int, seed: int) -> None:
    """Checks and times one case, and prints a line for each pass and mode."""
    x = np.random.default_rng(seed).normal(size=(case.batch, case.steps, case.inputs))
    x = x.astype(np.float32)
    theirs, ours = Side(torch_side, case), Side(jaxseq_side, case)
    weights = theirs.ask("weights", seed)
    results = [side.ask("check", weights, x) for side in (theirs, ours)]
    error = largest_error(*results)
    print(f"  outputs and gradients in float32 differ by {error:.1e} of their largest")
    if error > 1e-5:
        raise SystemExit("the two sides compute different things; nothing is timed")

    sides = {"torch": theirs, "jaxseq": ours}
    modes = [(side, dtype) for dtype in DTYPES for side in sides]
    for name in PASSES:
        repeats = 3 if name == "forward" else 1
        seconds: dict[tuple[str, str], list[float]] = {mode: [] for mode in modes}
        for _ in range(rounds + 1):
            for side, dtype in modes:
                taken = sides[side].ask("time", name, dtype, weights, x, repeats)
                seconds[side, dtype].append(taken)
        report(name, {mode: np.array(taken[1:]) for mode, taken in seconds.items()})
    for side in sides.values():
        side.close()


def report(name: str, seconds: dict[tuple[str, str], np.ndarray]) -> None:
    """Prints medians, quartiles and ratios of one pass."""
    for dtype in DTYPES:
        ours, theirs = seconds["jaxseq", dtype], seconds["torch", dtype]
        print(f"  {name:16s} {dtype:8s} jaxseq {spread(ours, 1e3)} ms, torch {spread(theirs, 1e3)}")
        print(f"  {'':25s} ratio {spread(theirs / ours)}")
    best = {
        side: min((seconds[side, dtype] for dtype in DTYPES), key=np.median)
        for side in ("torch", "jaxseq")
    }
    print(f"  {name:16s} best     ratio {spread(best['torch'] / best['jaxseq'])}")


def largest_error(theirs: Arrays, ours: Arrays) -> float:
    """The largest difference between arrays of one name, as a share of the largest entry."""
    if theirs.keys() != ours.keys():
        raise SystemExit(f"the two sides answer {sorted(theirs)} and {sorted(ours)}")
    return max(float(np.abs(theirs[n] - ours[n]).max() / np.abs(theirs[n]).max()) for n in theirs)


def answer(connection: Connection, make: Callable[..., Callable], **functions: Callable) -> None:
    """Serves a Side: calls the function that a question names, or times what `make` makes."""
    made: dict[tuple[str, str], Callable] = {}

    def measure(name: str, dtype: str, weights: Arrays, x: np.ndarray, repeats: int) -> float:
        if (name, dtype) not in made:
            made[name, dtype] = make(name, dtype, weights, x)
        run = made[name, dtype]
        run()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - start) / repeats

    functions["time"] = measure
    while question := connection.recv():
        name, *arguments = question
        connection.send(functions[name](*arguments))


def jaxseq_side(connection: Connection, case: Case) -> None:
    """Ours: a RecurrentStack of one layer with torch's weights."""
    import jax
    import jax.numpy as jnp

    from jaxseq.interop.torch_recurrent import from_torch
    from jaxseq.nn.recurrent import RecurrentStack
    from jaxseq.parallel.host_memory import keep_freed_memory

    keep_freed_memory()

    def make(name: str, dtype: str, weights: Arrays, x: np.ndarray) -> Callable[[], Any]:
        stack = RecurrentStack(case.cell, case.features, dtype=jnp.dtype(dtype))

        def forward(params: Arrays, x: jax.Array) -> jax.Array:
            return stack.apply({"params": params}, x)[0]

        def loss(params: Arrays, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = forward(params, x)
            return jnp.sum(y * y), y

        function = jax.grad(loss, argnums=(0, 1), has_aux=True)
        function = jax.jit(forward if name == "forward" else function)
        params = jax.tree.map(jnp.asarray, from_torch(weights, case.cell))
        arguments = params, jnp.asarray(x)
        return lambda: jax.block_until_ready(function(*arguments))

    def check(weights: Arrays, x: np.ndarray) -> Arrays:
        (params, dx), y = make("forward+backward", "float32", weights, x)()
        results = {"y": y, "x": dx, **params["layer_0"]}
        return {name: np.asarray(array) for name, array in results.items()}

    answer(connection, make, check=check)


def torch_side(connection: Connection, case: Case) -> None:
    """PyTorch: the module with batch_first=True."""
    import torch

    from jaxseq.interop.torch_recurrent import from_torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    module_type = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[case.cell]

    def module() -> torch.nn.Module:
        return module_type(case.inputs, case.features, batch_first=True)

    def weights(seed: int) -> Arrays:
        torch.manual_seed(seed)
        return {name: weight.numpy() for name, weight in module().state_dict().items()}

    def make(name: str, dtype: str, weights: Arrays, x: np.ndarray) -> Callable[[], Any]:
        layer, low = module(), dtype == "bfloat16"
        layer.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
        inputs = torch.tensor(x, requires_grad=name != "forward")

        def forward() -> torch.Tensor:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
                return layer(inputs)[0]

        def both() -> tuple:
            layer.zero_grad(set_to_none=True)
            inputs.grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                y = layer(inputs)[0].float()
            (y * y).sum().backward()
            return layer, inputs.grad, y.detach()

        return forward if name == "forward" else both

    def check(weights: Arrays, x: np.ndarray) -> Arrays:
        layer, dx, y = make("forward+backward", "float32", weights, x)()
        gradients = {name: weight.grad.numpy() for name, weight in layer.named_parameters()}
        # Where two biases are added both have the gradient of the one that we have.
        shared = 2 * case.features if case.cell == "gru" else None
        gradients["bias_hh_l0"] = gradients["bias_hh_l0"].copy()
        gradients["bias_hh_l0"][:shared] = 0
        return {"y": y.numpy(), "x": dx.numpy(), **from_torch(gradients, case.cell)["layer_0"]}

    answer(connection, make, check=check, weights=weights)


if __name__ == "__main__":
    tyro.cli(bench_rnn)
