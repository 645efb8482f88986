"""What makes an experiment fit that does not: recomputing, accumulating, or another mesh."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jaxseq.parallel.mesh import AXES
from jaxseq.planning.plan import Plan, Prepared, make_plan
from jaxseq.planning.search import mesh_options, meshes, rank

TRIED = 2
"""How many meshes, and how many accumulations beyond the first that should do, are compiled."""


@dataclasses.dataclass(frozen=True)
class Mend:
    """A change of options, and the plan of the training step with it."""

    options: str
    plan: Plan


def mends(prepared: Prepared, devices: Sequence[Any], plan: Plan) -> Iterator[Mend]:
    """Compiled changes of a plan whose training step does not fit: of each kind until one does.

    Where parameters and optimizer state alone are too much, another mesh is all that can help.
    """
    memory = plan.train.memory
    room = memory.limit - (memory.total - memory.activations)
    if room > 0:
        yield from _recomputing(prepared, devices)
        yield from _accumulating(prepared, devices, memory.activations / room)
    yield from _dividing(prepared, devices)


def _recomputing(prepared: Prepared, devices: Sequence[Any]) -> Iterator[Mend]:
    model = prepared.experiment.model
    if getattr(model, "remat", "full") != "full":
        changed = dataclasses.replace(model, remat="full")
        yield _mend("--model.remat full", prepared, devices, model=changed)


def _accumulating(prepared: Prepared, devices: Sequence[Any], excess: float) -> Iterator[Mend]:
    """Activations are `excess` times what there is room for."""
    experiment = prepared.experiment
    layout = experiment.mesh.build(experiment.data.batch_size, devices)
    rows = experiment.data.batch_size // layout.row_shards
    parts = experiment.accumulate * 2 ** max(math.ceil(math.log2(excess)), 1)
    for _ in range(TRIED):
        if rows % parts:
            return
        mend = _mend(f"--accumulate {parts}", prepared, devices, accumulate=parts)
        yield mend
        if mend.plan.fits:
            return
        parts *= 2


def _dividing(prepared: Prepared, devices: Sequence[Any]) -> Iterator[Mend]:
    experiment = prepared.experiment
    asked = experiment.mesh.build(experiment.data.batch_size, devices).mesh.shape
    others = [
        candidate
        for candidate in rank(prepared, list(meshes(experiment, len(devices))), devices)
        if any(getattr(candidate.mesh, axis) != asked[axis] for axis in AXES)
    ]
    # The fastest of those that leave room, and the smallest.
    others.sort(key=lambda candidate: candidate.bytes)
    half = [each for each in others if each.bytes <= 2 * others[0].bytes]
    for candidate in sorted(half, key=lambda each: each.seconds)[:TRIED]:
        mend = _mend(mesh_options(candidate.mesh), prepared, devices, mesh=candidate.mesh)
        yield mend
        if mend.plan.fits:
            return


def _mend(options: str, prepared: Prepared, devices: Sequence[Any], **changes: Any) -> Mend:
    experiment = dataclasses.replace(prepared.experiment, **changes)
    layout = experiment.mesh.build(experiment.data.batch_size, devices)
    changed = dataclasses.replace(prepared, experiment=experiment)
    return Mend(options, make_plan(changed, layout, ("train",)))
