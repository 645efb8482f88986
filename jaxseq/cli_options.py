"""How verbs read their options and experiment files, and write figures."""

import contextlib
import difflib
import importlib.util
import io
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from jaxseq.errors import UserError

if TYPE_CHECKING:
    from jaxseq.training.experiment import Experiment

T = TypeVar("T")


def experiment_options(
    kind: Any, file: Path, argv: list[str], verb: str, complete: Callable[["Experiment"], T]
) -> T:
    """The options of a verb that takes an experiment file: `kind`, generic in the experiment.

    FILE.py:NAME is the experiment that the file calls NAME, FILE.py the one called `experiment`.
    `complete` puts it among the verb's defaults.
    """
    path, _, name = str(file).partition(".py:")
    module = load_module(Path(f"{path}.py") if name else file)

    from jaxseq.training.experiment import Experiment

    default = getattr(module, name or "experiment", None)
    if not isinstance(default, Experiment):
        if not name:
            raise UserError(f"{file} has no `experiment = Experiment(...)`; see experiments/")
        names = [key for key, value in vars(module).items() if isinstance(value, Experiment)]
        raise UserError(f"{path}.py has no experiment '{name}'{nearest(name, names)}")
    # The file decides the types of the parts, and they the options.
    experiment_kind: Any = Experiment
    parts = type(default.task), type(default.model), type(default.data)
    return parse(
        kind[experiment_kind[parts]],
        argv,
        prog=f"jaxseq {verb} {file}",
        description=module.__doc__,
        default=complete(default),
    )


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


def nearest(word: str, known: list[str]) -> str:
    """What to say behind a word that is not known."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"


def rounded(value: float | int) -> str:
    """A figure for a person."""
    return f"{value:,.4f}" if value % 1 else f"{value:,.0f}"
