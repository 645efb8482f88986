"""Chunked attention beside dense and torch's scaled_dot_product_attention on the CPU, float32.

    pip install -e ".[bench]" && python scripts/bench_attention.py

At each length the sides first have to give the same output and gradients. Memory is what XLA plans
for a program beside its arguments and results (`memory_analysis`). Then the sides are timed in
turns, compilation not: forward alone, and forward with backward. ratio = torch's seconds / ours of
the same round: above 1 is faster. The last line of a length says how much less memory chunked
takes than dense.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from bench import interleaved, machine, spread

from jaxseq.ops.attention import attention

FORWARD, BACKWARD = "forward", "forward and backward"
TORCH = "torch"
Sides = dict[str, Callable[[], Any]]


def bench_attention(
    lengths: tuple[int, ...] = (1024, 2048, 8192),
    heads: int = 8,
    head_size: int = 64,
    causal: bool = True,
    backends: tuple[str, ...] = ("chunked", "dense"),
    threads: int = 0,
    rounds: int = 11,
    seed: int = 0,
) -> None:
    """Times attention of one row and prints the memory that it takes.

    Args:
        lengths: Numbers of queries and of keys.
        heads: Query heads, each with a key/value head of its own.
        head_size: Size of a head.
        causal: Whether a query sees only itself and what is before it.
        backends: Ours.
        threads: Threads of torch; 0 leaves its own choice.
        rounds: Turns of each side.
        seed: Seed of queries, keys, values and of the gradient that comes back.
    """
    if threads:
        torch.set_num_threads(threads)
    print(machine("jax", "torch"))
    print(f"1 x length x {heads} heads x {head_size}, {causal=}, torch {torch.get_num_threads()}")
    random = np.random.default_rng(seed)
    for length in lengths:
        shape = (1, length, heads, head_size)
        arrays = [random.standard_normal(shape, np.float32) for _ in range(4)]
        ours = {name: our_sides(arrays, causal, name) for name in backends}
        theirs = their_sides(arrays, causal)
        check({name: sides[BACKWARD]() for name, (sides, _) in ours.items()}, theirs[BACKWARD]())
        print(f"length {length}")
        for what in (FORWARD, BACKWARD):
            sides = {name: both[what] for name, (both, _) in ours.items()}
            seconds = interleaved({**sides, TORCH: theirs[what]}, rounds)
            print(f"  {what}")
            print(f"    {TORCH:10s} {spread(seconds[TORCH], 1e3)} ms")
            for name in ours:
                memory = ours[name][1][what] / 2**20
                ratio = spread(seconds[TORCH] / seconds[name])
                print(f"    {name:10s} {spread(seconds[name], 1e3)} ms, ratio {ratio}, ", end="")
                print(f"{memory:.0f} MiB of temporaries")
            if {"chunked", "dense"} <= set(ours):
                share = ours["dense"][1][what] / ours["chunked"][1][what]
                print(f"    dense takes {share:.1f} times the memory of chunked")


def our_sides(arrays: list[np.ndarray], causal: bool, backend: Any) -> tuple[Sides, dict[str, int]]:
    """Our two computations, compiled, and the bytes of temporaries of each."""
    query, key, value, cotangent = map(jnp.asarray, arrays)
    run = partial(attention, causal=causal, backend=backend)

    def both(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple:
        output, pull = jax.vjp(run, query, key, value)
        return output, *pull(cotangent)

    compiled = {
        FORWARD: jax.jit(run).lower(query, key, value).compile(),
        BACKWARD: jax.jit(both).lower(query, key, value).compile(),
    }
    sides: Sides = {}
    memory: dict[str, int] = {}
    for what, program in compiled.items():
        sides[what] = partial(program, query, key, value)
        analysis = program.memory_analysis()
        assert analysis is not None, "XLA plans memory on CPUs"
        memory[what] = analysis.temp_size_in_bytes
    return sides, memory


def their_sides(arrays: list[np.ndarray], causal: bool) -> Sides:
    """The same by torch, from arrays laid out as ours."""
    query, key, value, cotangent = (torch.tensor(x) for x in arrays)
    leaves = [x.requires_grad_() for x in (query, key, value)]

    def run() -> torch.Tensor:
        q, k, v = (x.transpose(1, 2) for x in leaves)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return y.transpose(1, 2)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return run()

    def both() -> tuple:
        output = run()
        return output.detach(), *torch.autograd.grad(output, leaves, cotangent)

    return {FORWARD: forward, BACKWARD: both}


def check(ours: dict[str, tuple], theirs: tuple) -> None:
    """Leaves with a message where a side differs from torch."""
    for name, results in ours.items():
        names = ("output", "gradient of query", "gradient of key", "gradient of value")
        for what, a, b in zip(names, results, theirs, strict=True):
            a, b = np.asarray(a, np.float64), b.numpy().astype(np.float64)
            if np.max(np.abs(a - b)) > 1e-4 * max(1.0, np.max(np.abs(b))):
                raise SystemExit(f"{name} and torch differ in the {what}, nothing is timed")


if __name__ == "__main__":
    tyro.cli(bench_attention)
