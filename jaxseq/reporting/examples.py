"""What runs made of single examples, errors marked."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxseq.reporting.corrections import Piece, nearest
from jaxseq.reporting.figures import figure, title_of
from jaxseq.reporting.markup import Markup, element, join
from jaxseq.reporting.media import Media
from jaxseq.reporting.parts import gap, run_name
from jaxseq.reporting.runs import EXAMPLES, Run, number

OPEN, MOST = 6, 40
"""Examples that are shown at once, and with those that unfold."""

LONG = 400
"""Characters of an input from which on it is folded."""

CAPTIONS = {
    "attention": "attention",
    "alignment": "alignment",
    "spectrogram": "spectrogram",
    "audio": "sound",
    "reference_spectrogram": "spectrogram of the reference",
    "reference_audio": "sound of the reference",
}
"""Files of an example, in the order in which they are shown."""

TEXTS = ("input", "output", "reference", "files", "unit")
"""What of an example is no figure."""


class Example(NamedTuple):
    """One input, and what each run made of it."""

    input: str
    references: tuple[str, ...]
    answers: dict[int, dict[str, Any]]
    """By the run's place in the report."""


def examples_section(runs: Sequence[Run], media: Media) -> list[Markup]:
    """For each split the examples that `jaxseq evaluate` left."""
    splits = dict.fromkeys(split for run in runs for split in run.examples)
    parts: list[Markup] = []
    for split in splits:
        found = group(runs, split)
        if not found:
            continue
        shown = [_example(example, runs, split, media) for example in found[:MOST]]
        most = f" (the first {len(shown)} of them)" if len(found) > len(shown) else ""
        parts += [
            element("h3", f"{title_of(split).capitalize()} split"),
            element(
                "p",
                f"{len(found)} examples from all over the split{most}; no one chose them. ",
                *_key(found[:MOST]),
                class_="note",
            ),
            *shown[:OPEN],
        ]
        if len(shown) > OPEN:
            parts.append(
                element(
                    "details",
                    element("summary", f"{len(shown) - OPEN} more"),
                    *shown[OPEN:],
                    class_="more",
                )
            )
    without = [run for run in runs if not any(run.examples.values())]
    for run in without:
        if run.evaluations:
            said = f"{run.name} was evaluated, and has no examples: its task leaves none."
            parts.append(element("p", said, class_="gap"))
    return [*parts, *gap([run for run in without if not run.evaluations], "examples")]


def group(runs: Sequence[Run], split: str) -> list[Example]:
    """The examples of a split, those of several runs with one input and reference together."""
    found: dict[tuple, Example] = {}
    for place, run in enumerate(runs):
        times: dict[tuple, int] = {}
        for row in run.examples.get(split, ()):
            source, references = str(row.get("input", "")), _references(row)
            key = source, references
            times[key] = times.get(key, 0) + 1  # an input may come twice
            example = found.setdefault((*key, times[key]), Example(source, references, {}))
            example.answers[place] = row
    return list(found.values())


def _references(row: dict[str, Any]) -> tuple[str, ...]:
    reference = row.get("reference")
    if reference is None:
        return ()
    return tuple(map(str, reference)) if isinstance(reference, list) else (str(reference),)


def _key(examples: Sequence[Example]) -> Iterator[Markup]:
    """What the marks mean, where there are any."""
    if any(example.references for example in examples):
        yield element("del", "struck out")
        yield join(": written, and not in the reference. ")
        yield element("ins", "underlined")
        yield join(": in the reference, and not written.")


def _example(example: Example, runs: Sequence[Run], split: str, media: Media) -> Markup:
    lines = [_line("Input", _long(example.input))] if example.input else []
    corrected = {
        place: nearest(str(row.get("output", "")), example.references, str(row.get("unit")))
        for place, row in example.answers.items()
    }
    meant = {found[0] for found in corrected.values() if found}
    for place, reference in enumerate(example.references):
        label = "Reference" if len(example.references) == 1 else f"Reference {place + 1}"
        if place in meant or len(example.references) == 1 or not meant:
            lines.append(_line(label, _long(reference)))
    unseen = len(example.references) - len(meant)
    if meant and unseen:
        lines.append(_line("", element("small", f"and {unseen} farther from it")))
    for place, row in example.answers.items():
        lines += _answer(place, row, corrected[place], len(runs) > 1, runs[place])
        lines += _files(row, runs[place], split, media)
    return element("article", element("dl", *lines), class_="example")


def _answer(
    place: int,
    row: dict[str, Any],
    corrected: tuple[int, list[Piece]] | None,
    several: bool,
    run: Run,
) -> Iterator[Markup]:
    output = str(row.get("output", ""))
    if corrected is None:
        written = _long(output) if output else element("small", "(nothing)")
    elif not corrected[1]:
        written = element("small", "(nothing, as it should be)")
    else:
        written = element("span", *_marked(corrected[1], row.get("unit")), dir="auto")
    right = corrected is not None and all(piece.kind == "same" for piece in corrected[1])
    facts = [
        f"{title_of(name)} {figure(value)}"
        for name, given in row.items()
        if name not in TEXTS and (value := number(given)) is not None
    ] + [
        f"{title_of(name)} {given}"
        for name, given in row.items()
        if name not in TEXTS and isinstance(given, str | bool)
    ]
    label = run_name(place, run.name) if several else join("Output")
    yield element("dt", label)
    yield element(
        "dd",
        written,
        element("small", "\N{CHECK MARK} right", class_="right") if right else None,
        element("small", ", ".join(facts), class_="facts") if facts else None,
    )


def _marked(pieces: Sequence[Piece], unit: object) -> Iterator[Markup]:
    """Corrections as a browser shows them, with spaces between words."""
    names = {"same": "span", "wrong": "del", "missing": "ins"}
    for place, piece in enumerate(pieces):
        if place and unit != "character":
            yield join(" ")
        # A space that is wrong or missing would not be seen.
        visible = piece.text if piece.kind == "same" else piece.text.replace(" ", "\N{OPEN BOX}")
        yield element(names[piece.kind], visible if unit == "character" else piece.text)


def _files(row: dict[str, Any], run: Run, split: str, media: Media) -> Iterator[Markup]:
    files = row.get("files")
    if not isinstance(files, dict) or not files:
        return
    order = sorted(files, key=lambda kind: [*CAPTIONS, kind].index(kind))
    folder = run.folder / f"{EXAMPLES}{split}"
    shown = [
        media.embed(folder, files[kind], CAPTIONS.get(kind, title_of(str(kind)))) for kind in order
    ]
    yield element("dt")
    yield element("dd", element("div", *shown, class_="media"))


def _line(label: str, content: Markup) -> Markup:
    return join(element("dt", label), element("dd", content))


def _long(content: str) -> Markup:
    """Text as it is, folded where it is long."""
    if len(content) <= LONG:
        return element("span", content, class_="text", dir="auto")
    begin = content[: LONG // 2].rsplit(maxsplit=1)[0]
    return element(
        "details",
        element(
            "summary",
            element("span", f"{begin} \N{HORIZONTAL ELLIPSIS}", dir="auto"),
            element("small", f" all {len(content):,} characters"),
        ),
        element("span", content, class_="text", dir="auto"),
    )
