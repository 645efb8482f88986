"""The whole page: whole as HTML, closed to the outside, and quiet in a browser."""

import datetime
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import png, wav, write_evaluation, write_examples, write_run

from jaxseq.reporting import media
from jaxseq.reporting.markup import VOID
from jaxseq.reporting.page import render

NOW = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.UTC)
HOSTILE = "</script></style><script>document.title = 'owned'</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Checks that tags nest; keeps their attributes, and the text."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.parts = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.parts.append(data)

    @property
    def text(self):
        return "".join(self.parts)

    def count(self, tag, **attributes):
        return sum(name == tag and attributes.items() <= given.items() for name, given in self.tags)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two runs, one of them with everything that a report shows, all of it hostile."""
    folder = tmp_path_factory.mktemp("runs")
    one, other = write_run(folder / "one", seed=0), write_run(folder / HOSTILE.replace("/", "|"))
    confusion = {"labels": ["pos", HOSTILE], "counts": [[8, 2], [0, 5]]}
    for run in (one, other):
        details = {"confusion": confusion, HOSTILE: HOSTILE}
        write_evaluation(
            run, {"loss": 0.5, "accuracy": 0.75, HOSTILE: 1.0, "n": 9}, details=details
        )
        outputs = [HOSTILE, "right", "the dog sat", "free"]
        references = [["a b", HOSTILE + " c"], "right", "the cat sat down", None]
        files = write_examples(
            run,
            [
                {"input": f"{HOSTILE} {place}", "output": output, "score": -1.5, HOSTILE: HOSTILE}
                | ({} if reference is None else {"reference": reference})
                | ({"files": {"attention": "0/a.png", "audio": "0/a.wav"}} if not place else {})
                for place, (output, reference) in enumerate(zip(outputs, references, strict=True))
            ],
        )
        (files / "0").mkdir()
        (files / "0" / "a.png").write_bytes(png())
        (files / "0" / "a.wav").write_bytes(wav())
    (one / "attention.png").write_bytes(png())
    return [one, other]


@pytest.fixture(scope="module")
def html(compared):
    return render(compared, NOW)


def test_a_page_is_whole_and_shows_all_there_is(html):
    page = Page(html)
    for heading in ("Runs", "Results", "Curves", "Examples", "Confusions", "Options"):
        assert page.count("a", href=f"#{heading.lower()}") or heading in ("Confusions", "Options")
        assert f"{heading}" in page.text
    for said in (
        "made_up: 2 runs compared",
        "finished, 200 steps",
        "jaxseq train experiments/made_up.py --seed 1",
        "0.7500[0.6500 to 0.8500]",
        "pos taken for",
        ": 2 of 10 (20 %)",
        "Of tokens per second, model FLOPs utilisation no run has logged two steps.",
        "text.txt",
        "2026-11-22 12:00 UTC",
    ):
        assert said in page.text
    assert page.count("img") == 3
    assert page.count("audio") == 2
    assert page.text.count("taken for") == 2  # one confusion in each run's matrix
    assert page.count("article", **{"class": "example"}) == 4  # runs side by side


def test_errors_are_marked(html):
    marked = "<span>the</span> <del>dog</del> <ins>cat</ins> <span>sat</span> <ins>down</ins>"
    assert marked in html
    assert html.count("\N{CHECK MARK} right") == 2


def test_what_runs_hold_is_text(html):
    page = Page(html)
    assert page.count("script") == 1
    assert all(
        tag != "img" or ("src" in given and given["src"].startswith("data:"))
        for tag, given in page.tags
    )
    assert not any(key.startswith("on") for _, given in page.tags for key in given)
    assert page.text.count(HOSTILE) > 10


def test_nothing_is_loaded_from_elsewhere(html):
    page = Page(html)
    for _, given in page.tags:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            assert given.get(key, "#").startswith(("#", "data:"))
    (policy,) = (
        given["content"]
        for tag, given in page.tags
        if "content-security" in (given.get("http-equiv") or "").lower()
    )
    assert policy.startswith("default-src 'none'")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_charts_carry_values_without_what_is_not_finite(compared, tmp_path):
    folder = tmp_path / "diverged"
    shutil.copytree(compared[0], folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 202, "split": "train", "loss": NaN, "gradient_norm": Infinity}\n')
    page = Page(render([folder], NOW))
    assert page.text.count("Not finite at step 202.") == 2
    plots = [given for _, given in page.tags if given.get("class") == "plot"]
    assert len(plots) == 3

    def refuse(word):
        raise AssertionError(word)

    for given in plots:
        for line in json.loads(given["data-lines"], parse_constant=refuse):
            assert all(0 < step <= 200 for step, _ in line["points"])


def test_a_run_with_nothing_but_its_config(tmp_path):
    folder = write_run(tmp_path / "begun", steps=2)
    (folder / "metrics.jsonl").unlink()
    page = Page(render([folder], NOW))
    for said in (
        "unfinished: step 0 of 200",
        "metrics.jsonl has no row yet",
        "Of loss, learning rate, gradient norm",
        f"begun has no examples yet. To make them:jaxseq evaluate {folder} --split test",
        "begun has no metrics with intervals yet.",
    ):
        assert said in page.text
    (folder / "config.json").write_text("{}")
    assert "unknown" in Page(render([folder], NOW)).text


def test_files_outside_of_a_run_and_of_other_kinds_are_not_shown(tmp_path):
    folder = write_run(tmp_path / "run", steps=4)
    (tmp_path / "secret.png").write_bytes(png())
    names = ["../../secret.png", "gone.png", "a.html", str(tmp_path / "secret.png"), "a\0b"]
    files = write_examples(
        folder, [{"output": "x", "files": {f"kind{i}": n for i, n in enumerate(names)}}]
    )
    (files / "a.html").write_text("<script>alert(1)</script>")
    page = Page(render([folder], NOW))
    assert page.count("img") == 0
    assert page.text.count("lies outside of") == 2
    assert page.text.count("is missing") == 2
    assert "a.html is damaged: neither a PNG picture nor a WAV sound" in page.text


def test_what_the_report_has_no_room_for_stays_where_it_is(compared, monkeypatch):
    monkeypatch.setattr(media, "BUDGET", len(png()) + len(wav()) + 1)
    page = Page(render(compared, NOW))
    assert page.count("img") == page.count("audio") == 1
    assert "3 pictures and sounds are left out" in page.text
    assert page.text.count("the report has no room for it") == 3


# ---- in a browser -----------------------------------------------------------------------------

PROBE = """<script>
const plot = document.querySelector(".plot"), box = plot.getBoundingClientRect();
plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2}));
const other = document.querySelectorAll(".plot")[1];
other.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
document.documentElement.dataset.wide = document.documentElement.scrollWidth > innerWidth;
</script>"""


def in_browser(page: Path, profile: Path) -> tuple[str, list[str]]:
    """(the document after its scripts have run, what the console said)."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("Chromium is not installed")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    words += [f"--user-data-dir={profile}", "--window-size=500,900", "--dump-dom", page.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, re.findall(r".*CONSOLE.*", done.stderr)


def test_in_chromium(html, tmp_path):
    """With a pointer on a curve, keys on another, and hardly more room than a phone's."""
    (tmp_path / "probe.html").write_text(html.replace("http-equiv", "data-off") + PROBE)
    after, console = in_browser(tmp_path / "probe.html", tmp_path / "profile")
    assert console == []
    assert after.count('class="tip"') == 2
    assert re.search(r'class="tip".{0,200}step 100.*?one, training<b>', after, re.DOTALL)
    assert 'data-wide="false"' in after


def test_the_page_says_nothing_and_its_policy_stops_what_slipped_in(html, tmp_path):
    slipped = "<script>document.title = 'owned'</script></body>"
    (tmp_path / "page.html").write_text(html.replace("</body>", slipped))
    after, console = in_browser(tmp_path / "page.html", tmp_path / "profile")
    (message,) = console  # of the script that slipped in, and of nothing else
    assert "Content Security Policy" in message
    assert "<title>made_up: 2 runs compared</title>" in after
