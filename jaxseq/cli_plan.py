"""The verb `jaxseq plan`: what an experiment costs, before it costs anything."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from jaxseq.cli_options import experiment_options
from jaxseq.errors import UserError
from jaxseq.option_checks import check_range

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Plan(Generic[T]):
    """An experiment, and the devices that it is planned for."""

    experiment: Annotated[T, tyro.conf.arg(name="")]
    topology: str = "here"
    """A slice of TPUs, such as v5e:16x16 or v5p:8x8x8, none of which need be there; `here`: the
    devices of this machine."""
    slices: int = 1
    """How many such slices, with the data-center network between them."""
    search: bool = False
    """Rank the meshes of the devices instead of taking --mesh."""
    compile_best: int = 3
    """How many meshes of a search are compiled: the best by arithmetic."""
    steps: tuple[Literal["train", "evaluation", "decode"], ...] = ("train", "evaluation", "decode")
    """What to compile; training always is."""
    json: bool = False
    """Print JSON instead of tables."""


def plan(argv: list[str]) -> int:
    """Memory, collectives and step time of an experiment on a TPU slice, no TPU needed.

    usage: jaxseq plan EXPERIMENT.py [--topology v5p:8x8x8] [--search] [--mesh.fsdp 8] ...

    The exit status is 0 where everything fits the memory, and 1 where it does not.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(plan.__doc__, "\n`jaxseq plan EXPERIMENT.py --help` lists its options.")
        return 0
    options = experiment_options(Plan, Path(argv[0]), argv[1:], "plan", Plan)
    check_range("", options, "slices", "compile_best", least=1)

    from jaxseq.planning.mends import mends
    from jaxseq.planning.plan import make_plan, prepare
    from jaxseq.planning.report import mend_line, plan_lines, plan_tree, search_lines
    from jaxseq.planning.search import search

    devices = _devices(options.topology, options.slices)
    prepared = prepare(options.experiment)
    if options.search:
        found = search(prepared, devices, options.compile_best, _say)
        best = found.compiled[0][1]
        if options.json:
            print(json.dumps([plan_tree(each) for _, each in found.compiled]))
        else:
            print("\n".join([*search_lines(found, best.chip.memory_bytes), ""]))
            print("\n".join(plan_lines(best)))
        return 0 if best.fits else 1
    mesh = options.experiment.mesh
    layout = mesh.build(options.experiment.data.batch_size, devices)
    _say(
        f"compiling for {len(devices)} x {devices[0].device_kind}; a large model takes some minutes"
    )
    made = make_plan(prepared, layout, options.steps)
    if options.json:
        print(json.dumps(plan_tree(made)))
    else:
        print("\n".join(plan_lines(made)))
        if not made.train.memory.fits or made.train.costs is None:
            print("\nwhat would make training fit:", flush=True)
            for mend in mends(prepared, devices, made):
                print("  " + mend_line(mend), flush=True)
    return 0 if made.fits else 1


def _say(what: str) -> None:
    """To a person who waits; the plan alone goes to standard output."""
    print(what, file=sys.stderr, flush=True)


def _devices(topology: str, slices: int) -> list[Any]:
    import jax

    if topology == "here":
        if slices != 1:
            raise UserError("--slices is for a --topology by name; here the devices say it")
        return jax.devices()
    from jaxseq.parallel.topologies import topology_devices

    # The TPU compiler's devices are none that JAX should look for on this machine.
    jax.config.update("jax_platforms", "cpu")
    return topology_devices(topology, slices)
