"""The command line: `jaxseq VERB ...`."""

import dataclasses
import errno
import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxseq.cli_convert import convert
from jaxseq.cli_data import data
from jaxseq.cli_options import nearest, parse, rounded
from jaxseq.cli_plan import plan
from jaxseq.cli_report import report
from jaxseq.cli_tokenizer import tokenizer
from jaxseq.cli_train import train
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.errors import UserError
from jaxseq.parallel.host_memory import keep_freed_memory

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
        raise UserError(f"unknown verb '{argv[0]}'{nearest(argv[0], list(VERBS))}")
    return VERBS[argv[0]](argv[1:])


# ---- evaluate -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """The metrics of a run on a whole held-out split, each with its 95 % bootstrap interval.

    They are kept in the run directory too, with some examples, for `jaxseq report`.
    """

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

    from jaxseq.training.compile_cache import keep_compiled_programs
    from jaxseq.training.evaluation import evaluate_run, held_out
    from jaxseq.training.evaluation_files import write_evaluation, write_examples
    from jaxseq.training.run_directory import read_run

    keep_compiled_programs()
    run_dir, split = options.run_dir, options.split
    run = read_run(run_dir, options.checkpoint)
    examples = held_out(run, run_dir, split)
    found = evaluate_run(run, examples)
    write_evaluation(run_dir, split, run, options.checkpoint, found)
    write_examples(run_dir, split, run, examples)
    metrics = {"step": run.step} | found.metrics
    if options.json:
        print(json.dumps(metrics | {"intervals": found.intervals}))
        return 0
    width = max(map(len, metrics))
    for name, value in metrics.items():
        line = f"{name:{width}}  {rounded(value)}"
        if name in found.intervals:
            low, high = map(rounded, found.intervals[name])
            line += f"  (95 %: {low} to {high})"
        print(line)
    return 0


# ---- sample ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Sample:
    """Text written by a run's model, shown as it comes."""

    run_dir: Positional[Path]
    """A run directory."""
    prompt: str = "\n"
    """Text to go on from."""
    input: str = ""
    """In place of one prompt: a text file with a prompt a line; "-": standard input, where each
    line is gone on from as it comes."""
    max_new_tokens: int = 500
    """Tokens to write."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; the one that comes is not shown."""
    sampling: Annotated[SamplingConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=SamplingConfig
    )
    seed: int = 0
    """Decides the draws; the prompts of a file have this seed and those behind it."""
    checkpoint: str = "last"
    """"last", "best" (by validation loss on the way), or the step of one that was kept."""


def sample(argv: list[str]) -> int:
    """Text from a run's model, streamed to the terminal."""
    options = parse(Sample, argv, prog="jaxseq sample")

    from jaxseq.data.text import read_lines
    from jaxseq.training.compile_cache import keep_compiled_programs
    from jaxseq.training.run_directory import read_run

    keep_compiled_programs()
    run = read_run(options.run_dir, options.checkpoint)
    task = run.experiment.task
    if not hasattr(task, "write"):
        raise UserError(f"{options.run_dir} is no language model; try: jaxseq predict")
    prompts = [options.prompt]
    if options.input:
        prompts = read_lines(None if options.input == "-" else Path(options.input))
    for number, prompt in enumerate(prompts):
        task.write(
            run.experiment.model,
            run.params,
            run.tokenizer,
            prompt,
            options.max_new_tokens,
            options.sampling,
            options.seed + number,
            partial(print, end="", flush=True),
            options.stop,
        )
        print(flush=True)
    return 0


# ---- predict --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Predict:
    """A run's answers to lines of text, one line each, in order.

    Lines that come slowly are answered one by one, as they come, and many together otherwise.
    """

    run_dir: Positional[Path]
    """A run directory, of anything but a language model."""
    input: str = "-"
    """A text file with one input a line; "-": standard input."""
    format: Literal["json", "text"] = "json"
    """An answer as a JSON object with all there is to say, or its main part alone."""
    output: Path = Path("predictions")
    """Where files go, if answers are files (speech)."""
    checkpoint: str = "last"
    """"last", "best" (by validation loss on the way), or the step of one that was kept."""


def predict(argv: list[str]) -> int:
    """A run's answers to lines of text, as they come."""
    options = parse(Predict, argv, prog="jaxseq predict")

    from jaxseq.data.text import read_lines
    from jaxseq.tasks.lines import Arriving
    from jaxseq.training.compile_cache import keep_compiled_programs
    from jaxseq.training.run_directory import read_run

    keep_compiled_programs()
    run = read_run(options.run_dir, options.checkpoint)
    task = run.experiment.task
    if options.format == "text" and not hasattr(task, "answer"):
        raise UserError(f"{options.run_dir} has answers of many parts; use --format json")
    from_stdin = options.input == "-"
    lines = Arriving(read_lines(None)) if from_stdin else read_lines(Path(options.input))
    for answer in run.answers(lines, options.output):
        if options.format == "json":
            print(json.dumps(answer, ensure_ascii=False), flush=True)
        else:
            said = answer[task.answer]
            print(said if isinstance(said, str) else " ".join(said), flush=True)
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "sample": sample,
    "predict": predict,
    "report": report,
    "data": data,
    "plan": plan,
    "tokenizer": tokenizer,
    "convert": convert,
}


if __name__ == "__main__":
    sys.exit(main())
