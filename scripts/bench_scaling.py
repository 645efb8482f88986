"""Weak scaling in processes: one, and two that train together, each on a core of its own.

    python scripts/bench_scaling.py

Each process has one thread and one device with `--batch-size` rows: two processes train on twice
the batch. First a single process computes the loss of the batch of two, which must agree to 1e-5
with what two compute together; then steps are timed in turns:

    alone          one process; the other core is idle
    side by side   two that know nothing of each other: what it costs to share the machine
    together       two that are one run: that, and the sum of the gradients over both

efficiency = seconds of a step alone / of a step together, in the same round.
"""

import dataclasses
import multiprocessing
import os
import socket
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import tyro
from bench import Side, machine, spread

VOCABULARY = 256


@dataclasses.dataclass(frozen=True)
class Case:
    """One process: its core, and which of how many that meet at a port."""

    core: int
    process_id: int
    num_processes: int
    port: int
    num_layers: int
    width: int
    context: int
    batch_size: int


def bench_scaling(
    num_layers: int = 4,
    width: int = 256,
    context: int = 128,
    batch_size: int = 8,
    rounds: int = 11,
    steps_per_round: int = 10,
) -> None:
    """Times training steps of one process and of two.

    Args:
        num_layers: Blocks of the GPT.
        width: Their width.
        context: Tokens in a row.
        batch_size: Rows of each process.
        rounds: How often every side is timed.
        steps_per_round: Steps each time.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("two processes need two cores")
    print(machine("jax", "flax"))
    print(f"GPT of {num_layers} x {width}, {batch_size} rows of {context} tokens in each process")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shape = (port, num_layers, width, context, batch_size)
    lone = [Side(serve, Case(core, 0, 1, *shape)) for core in cores]
    pair = [Side(serve, Case(core, number, 2, *shape)) for number, core in enumerate(cores)]

    whole, together = ask(lone[:1], "loss"), ask(pair, "loss")
    print(f"loss of the batch of two: {whole[0]:.7f} by one, {together[0]:.7f} by two together")
    if not np.allclose(together, whole, rtol=1e-5, atol=0):
        raise SystemExit("one process and two compute different things; nothing is timed")

    sides = {"alone": lone[:1], "side by side": lone, "together": pair}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, processes in sides.items():
            slowest = max(ask(processes, "time", steps_per_round))
            if number:  # the first compiles
                seconds[name].append(slowest)
    for side in (*lone, *pair):
        side.close()
    for process in multiprocessing.active_children():
        process.join(60)
    alone = np.array(seconds["alone"])
    for name, taken in seconds.items():
        ratio = f"   efficiency {spread(alone / np.array(taken))}" if name != "alone" else ""
        print(f"  {name:14s} {spread(np.array(taken), 1e3)} ms a step{ratio}")


def ask(processes: list[Side[Case]], *question: Any) -> list[Any]:
    """The answers of processes that all work at once."""
    for side in processes:
        side.connection.send(question)
    return [side.connection.recv() for side in processes]


def serve(connection: Connection, case: Case) -> None:
    """One process: answers ("loss",) and ("time", steps)."""
    os.sched_setaffinity(0, {case.core})
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

    import jax

    from jaxseq.data.corpus import TextData
    from jaxseq.models.gpt import GPTConfig
    from jaxseq.parallel.host_memory import keep_freed_memory
    from jaxseq.parallel.hosts import start, to_global
    from jaxseq.tasks.language_model import LanguageModel
    from jaxseq.training.experiment import Experiment
    from jaxseq.training.program import Program, build_program

    keep_freed_memory()
    tokens = np.random.default_rng(0).integers(
        VOCABULARY, size=(2 * case.batch_size, case.context + 1), dtype=np.int32
    )
    model = GPTConfig(num_layers=case.num_layers, width=case.width, num_heads=4)
    model = model.resolve(vocab_size=VOCABULARY, context=case.context)

    def program(rows: int) -> tuple[Program, dict[str, jax.Array]]:
        data = TextData(context=case.context, batch_size=rows)
        experiment = Experiment(LanguageModel(), model, data, num_steps=10**6)
        built = build_program(experiment, experiment.mesh.build(rows))
        inputs, targets = tokens[:rows, :-1], tokens[:rows, 1:]
        batch = {"inputs": inputs, "targets": targets, "mask": np.ones(inputs.shape, bool)}
        return built, to_global(batch, built.layout.batch, rows)

    with start(f"localhost:{case.port}", case.num_processes, case.process_id):
        timed, batch = program(case.num_processes * case.batch_size)
        state = timed.create()
        while question := connection.recv():
            if question[0] == "loss":
                both, rows = program(2 * case.batch_size)
                _, metrics = both.step(both.create(), rows)
                connection.send(float(metrics["loss"]))
                continue
            begin = time.perf_counter()
            for _ in range(question[1]):
                state, metrics = timed.step(state, batch)
            float(metrics["loss"])
            connection.send((time.perf_counter() - begin) / question[1])


if __name__ == "__main__":
    tyro.cli(bench_scaling)
