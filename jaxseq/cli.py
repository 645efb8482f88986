"""The command line: `jaxseq VERB ...`."""

import contextlib
import dataclasses
import datetime
import difflib
import errno
import importlib.util
import io
import json
import logging
import re
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from jaxseq.cli_convert import convert
from jaxseq.cli_tokenizer import tokenizer
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.errors import UserError
from jaxseq.parallel.host_memory import keep_freed_memory

T = TypeVar("T")
Positional = tyro.conf.Positional


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0, 2 for a mistake to mend, 128 + n for signal n."""
    argv = sys.argv[1:] if argv is None else argv
    keep_freed_memory()
    # What Orbax logs of itself; what the user can act on comes as a UserError too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        return _dispatch(argv)
    except UserError as error:
        print(f"jaxseq: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0  # the reader of our output went away, which is its right
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        where = f" {error.filename}" if error.filename else ""
        print(f"jaxseq: cannot write{where}: {error.strerror}; make room first", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxseq: interrupted; nothing was running that could be saved", file=sys.stderr)
        return 130


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: jaxseq VERB ...\n")
        for name, verb in VERBS.items():
            print(f"  {name:10} {(verb.__doc__ or '').splitlines()[0]}")
        print("\n`jaxseq VERB --help` lists a verb's options.")
        return 0
    if argv[0] not in VERBS:
        raise UserError(f"unknown verb '{argv[0]}'{_nearest(argv[0], list(VERBS))}")
    return VERBS[argv[0]](argv[1:])


# ---- train ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Train(Generic[T]):
    """An experiment, and what the command line adds to it."""

    experiment: Annotated[T, tyro.conf.arg(name="")]
    run_dir: Path | None = None
    """Where the run lives; one that holds a checkpoint is resumed. None: a new one in runs/."""
    show: bool = True
    """At the end, show what the model makes of some held-out inputs."""


def train(argv: list[str]) -> int:
    """Train the experiment in a file; goes on where the run directory was left.

    usage: jaxseq train EXPERIMENT.py [--run-dir DIR] [--model.num-layers 2] ...
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(train.__doc__, "\n`jaxseq train EXPERIMENT.py --help` lists its options.")
        return 0
    file = Path(argv[0])
    module = load_module(file)

    from jaxseq.training.experiment import Experiment

    default = getattr(module, "experiment", None)
    if not isinstance(default, Experiment):
        raise UserError(f"{file} has no `experiment = Experiment(...)`; see experiments/")
    # The file decides the types of the parts, and they the options.
    train_kind: Any = Train
    experiment_kind: Any = Experiment
    parts = type(default.task), type(default.model), type(default.data)
    options = parse(
        train_kind[experiment_kind[parts]],
        argv[1:],
        prog=f"jaxseq train {file}",
        description=module.__doc__,
        default=Train(default),
    )

    from jaxseq.training.loop import Stopped
    from jaxseq.training.loop import train as run_training

    run_dir = options.run_dir
    if run_dir is None:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        run_dir = Path("runs") / f"{file.stem}-{now}"
    try:
        metrics = run_training(options.experiment, run_dir)
    except Stopped as stopped:
        again = shlex.join(["jaxseq", "train", *_with_run_dir(argv, run_dir)])
        print(f"jaxseq: {stopped}; to go on: {again}", file=sys.stderr)
        return 128 + stopped.number
    print("validation: " + ", ".join(f"{name} {_rounded(x)}" for name, x in metrics.items()))
    if options.show:
        from jaxseq.training.run_directory import read_run

        run = read_run(run_dir)
        print("---- on held-out data " + "-" * 50)
        run.experiment.task.show(
            run.experiment.model, run.params, run.tokenizer, run.inputs, run_dir
        )
        print("-" * 72)
    verb = "sample" if hasattr(options.experiment.task, "write") else "predict"
    print(f"the run is in {run_dir}; try: jaxseq {verb} {shlex.quote(str(run_dir))}")
    return 0


def load_module(file: Path) -> ModuleType:
    """The experiment file, executed; UserError where it is missing or no Python."""
    if not file.is_file():
        near = difflib.get_close_matches(
            str(file), [str(path) for path in file.parent.glob("*.py")], n=1
        )
        hint = f"; did you mean {near[0]}?" if near else "; name an experiment's .py file"
        raise UserError(f"there is no file {file}{hint}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file; name an experiment's .py file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{file}, line {error.lineno}: {error.msg}") from error
    return module


def _with_run_dir(argv: list[str], run_dir: Path) -> list[str]:
    given = any(word.split("=")[0] in ("--run-dir", "--run_dir") for word in argv)
    return argv if given else [*argv, "--run-dir", str(run_dir)]


# ---- evaluate -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """The metrics of a run on a whole held-out split, each with its 95 % bootstrap interval."""

    run_dir: Positional[Path]
    """A run directory."""
    split: Literal["validation", "test"] = "validation"
    """Which held-out data."""
    checkpoint: str = "last"
    """"last", "best" (by validation loss on the way), or the step of one that was kept."""
    json: bool = False
    """Print JSON instead of a table."""


def evaluate(argv: list[str]) -> int:
    """The metrics of a run on its whole validation or test split."""
    options = parse(Evaluate, argv, prog="jaxseq evaluate")

    from jaxseq.training.evaluation import evaluate_run
    from jaxseq.training.run_directory import read_run

    run = read_run(options.run_dir, options.checkpoint)
    found = evaluate_run(run, options.run_dir, options.split)
    metrics = {"step": run.step} | found.metrics
    if options.json:
        print(json.dumps(metrics | {"intervals": found.intervals}))
        return 0
    width = max(map(len, metrics))
    for name, value in metrics.items():
        line = f"{name:{width}}  {_rounded(value)}"
        if name in found.intervals:
            low, high = map(_rounded, found.intervals[name])
            line += f"  (95 %: {low} to {high})"
        print(line)
    return 0


def _rounded(value: float | int) -> str:
    return f"{value:,.4f}" if value % 1 else f"{value:,.0f}"


# ---- sample ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sample:
    """Text written by a run's model, shown as it comes."""

    run_dir: Positional[Path]
    """A run directory."""
    prompt: str = "\n"
    """Text to go on from."""
    max_new_tokens: int = 500
    """Tokens to write."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; the one that comes is not shown."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=SamplingConfig
    )
    seed: int = 0
    """Decides the draws."""
    checkpoint: str = "last"
    """"last", "best" (by validation loss on the way), or the step of one that was kept."""


def sample(argv: list[str]) -> int:
    """Text from a run's model, streamed to the terminal."""
    options = parse(Sample, argv, prog="jaxseq sample")

    from jaxseq.training.run_directory import read_run

    run = read_run(options.run_dir, options.checkpoint)
    task = run.experiment.task
    if not hasattr(task, "write"):
        raise UserError(f"{options.run_dir} is no language model; try: jaxseq predict")
    task.write(
        run.experiment.model,
        run.params,
        run.tokenizer,
        options.prompt,
        options.max_new_tokens,
        options.sampling,
        options.seed,
        partial(print, end="", flush=True),
        options.stop,
    )
    print()
    return 0


# ---- predict --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Predict:
    """A run's answers to lines of text, one JSON object a line, in order."""

    run_dir: Positional[Path]
    """A run directory, of anything but a language model."""
    input: str = "-"
    """A text file with one input a line; "-": standard input."""
    checkpoint: str = "last"
    """"last", "best" (by validation loss on the way), or the step of one that was kept."""


def predict(argv: list[str]) -> int:
    """A run's answers to lines of text, one JSON object a line."""
    options = parse(Predict, argv, prog="jaxseq predict")

    from jaxseq.data.text import read_lines
    from jaxseq.training.run_directory import read_run

    run = read_run(options.run_dir, options.checkpoint)
    lines = read_lines(None if options.input == "-" else Path(options.input))
    for answer in run.answers(lines):
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "sample": sample,
    "predict": predict,
    "tokenizer": tokenizer,
    "convert": convert,
}


# ---- options --------------------------------------------------------------------------------


def parse(kind: Callable[..., T], argv: list[str], **options: Any) -> T:
    """The options of a verb, typed; a mistake in them is one line that names it and the mend."""
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return tyro.cli(kind, args=argv, **options)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        raise UserError(_in_one_line(shown.getvalue())) from None


def _in_one_line(box: str) -> str:
    """What tyro's box says, and the nearest option where it offers one.

    The box has a title, the message, and behind a rule the help for the options concerned.
    """
    message: list[str] = []
    lines = iter(box.splitlines()[1:])
    for line in lines:
        text = line.strip("│ ")
        if text and set(text) <= set("─-╰╯"):
            if message:
                break
        elif text:
            message.append(text)
    near = re.search(r"Perhaps you meant:\W+(--[\w.-]+)", "\n".join(lines))
    mend = f"did you mean {near[1]}?" if near else "--help lists the options"
    return f"{' '.join(message)}; {mend}"


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"


if __name__ == "__main__":
    sys.exit(main())
