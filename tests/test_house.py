"""The walls of the house: who may import whom, how long an import takes, what the README says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

# Upper rooms may import lower ones, never the other way (see the design in README.md).
ROOMS = [
    "cli", "reporting", "planning", "training", "tasks", "decoding", "interop", "models", "nn",
    "data", "ops", "parallel",
]  # fmt: skip
ANYWHERE = {"cache_folder", "config", "errors", "option_checks", "typing", "reference"}
# Who may look at whom among the lower rooms.
FORBIDDEN = {
    "nn": {"data"},
    "models": {"data"},
    "decoding": {"data", "interop"},
    "interop": {"data"},
    "tasks": {"interop"},
    "data": {"ops", "parallel"},
}


def imports(file: Path) -> set[str]:
    """The rooms of jaxseq that a file imports from, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("jaxseq.")}
    return found


def test_imports_go_down():
    for file in (REPOSITORY / "jaxseq").rglob("*.py"):
        room = file.relative_to(REPOSITORY / "jaxseq").parts[0].removesuffix(".py")
        room = "cli" if room.startswith("cli_") else room  # a verb in a file of its own
        if room == "reference":
            assert imports(file) <= {"reference"}, file
        elif room in ROOMS:
            above = set(ROOMS[: ROOMS.index(room)]) | FORBIDDEN.get(room, set())
            assert not imports(file) & above, file
        else:
            assert room in ANYWHERE | {"__init__"}, f"{file} is in no room"


def test_import_is_quick_and_light():
    """Less than 0.2 s beyond jax, and none of the libraries that only some verbs need."""
    code = (
        "import time, sys, jax; begin = time.perf_counter(); import jaxseq; "
        "print(time.perf_counter() - begin); "
        "heavy = ('flax', 'optax', 'orbax', 'grain', 'tyro', 'rich'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = out.stdout.splitlines()
    assert float(seconds) < 0.2
    assert heavy == "[]"


def test_no_file_outgrows_its_purpose():
    for folder in ("jaxseq", "experiments", "scripts", "tests"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 400, file


def test_ci_runs_the_commands_of_the_readme():
    """CI takes both commands out of the README; here they are found where CI looks."""
    ci = (REPOSITORY / ".ci" / "run").read_text()
    function = ci[ci.index("readme_command() {") : ci.index("\n}\n") + 3]
    for heading, end in [
        ("Train your first model", ".venv/bin/jaxseq train experiments/gpt_char.py"),
        ("Run the tests", ".venv/bin/python -m pytest -n auto"),
    ]:
        assert f'readme_command "{heading}"' in ci
        script = f'{function}\nreadme_command "{heading}"'
        out = subprocess.run(
            ["bash", "-euc", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        (command,) = out.stdout.splitlines()
        assert command.startswith("python3 -m venv .venv && ")
        assert command.endswith(end)


@pytest.mark.parametrize("file", sorted((REPOSITORY / "experiments").glob("*.py")), ids=str)
def test_every_experiment_says_what_to_expect(file):
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    for word in ("Command:", "Hardware:", "Time:", "Expect:"):
        assert word in docstring, f"{file} does not say its {word}"
    assert f"experiments/{file.name}" in docstring
