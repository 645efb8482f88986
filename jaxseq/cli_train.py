"""The verb that trains, alone or as one of several processes."""

import contextlib
import dataclasses
import datetime
import shlex
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro

from jaxseq.cli_options import experiment_options, rounded
from jaxseq.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Hosts:
    """How the processes of a run on several hosts find each other.

    Cloud TPU, Slurm, Open MPI and Kubernetes say it themselves.
    """

    coordinator: str = ""
    """HOST:PORT of process 0."""
    num_processes: int = 0
    """How many run the same command."""
    process_id: int = -1
    """Which of them this is, from 0."""
    host_timeout: float = 300.0
    """Seconds that the others may take to come."""
    heartbeat_timeout: int = 100
    """Seconds without a sign of life after which a process is taken for lost, and the run ends."""


@dataclasses.dataclass(frozen=True)
class Train(Generic[T]):
    """An experiment, and what the command line adds to it."""

    experiment: Annotated[T, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Where the run lives; one that holds a checkpoint is resumed. None: a new one in runs/."""
    mirror: str = ""
    """A directory or bucket URL that gets a copy of the run, and gives it back where it is gone."""
    show: bool = True
    """At the end, show what the model makes of some held-out inputs."""
    hosts: Annotated[Hosts, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Hosts)


def train(argv: list[str]) -> int:
    """Train the experiment in a file; goes on where the run directory was left.

    usage: jaxseq train EXPERIMENT.py[:NAME] [--run-dir DIR] [--model.num-layers 2] ...
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(train.__doc__, "\n`jaxseq train EXPERIMENT.py --help` lists its options.")
        return 0
    file = Path(argv[0])
    options = experiment_options(Train, file, argv[1:], "train", Train)

    import jax

    from jaxseq.parallel.hosts import is_leader, start
    from jaxseq.training.compile_cache import keep_compiled_programs
    from jaxseq.training.loop import Stopped
    from jaxseq.training.loop import train as run_training

    keep_compiled_programs()
    hosts = options.hosts
    given = hosts.coordinator, hosts.num_processes, hosts.process_id
    try:
        with start(
            *given,
            timeout=hosts.host_timeout,
            heartbeat_timeout=hosts.heartbeat_timeout,
            agreed=(Stopped,),
        ):
            run_dir = options.run_dir or _new_run_dir(file)
            if options.run_dir is None and jax.process_count() > 1:
                raise UserError("several processes need one --run-dir that all of them see")
            with _mirrored(run_dir, options.mirror):
                metrics = run_training(options.experiment, run_dir)
            if is_leader():
                _show(options, run_dir, metrics)
    except Stopped as stopped:
        again = shlex.join(["jaxseq", "train", *_with_run_dir(argv, run_dir)])
        print(f"jaxseq: {stopped}; to go on: {again}", file=sys.stderr)
        return 128 + stopped.number
    return 0


def _new_run_dir(file: Path) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{file.name.replace('.py:', '-').removesuffix('.py')}-{now}"


def _show(options: Train, run_dir: Path, metrics: dict[str, float]) -> None:
    import jax

    print("validation: " + ", ".join(f"{name} {rounded(x)}" for name, x in metrics.items()))
    if options.show and jax.process_count() == 1:
        from jaxseq.training.run_directory import read_run

        run = read_run(run_dir)
        print("---- on held-out data " + "-" * 50)
        run.experiment.task.show(
            run.experiment.model, run.params, run.tokenizer, run.inputs, run_dir
        )
        print("-" * 72)
    verb = "sample" if hasattr(options.experiment.task, "write") else "predict"
    print(f"the run is in {run_dir}; try: jaxseq {verb} {shlex.quote(str(run_dir))}")


@contextlib.contextmanager
def _mirrored(run_dir: Path, destination: str) -> Generator[None, None, None]:
    """Around a run that has a copy elsewhere, where one is asked for."""
    from jaxseq.parallel.hosts import barrier, is_leader
    from jaxseq.training.mirror import Mirror, restore_run

    if not destination:
        yield
        return
    if is_leader():
        step = restore_run(run_dir, destination)
        if step is not None:
            print(f"{run_dir} is back from {destination}, with checkpoint {step}", file=sys.stderr)
    barrier("the copy is back")
    if not is_leader():
        yield
        return
    with Mirror(run_dir, destination) as mirror:
        yield
    if mirror.is_whole:  # else it has said so itself
        print(mirror.describe(), file=sys.stderr)


def _with_run_dir(argv: list[str], run_dir: Path) -> list[str]:
    given = any(word.split("=")[0] in ("--run-dir", "--run_dir") for word in argv)
    return argv if given else [*argv, "--run-dir", str(run_dir)]
