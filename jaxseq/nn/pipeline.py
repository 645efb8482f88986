"""Layers in a row divided over the mesh axis "stage", with micro-batches passing through.

GPipe (Huang et al. 2019, arXiv:1811.06965): each of S stages holds L / S layers, a batch is cut
into M micro-batches, and at each tick of a clock every stage runs its layers on the micro-batch
that it holds and hands it on:

    tick      0  1  2  3  4  5  6        S = 4 stages, M = 4 micro-batches
    stage 0   0  1  2  3  .  .  .
    stage 1   .  0  1  2  3  .  .        . is a bubble: of M + S - 1 ticks,
    stage 2   .  .  0  1  2  3  .        a stage works in M
    stage 3   .  .  .  0  1  2  3

With R rounds (Narayanan et al. 2021, arXiv:2104.04473, "interleaved") a stage holds R groups of
layers, group r S + s on stage s, and micro-batches go around S at a time: M R + S - 1 ticks, each
R times shorter, so that the bubble is R times smaller. Parameters keep the order of their layers,
and move to where their group runs and back once a step.

The backward pass is the derivative of all this: the same ticks from the last to the first, and for
each what its layers kept.

Other mesh axes are left to XLA, or to the layers' own `shard_map`. What XLA divides must not stand
in a branch or a loop that depends on data: stages that take different ways would wait for each
other's part in its collectives for ever.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxseq.errors import UserError
from jaxseq.parallel.rules import mesh_axes, mesh_size
from jaxseq.typing import Array, Float, Int, PyTree

Layer = Callable[
    [Float[Array, "B T D"], PyTree, PyTree, PyTree, Int[Array, ""]],
    tuple[Float[Array, "B T D"], PyTree],
]
"""(x, what is the layer's, what is the rows', what all share, number of the micro-batch) ->
(x, sums over these rows)."""


class Schedule(NamedTuple):
    """S stages, M micro-batches, R rounds; `ahead` micro-batches enter before the first returns."""

    stages: int
    microbatches: int
    rounds: int

    @property
    def ahead(self) -> int:
        """How many micro-batches follow one another through a round."""
        return self.microbatches if self.rounds == 1 else self.stages

    def at(self, step: Array) -> tuple[Array, Array, Array]:
        """(whether a stage works in its step 0, 1, ..., on which micro-batch, in which round)."""
        lap, place = step // self.ahead, step % self.ahead
        works = (step >= 0) & (step < self.microbatches * self.rounds)
        return works, lap // self.rounds * self.ahead + place, lap % self.rounds


def pipeline(
    layer: Layer,
    layers: PyTree,
    x: Float[Array, "B T D"],
    rows: PyTree,
    shared: PyTree,
    *,
    microbatches: int = 0,
    rounds: int = 1,
    unroll: int = 1,
) -> tuple[Float[Array, "B T D"], PyTree]:
    """x after all layers, and each layer's sums over the whole batch (leading axis L).

    Of `layers` every leaf has a leading axis L, divided over "stage"; of `rows` a leading axis B,
    and travels with its row of x; `shared` is the same for all. Micro-batch m is rows m, m + M,
    m + 2 M, ..., so that rows stay on the devices where they are. 0 microbatches are as many as
    stages. Raises UserError where the layers do not divide over the stages, or the rows that each
    device has into the micro-batches.
    """
    stages = mesh_size("stage")
    schedule = Schedule(stages, microbatches or stages, rounds)
    _check(schedule, jax.tree.leaves(layers)[0].shape[0], x.shape[0])
    whole, divided = PartitionSpec(), PartitionSpec("stage")
    run = jax.shard_map(
        partial(_run_stage, layer, schedule, unroll),
        in_specs=(divided, whole, whole),
        out_specs=(divided, PartitionSpec(None, "stage")),
        axis_names={"stage"},
        # With it, what a shard_map within a layer keeps for its gradient would be laid out over
        # "stage" too, where that one may not.
        check_vma=False,
    )
    cut = jax.tree.map(partial(_cut, schedule.microbatches), (x, rows))
    y, sums = run(layers, cut, shared)
    y = y.sum(axis=0).swapaxes(0, 1).reshape(x.shape)
    return y, jax.tree.map(lambda each: each.reshape(-1), sums)


def _check(schedule: Schedule, num_layers: int, batch: int) -> None:
    stages, count, rounds = schedule
    if num_layers % (stages * rounds):
        times = f" x --mesh.interleave {rounds}" if rounds > 1 else ""
        raise UserError(
            f"a stack of {num_layers} layers (--model.num-layers) does not divide over "
            f"--mesh.stage {stages}{times}"
        )
    divided = set(mesh_axes("batch", batch)) - {"stage"}
    devices = math.prod(mesh_size(axis) for axis in divided)
    if batch % (devices * count):
        over = f" over {devices} devices" if devices > 1 else ""
        raise UserError(
            f"the {batch} rows of a batch (--data.batch-size){over} do not divide into "
            f"--mesh.microbatches {count}; {devices * count} rows, or a multiple, would"
        )
    if rounds > 1 and count % stages:
        raise UserError(
            f"--mesh.interleave {rounds} needs --mesh.microbatches to be a multiple of "
            f"--mesh.stage {stages}, and not {count}"
        )


def _cut(count: int, x: Array) -> Array:
    """Rows in micro-batches: "B ..." to "M B/M ..."."""
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)


def _run_stage(
    layer: Layer, schedule: Schedule, unroll: int, layers: PyTree, batch: PyTree, shared: PyTree
) -> tuple[Array, PyTree]:
    """What the devices of one stage do: (outputs "1 M B/M T D", sums "R 1 L/SR").

    `batch` is (x, rows) cut into micro-batches, and `layers` are those L / S of the L that this
    stage holds. The outputs are 0 but on the last stage.
    """
    stages, count, rounds = schedule
    stage = lax.axis_index("stage")
    groups = jax.tree.map(partial(_deal, stage, stages, rounds), layers)

    def tick(arrived: PyTree, now: tuple[Array, PyTree]) -> tuple[PyTree, tuple[Array, PyTree]]:
        time, entering = now
        works, number, lap = schedule.at(time - stage)
        enters = (stage == 0) & (lap == 0)
        x, rows = jax.tree.map(partial(jnp.where, enters), entering, arrived)
        group = jax.tree.map(lambda p: lax.dynamic_index_in_dim(p, lap, keepdims=False), groups)

        def step(x: Array, of_layer: PyTree) -> tuple[Array, PyTree]:
            return layer(x, of_layer, rows, shared, number)

        x, sums = lax.scan(step, x, group, unroll=unroll)
        here = works & (jnp.arange(rounds) == lap)
        sums = jax.tree.map(lambda each: jnp.where(here[:, None], each[None], 0), sums)
        to = [(i, i + 1) for i in range(stages - 1)]
        if rounds > 1:
            to += [(stages - 1, 0)]
        handed_on = jax.tree.map(lambda a: lax.ppermute(a, "stage", to), (x, rows))
        return handed_on, (x, sums)

    # In the bubbles stages compute on rows that are there, so that what comes out is finite, for
    # its gradient is 0 times that.
    first = jax.tree.map(lambda a: a[0], batch)
    entering = jax.tree.map(partial(_line_up, schedule), batch)
    ticks = jnp.arange(count * rounds + stages - 1)
    _, (outputs, sums) = lax.scan(tick, first, (ticks, entering))
    leaving = outputs[stages - 1 :]
    leaving = leaving.reshape(-1, rounds, schedule.ahead, *leaving.shape[1:])[:, -1]
    leaving = leaving.reshape(count, *leaving.shape[2:])
    outputs = jnp.where(stage == stages - 1, leaving, 0)[None]
    return outputs, jax.tree.map(lambda each: each.sum(axis=0)[:, None], sums)


def _line_up(schedule: Schedule, x: Array) -> Array:
    """What may enter at each tick: a micro-batch at the tick of its first round, then any."""
    x = x.reshape(-1, schedule.ahead, *x.shape[1:])
    x = jnp.repeat(x, schedule.rounds, axis=0).reshape(-1, *x.shape[2:])
    return jnp.pad(x, [(0, schedule.stages - 1)] + [(0, 0)] * (x.ndim - 1), mode="edge")


def _deal(stage: Array, stages: int, rounds: int, held: Array) -> Array:
    """From the layers that a stage holds to the groups that it runs: "L/S ..." to "R L/SR ...".

    Group c = 0 .. S R - 1 is held by stage c // R and runs on stage c % S, in round c // S. The
    groups of one colour (c + c // lcm(S, R)) mod R are one from each stage and one to each stage:
    they change places in one permutation, and all in R of them.
    """
    held = held.reshape(rounds, -1, *held.shape[1:])
    if rounds == 1:
        return held
    common = math.lcm(stages, rounds)
    runs = jnp.zeros_like(held)
    for colour in range(rounds):
        groups = [c for c in range(stages * rounds) if (c + c // common) % rounds == colour]
        give = jnp.array([c % rounds for c in groups])
        take = jnp.array([c // stages for c in sorted(groups, key=lambda c: c % stages)])
        group = lax.dynamic_index_in_dim(held, give[stage], keepdims=False)
        group = lax.ppermute(group, "stage", [(c // rounds, c % stages) for c in groups])
        runs = lax.dynamic_update_index_in_dim(runs, group, take[stage], 0)
    return runs
