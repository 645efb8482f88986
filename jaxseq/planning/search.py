"""Which mesh to take: all that fit an experiment are ranked by arithmetic, the best compiled.

The arithmetic is that of "How to Scale Your Model" (Austin et al. 2025): what every way of dividing
the work sends, at the links' speed, and what it leaves in every memory. It is coarse, and decides
no more than what is worth compiling: the compiled programs are ranked by their own rooflines.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxseq.errors import UserError
from jaxseq.parallel.chips import Chip, chip_of
from jaxseq.parallel.mesh import AXES, MeshConfig
from jaxseq.parallel.sharding import parameter_shardings
from jaxseq.parallel.topologies import torus
from jaxseq.planning.plan import Plan, Prepared, make_plan, shard_bytes
from jaxseq.training.experiment import Experiment
from jaxseq.training.finetune import initializer
from jaxseq.training.flops import training_flops
from jaxseq.typing import PyTree

SLACK = 1.5
"""A mesh that by the arithmetic takes more than this share of the memory is not compiled."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh, and what the arithmetic says of it."""

    mesh: MeshConfig
    seconds: float
    """Of a training step."""
    bytes: int
    """On each chip."""


@dataclasses.dataclass(frozen=True)
class Search:
    """The meshes of some devices, best first."""

    tried: int
    """How many multiply to the number of devices."""
    ranked: tuple[Candidate, ...]
    """Those that fit the experiment and, by the arithmetic, the memory."""
    compiled: tuple[tuple[MeshConfig, Plan], ...]
    """The plans of the best of them, those that fit first, and then by predicted time."""


def search(
    prepared: Prepared, devices: Sequence[Any], compile_best: int, say: Callable[[str], None]
) -> Search:
    """Ranks the meshes of `devices` and compiles the training step of the `compile_best` first.

    Divided are rows, parameters, heads and feed-forward, experts where there are any, and time;
    layers (`--mesh.stage`) stay as the experiment has them. `say` shows a person what is done.
    Raises UserError where no mesh fits.
    """
    tried = list(meshes(prepared.experiment, len(devices)))
    ranked = rank(prepared, tried, devices)
    if not ranked:
        raise UserError(
            f"none of the {len(tried)} meshes of {len(devices)} devices fits the experiment and "
            "the memory; more devices, a smaller --data.batch-size or --accumulate may"
        )
    compiled: list[tuple[MeshConfig, Plan]] = []
    refused = None
    for candidate in ranked:
        say(f"compiling for {mesh_options(candidate.mesh)}")
        layout = candidate.mesh.build(prepared.experiment.data.batch_size, devices)
        experiment = dataclasses.replace(prepared.experiment, mesh=candidate.mesh)
        changed = dataclasses.replace(prepared, experiment=experiment)
        try:
            compiled.append((candidate.mesh, make_plan(changed, layout, ("train",))))
        except UserError as error:  # a limit that the experiment sets, such as --mesh.max-unsharded
            refused = error
        if len(compiled) == compile_best:
            break
    if refused is not None and not compiled:
        raise refused
    compiled.sort(key=lambda pair: (not pair[1].fits, pair[1].train.seconds))
    return Search(len(tried), tuple(ranked), tuple(compiled))


def rank(
    prepared: Prepared, tried: Sequence[MeshConfig], devices: Sequence[Any]
) -> list[Candidate]:
    """The meshes that fit experiment and memory by the arithmetic, fastest first."""
    experiment = prepared.experiment
    init = initializer(experiment.task, experiment.model, experiment.finetune)
    boxed = jax.eval_shape(init, jax.random.key(0))
    params = nn.unbox(boxed)
    work = training_flops(
        experiment.task, experiment.model, params, prepared.batch, prepared.frozen
    )
    chip, lengths = chip_of(devices[0]), torus(devices)
    found = []
    for mesh in tried:
        if not _fits_the_model(experiment, mesh):
            continue
        # Which device has which part does not matter yet.
        sizes = tuple(getattr(mesh, axis) for axis in AXES)
        grid = Mesh(np.asarray(devices).reshape(sizes), AXES)
        try:
            shardings = parameter_shardings(boxed, grid, mesh.table())
        except UserError:  # a parameter's axis that the mesh does not divide
            continue
        shards = _Shards(experiment, mesh, params, shardings)
        size = shards.bytes()
        if size <= SLACK * chip.memory_bytes:
            found.append(Candidate(mesh, shards.seconds(work, chip, lengths), size))
    return sorted(found, key=lambda candidate: candidate.seconds)


def meshes(experiment: Experiment, count: int) -> Iterator[MeshConfig]:
    """Every way of writing the number of devices as a product over the axes."""
    stage = max(experiment.mesh.stage, 1)
    axes = ["data", "fsdp", "tensor", "context"]
    if getattr(getattr(experiment.model, "experts", None), "count", 0):
        axes.append("expert")
    if count % stage:
        return
    count //= stage
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    for head in itertools.product(divisors, repeat=len(axes) - 1):
        if count % math.prod(head) == 0:
            sizes = zip(axes, (count // math.prod(head), *head), strict=True)
            changed = {**dict.fromkeys(AXES, 1), **dict(sizes), "stage": stage}
            yield dataclasses.replace(experiment.mesh, **changed)


def mesh_options(mesh: MeshConfig) -> str:
    """A mesh as it is asked for on the command line, by the axes that divide anything."""
    sizes = {axis: getattr(mesh, axis) for axis in AXES}
    return " ".join(f"--mesh.{axis} {size}" for axis, size in sizes.items() if size > 1)


def _fits_the_model(experiment: Experiment, mesh: MeshConfig) -> bool:
    """Whether rows, heads and time divide evenly."""
    model, rows = experiment.model, mesh.data * mesh.fsdp * mesh.expert
    if experiment.data.batch_size % (rows * experiment.accumulate):
        return False
    for name in ("num_heads", "num_kv_heads"):
        if getattr(model, name, mesh.tensor) % mesh.tensor:
            return False
    divides_time = mesh.context > 1
    # Ring attention cuts every device's part of the time in two.
    return not divides_time or getattr(model, "context", 1) % (2 * mesh.context) == 0


class _Shards:
    """What one device holds and sends, under one mesh."""

    def __init__(self, experiment: Experiment, mesh: MeshConfig, params: PyTree, places: PyTree):
        self.experiment, self.mesh = experiment, mesh
        like = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            params,
            places,
        )
        self.held = shard_bytes(like)
        # How many numbers of parameters a device has for a while, over all layers.
        self.gathered = sum(map(_gathered_over_fsdp, jax.tree.leaves(like)))
        model = experiment.model
        self.compute_bytes = 2 if getattr(model, "dtype", "float32") == "bfloat16" else 4
        self.layers, self.width = getattr(model, "num_layers", 1), getattr(model, "width", 1)
        self.vocab = getattr(model, "vocab_size", 0) or 0
        rows = mesh.data * mesh.fsdp * mesh.expert
        context = getattr(model, "context", 1) or 1
        self.tokens = experiment.data.batch_size * context / (rows * mesh.context)

    def bytes(self) -> int:
        """In the memory: the state, gradients, activations that the backward pass needs."""
        mesh, model = self.mesh, self.experiment.model
        tokens = self.tokens / self.experiment.accumulate
        moments = {"adamw": 2, "muon": 2}.get(self.experiment.optimizer.name, 1)
        state = self.held * (2 + moments)
        residual = tokens * self.width * 4 / mesh.tensor
        kept = {"full": 1, "offload": 1, "dots": 8}.get(getattr(model, "remat", "none"), 16)
        logits = tokens * self.vocab / mesh.tensor * 4
        if getattr(self.experiment.task, "loss_chunk", 0):
            logits /= max(getattr(model, "context", 1) // self.experiment.task.loss_chunk, 1)
        return int(state + residual * self.layers * kept / mesh.stage + 2 * logits)

    def seconds(self, work: int, chip: Chip, lengths: tuple[int, ...]) -> float:
        """Of a step: products of matrices at the peak, and everything that is sent."""
        mesh, model = self.mesh, self.experiment.model
        recomputed = 4 / 3 if getattr(model, "remat", "none") in ("full", "offload") else 1.0
        devices = math.prod(getattr(mesh, axis) for axis in AXES)
        compute = recomputed * work / devices / chip.bf16_flops
        passes = 3 if recomputed > 1 else 2
        accumulate = self.experiment.accumulate

        def over(axis: str, size: float | int) -> float:
            """Of `size` bytes gathered, or summed and divided, over a mesh axis."""
            ways = getattr(mesh, axis)
            return size * (ways - 1) / ways / _bandwidth(ways, chip, lengths)

        gathered = self.gathered * self.compute_bytes
        sent = over("fsdp", accumulate * (2 * gathered + 4 * self.gathered))
        sent += over("data", 2 * self.held)
        activations = self.tokens * self.width * 4 * self.layers / mesh.stage
        # Before each of a block's two halves they are gathered, and behind it summed and divided.
        sent += over("tensor", 4 * passes * activations)
        keys = getattr(model, "num_kv_heads", 0) * getattr(model, "head_size", 0) / mesh.tensor
        around = 2 * self.tokens * keys * self.compute_bytes * self.layers / mesh.stage
        sent += over("context", mesh.context * around * (passes + 1))
        sent += over("expert", mesh.expert * 2 * passes * activations)
        return compute + sent


def _gathered_over_fsdp(leaf: jax.ShapeDtypeStruct) -> int:
    """How many numbers of a parameter a device has once it is gathered over `fsdp`."""
    place = leaf.sharding
    assert isinstance(place, NamedSharding)
    axes = [
        axis for entry in place.spec for axis in (entry if isinstance(entry, tuple) else [entry])
    ]
    fsdp = place.mesh.shape["fsdp"] if "fsdp" in axes else 1
    return math.prod(place.shard_shape(leaf.shape)) * fsdp


def _bandwidth(ways: int, chip: Chip, lengths: tuple[int, ...]) -> float:
    """Bytes a second into a device of a group of `ways`, on as few axes of the torus as can be."""
    if not chip.ring:
        return chip.link_bandwidth
    bandwidth = 0.0
    for length in sorted(lengths, reverse=True):
        if ways <= 1:
            break
        closed = ways >= length and length % chip.ring == 0
        bandwidth += (2 if closed else 1) * chip.link_bandwidth
        ways = math.ceil(ways / length)
    return bandwidth or chip.link_bandwidth
