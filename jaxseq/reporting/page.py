"""The whole report: one HTML file that needs no network and no other file."""

import base64
import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jaxseq
from jaxseq.reporting.chart import draw
from jaxseq.reporting.confusion import confusion_section
from jaxseq.reporting.curves import charts
from jaxseq.reporting.examples import examples_section
from jaxseq.reporting.figures import moment
from jaxseq.reporting.markup import Markup, element
from jaxseq.reporting.media import BUDGET, Media
from jaxseq.reporting.overview import (
    config_section,
    experiment_name,
    reproduction_section,
    runs_section,
)
from jaxseq.reporting.parts import run_name, section
from jaxseq.reporting.results import headline, results_section
from jaxseq.reporting.runs import Run, read_runs
from jaxseq.reporting.script import SCRIPT
from jaxseq.reporting.style import STYLE


def render(folders: Sequence[Path], now: datetime.datetime) -> str:
    """The report of some run directories as HTML, made at the time `now`.

    Runs that are going on, were killed or lost files are reported as far as they can be read.
    Raises UserError for a directory that holds no run.
    """
    runs = read_runs(folders)
    media = Media()
    # In the order in which they may use up the room for pictures.
    examples = examples_section(runs, media)
    pictures = _pictures(runs, media)
    contents = [
        ("runs", "Runs" if len(runs) > 1 else "The run", runs_section(runs)),
        ("results", "Results", results_section(runs)),
        ("curves", "Curves", _curves(runs)),
        ("examples", "Examples", examples),
        ("confusion", "Confusions", confusion_section(runs)),
        ("pictures", "At the end of training", pictures),
        ("config", "Options", config_section(runs)),
        ("reproduction", "How it was run", reproduction_section(runs)),
    ]
    filled = [(name, heading, content) for name, heading, content in contents if content]
    title = _title(runs)
    links = [element("a", heading, href=f"#{name}") for name, heading, _ in filled]
    said = headline(runs)
    head = element(
        "header",
        element("p", "jaxseq report", class_="over"),
        element("h1", title),
        element("p", said, class_="headline") if said else None,
    )
    left_out = []
    if media.left_out:
        left_out = [
            element(
                "p",
                f"{len(media.left_out)} pictures and sounds are left out: the report holds "
                f"{BUDGET // 1_000_000} MB of them at most. They stay in the run directories.",
                class_="alarm",
            )
        ]
    body = element(
        "div",
        element("nav", *links, aria_label="Contents"),
        element(
            "main",
            head,
            *left_out,
            *(section(*each) for each in filled),
            element(
                "footer",
                f"Made by jaxseq {jaxseq.__version__} on {moment(now)}. This file holds all that "
                "it shows.",
            ),
        ),
        class_="page",
    )
    return "<!doctype html>\n" + _document(title, body) + "\n"


def _document(title: str, body: Markup) -> Markup:
    """A page that may load nothing, and run no script but its own: whatever slipped in."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    return element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name_="color-scheme", content="light dark"),
            element("title", title),
            element("style", STYLE),
        ),
        element("body", body, element("script", SCRIPT)),
        lang="en",
    )


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    names = dict.fromkeys(name for run in runs if (name := experiment_name(run)))
    return f"{', '.join(names) or 'Runs'}: {len(runs)} runs compared"


def _curves(runs: Sequence[Run]) -> list[Markup]:
    found, empty = charts(runs)
    parts: list[Markup] = []
    if len(runs) > 1:
        names = [
            element(
                "label",
                element("input", type_="checkbox", checked=True, data_shows=place),
                run_name(place, run.name),
            )
            for place, run in enumerate(runs)
        ]
        parts.append(element("div", *names, class_="legend"))
    if found:
        parts.append(
            element(
                "p",
                "Over training steps. Thin: every logged step; thick: the running mean; with "
                "dots: the validation split.",
                class_="note",
            )
        )
        parts.append(element("div", *map(draw, found), class_="charts"))
    if empty:
        listed = ", ".join(title[0].lower() + title[1:] for title in empty)
        parts.append(element("p", f"Of {listed} no run has logged two steps.", class_="gap"))
    return parts


def _pictures(runs: Sequence[Run], media: Media) -> list[Markup]:
    """What tasks leave in the run directory when training ends."""
    parts = []
    for place, run in enumerate(runs):
        files = [path for kind in ("*.png", "*.wav") for path in sorted(run.folder.glob(kind))]
        if not files:
            continue
        if len(runs) > 1:
            parts.append(element("h3", run_name(place, run.name)))
        shown = [media.embed(run.folder, path.name, path.name) for path in files]
        parts.append(element("div", *shown, class_="media large"))
    return parts
