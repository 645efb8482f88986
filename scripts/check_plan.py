"""Holds `jaxseq plan --topology here` to a real run on this CPU: peak memory, and operations.

    python scripts/check_plan.py [EXPERIMENT.py]

A process of its own plans the training step, compiles it, and then takes three steps while the
kernel keeps the high-water mark of its resident memory. The operations of the real step are those
that its compiled program has by XLA's own count, of the layers unrolled (that count takes a loop's
body once). Prints both with their ratios; the exit status is 1 where one is off by over 10 %.
"""

import ctypes
import dataclasses
import gc
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.cli_options import load_module
from jaxseq.planning.plan import make_plan, prepare
from jaxseq.training.program import build_program
from jaxseq.typing import PyTree

TOLERANCE = 0.1
MIB = 2**20


def resident(field: str) -> int:
    """Bytes of this process in memory: VmRSS now, VmHWM at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def give_back_freed_memory() -> None:
    """Leaves in the process what it uses, so that what it takes next is seen."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def zeros(like: PyTree) -> PyTree:
    """A state for its size."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)


def main(file: Path) -> int:
    """Plans, runs and compares."""
    experiment = load_module(file).experiment
    model = dataclasses.replace(experiment.model, unroll_layers=experiment.model.num_layers)
    prepared = prepare(dataclasses.replace(experiment, model=model))
    experiment = prepared.experiment
    layout = experiment.mesh.build(experiment.data.batch_size)
    planned = make_plan(prepared, layout, ("train",)).train
    assert planned.costs is not None

    program = build_program(experiment, layout, prepared.frozen)
    batch = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in prepared.batch.items()}
    with layout.use():
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.batch), batch
        )
        step = program.train_step.lower(program.like, abstract).compile()
        create = jax.jit(partial(zeros, program.like)).lower().compile()
        # Once for what stays whatever runs: threads and their scratch.
        jax.block_until_ready(step(create(), jax.device_put(batch, layout.batch)))
        give_back_freed_memory()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        state, placed = create(), jax.device_put(batch, layout.batch)
        for _ in range(3):
            state, _ = jax.block_until_ready(step(state, placed))
    peak = resident("VmHWM") - before
    counted = int(step.cost_analysis()["flops"])
    rows = [
        ("peak memory, MiB", planned.memory.total / MIB, peak / MIB),
        ("operations, GFLOP", planned.costs.flops / 1e9, counted / 1e9),
    ]
    off = False
    for name, found, real in rows:
        ratio = found / real
        off |= abs(ratio - 1) > TOLERANCE
        print(f"{name:20} planned {found:10,.2f}  real {real:10,.2f}  ratio {ratio:.3f}")
    return int(off)


if __name__ == "__main__":
    default = Path(__file__).parent.parent / "experiments" / "gpt_char.py"
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
