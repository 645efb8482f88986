"""What the benchmarks share: the machine, sides timed in turns, and the spread of a figure."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import numpy as np

Name = TypeVar("Name")
Case = TypeVar("Case")


def machine(*packages: str) -> str:
    """Processor, cores, load and versions: what the figures were measured on and with."""
    with open("/proc/cpuinfo") as file:
        lines = file.read().splitlines()
    name = next((x.split(": ")[1] for x in lines if x.startswith("model name")), platform.machine())
    flags = next((x.split(": ")[1].split() for x in lines if x.startswith("flags")), [])
    bfloat16 = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{name}, {len(os.sched_getaffinity(0))} cores, bfloat16 by {bfloat16 or 'emulation'}, "
        f"load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {versions}"
    )


def interleaved(
    runs: Mapping[Name, Callable[[], Any]], rounds: int, calls: int = 1
) -> dict[Name, np.ndarray]:
    """Seconds a call of each side in each round, after one that does not count.

    The order changes from round to round, because the one before leaves caches and heap behind; for
    the same reason a short run is called several times in its turn, as in training, where one
    follows another.
    """
    import jax  # here, so that a process for another library alone does without

    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    names, rng = list(runs), np.random.default_rng(0)
    for _ in range(rounds):
        for i in rng.permutation(len(names)):
            start = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(runs[names[i]]())
            seconds[names[i]].append((time.perf_counter() - start) / calls)
    return {name: np.array(taken) for name, taken in seconds.items()}


def spread(values: np.ndarray, scale: float = 1.0) -> str:
    """Median [quartiles]."""
    low, middle, high = np.percentile(values * scale, (25, 50, 75))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


class Side(Generic[Case]):
    """A library in a process of its own, which answers questions one at a time."""

    def __init__(self, serve: Callable[[Connection, Case], None], case: Case):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, case), daemon=True)
        process.start()
        theirs.close()  # so that a side that dies is noticed at once

    def ask(self, *question: Any) -> Any:
        """The answer of the other process."""
        self.connection.send(question)
        return self.connection.recv()

    def close(self) -> None:
        """Ends the other process."""
        self.connection.send(())
