"""The verb `jaxseq report`: runs as one HTML file."""

import dataclasses
import datetime
import os
from pathlib import Path

import tyro

from jaxseq.cli_options import parse
from jaxseq.errors import UserError


@dataclasses.dataclass(frozen=True)
class Report:
    """What runs are, their metrics, curves, examples and pictures, side by side in one file."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories; a run may still be going on."""
    output: Path = Path("report.html")
    """The HTML file to write; one that is there is replaced."""


def report(argv: list[str]) -> int:
    """One HTML file with all that some runs have to show, to open anywhere."""
    options = parse(Report, argv, prog="jaxseq report")

    import jax

    # A run that is going on may hold this machine's accelerator, and a report needs none.
    jax.config.update("jax_platforms", "cpu")
    from jaxseq.reporting.page import render

    page = render(options.run_dirs, datetime.datetime.now(datetime.UTC)).encode()
    # An unfinished file bears another name: a browser may have the last report open.
    unfinished = options.output.with_name(options.output.name + ".tmp")
    try:
        unfinished.write_bytes(page)
        os.replace(unfinished, options.output)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {options.output}: {error.strerror}; choose another with --output"
        ) from error
    print(f"{options.output} ({len(page) / 1e6:.1f} MB); open it in a browser")
    return 0
