"""The launchers print what they would run, run what they print, and quote what they pass on.

The clouds are fakes on PATH that note how they were called and answer from a list.
"""

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
EXPERIMENT = ["experiments/my gpt.py", "--data.path", "a b's/*.txt", "--model.dtype", ""]
START = {
    "tpu_pod.sh": "start run-1 --type v5litepod-16 --zone z --bucket gs://b",
    "gke_xpk.sh": "start run-1 --type=v5litepod-16 --cluster c --zone z",
    "slurm.sh": "start run-1 --nodes 2 --gpus 4",
}

FAKE = r"""#!/usr/bin/env bash
{ printf '%s\037' "${0##*/}" "$@"; echo; } >>"$CALLS"
next() { sed -n 1p "$1"; sed -i 1d "$1"; }
case "$*" in
  *"buckets describe"*) echo "${FOLDERS-True}" ;;
  *"queued-resources list"*) next "$SLICES" ;;
  *"tpu_host.sh status"*) next "$RUNS" ;;
  *"tpu_host.sh prepare"*) exit "${PREPARED-0}" ;;
  *"--script-dir="*) tree="$*" tree="${tree#*--script-dir=}" && cp -r "${tree%% *}" "$CALLS.tree" ;;
  *"--files-from="*) tr '\0' '\n' >"$CALLS.files" ;;
  train*) trap 'exit 143' TERM; while [ -e "$CALLS.runs" ]; do sleep 0.02; done ;;
esac
exit "${STATUS-0}"
"""


@pytest.fixture
def launch(tmp_path):
    """Runs a launcher of a small repository; the result has `calls`, what the fakes were told."""
    repository = tmp_path / "my repository"
    python = shutil.ignore_patterns("*.py", "*.md", "__pycache__")
    shutil.copytree(SCRIPTS, repository / "scripts", ignore=python)
    (repository / "experiments").mkdir()
    (repository / EXPERIMENT[0]).touch()
    fakes = tmp_path / "bin"
    fakes.mkdir()
    for name in ("gcloud", "xpk", "kubectl", "ssh", "rsync", "sbatch", "scancel", "tail"):
        (fakes / name).write_text(FAKE)
        (fakes / name).chmod(0o755)

    def launch(script, *words, slices=(), runs=(), **environment):
        calls = tmp_path / "calls"
        calls.write_text("")
        (tmp_path / "slices.txt").write_text("".join(f"{state}\n" for state in slices))
        (tmp_path / "runs.txt").write_text("".join(f"{status}\n" for status in runs))
        done = subprocess.run(
            ["bash", repository / "scripts" / script, *words],
            env={
                **os.environ,
                "PATH": f"{fakes}:{os.environ['PATH']}",
                "CALLS": str(calls),
                "SLICES": str(tmp_path / "slices.txt"),
                "RUNS": str(tmp_path / "runs.txt"),
                "JAXSEQ_POLL_SECONDS": "0",
                **environment,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        done.calls = [line.split("\037")[:-1] for line in calls.read_text().splitlines()]
        return done

    launch.repository, launch.fakes = repository, fakes
    subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
    return launch


def start(script: str) -> list[str]:
    return START[script].split()


def to_clouds(commands: list[list[str]]) -> list[list[str]]:
    """Those that go out, without the folders that are made for them."""
    here = ("mktemp", "bash", "tar", "rm", "mkdir")
    kept = [words for words in commands if words[0] not in here]
    return [["TREE" if "jaxseq.tar.gz" in w and "/" in w else w for w in words] for words in kept]


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("tpu_pod.sh", f"{START['tpu_pod.sh']} --spot -- {shlex.join(EXPERIMENT)}"),
        ("tpu_pod.sh", "follow run-1 --zone z --worker 3 --project p"),
        ("tpu_pod.sh", "fetch run-1 --bucket b"),
        ("tpu_pod.sh", "stop run-1 --zone z"),
        ("gke_xpk.sh", "attach runs --cluster c --zone z --bucket b"),
        ("gke_xpk.sh", "follow run-1"),
        ("gke_xpk.sh", "fetch run-1 --bucket b"),
        ("gke_xpk.sh", "stop run-1 --cluster c --zone z"),
        ("slurm.sh", f"{START['slurm.sh']} --time 1:00:00 -- {shlex.join(EXPERIMENT)}"),
        ("slurm.sh", f"{START['slurm.sh']} --host me@there -- {shlex.join(EXPERIMENT)}"),
        ("slurm.sh", "follow run-1"),
        ("slurm.sh", "fetch run-1 --host me@there --dir /big/disk"),
        ("slurm.sh", "stop run-1 --host me@there"),
    ],
    ids=lambda text: text.split(" --")[0],
)
def test_a_dry_run_prints_the_commands_and_runs_none(launch, script, line):
    words = shlex.split(line)
    dry = launch(script, words[0], words[1], "--dry-run", *words[2:])
    assert dry.returncode == 0, dry.stderr
    assert not dry.calls
    printed = [shlex.split(line) for line in dry.stdout.splitlines()]
    answers = {"slices": ["", "ACTIVE", "ACTIVE"], "runs": ["none", "0"]}
    wet = launch(script, *words, **answers)
    assert wet.returncode == 0, wet.stderr
    from_pipes = [words for words in wet.calls if "--files-from=-" in words]
    called = [words for words in wet.calls if words not in from_pipes]
    assert to_clouds(printed) == to_clouds(called)
    assert called


def test_the_commands_of_a_tpu_slice(launch):
    dry = launch("tpu_pod.sh", *start("tpu_pod.sh"), "--spot", "--dry-run", "--", *EXPERIMENT)
    lines = [shlex.split(line) for line in dry.stdout.splitlines()]
    gcloud = [" ".join(words[1:]) for words in lines if words[0] == "gcloud"]
    host = "compute tpus tpu-vm ssh run-1 --zone=z --worker"
    create, unpack, prepare, begin, delete = (gcloud[i] for i in (2, 6, 7, 8, 11))
    assert create == (
        "compute tpus queued-resources create run-1 --node-id=run-1 --zone=z "
        "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot"
    )
    archive = "mkdir -p jaxseq && tar -xzf jaxseq.tar.gz -C jaxseq"
    assert unpack == f"{host}=all --command={archive}"
    assert prepare == f"{host}=all --command=bash jaxseq/scripts/tpu_host.sh prepare b"
    told = shlex.split(begin.removeprefix(f"{host}=all --command="))
    assert told == ["bash", "jaxseq/scripts/tpu_host.sh", "start", "run-1", *EXPERIMENT]
    assert delete == "compute tpus queued-resources delete run-1 --zone=z --force --quiet"


def verbs(calls: list[list[str]]) -> list[str]:
    """What a slice was told, in a word each, without the questions."""
    text = [" ".join(words) for words in calls]
    words = {
        "queued-resources create": "create",
        "tpu_host.sh start": "start",
        "queued-resources delete": "delete",
        "tail -n 20": "log",
    }
    return [word for line in text for part, word in words.items() if part in line]


def test_a_slice_that_is_taken_away_is_asked_for_again(launch):
    done = launch(
        "tpu_pod.sh",
        *(*start("tpu_pod.sh"), "--spot", "--", *EXPERIMENT),
        slices=[
            "",
            "PROVISIONING",
            "ACTIVE",
            "ACTIVE",
            "SUSPENDING",
            "SUSPENDED",
            "",
            *["ACTIVE"] * 4,
        ],
        runs=["none", "running", "none", "143", "running", "0"],
    )
    assert done.returncode == 0, done.stderr
    again = ["delete", "create", "start"]
    assert verbs(done.calls) == ["create", "start", *again, "start", "delete"]
    assert "taken away; restart 1 of at most 20" in done.stderr
    assert "status 143; restart 2 of at most 20" in done.stderr
    assert "scripts/tpu_pod.sh fetch run-1 --bucket b" in done.stderr


@pytest.mark.parametrize(
    ("options", "slices", "runs", "told", "message"),
    [
        ([], ["SUSPENDED"], [], [], "was refused or taken away; stop, and start again"),
        ([], ["", ""], [], ["create"], "is gone: somebody gave it back"),
        ([], ["ACTIVE"], ["2"], ["log"], "ended with status 2, see above; the slice stands"),
        (["--max-restarts", "1"], ["ACTIVE"] * 2, ["134", "134"], ["start"], "134; no more than"),
        (["--spot", "--max-restarts=0"], ["FAILED"], [], [], "no more than --max-restarts 0"),
    ],
    ids=["taken away", "given back", "a mistake", "again and again", "no restarts"],
)
def test_a_run_that_cannot_go_on_is_said(launch, options, slices, runs, told, message):
    words = [*start("tpu_pod.sh"), *options, "--", *EXPERIMENT]
    done = launch("tpu_pod.sh", *words, slices=slices, runs=runs)
    assert done.returncode == 2
    assert message in done.stderr
    assert verbs(done.calls) == told


def test_hosts_that_cannot_be_set_up_are_tried_a_few_times(launch):
    words = [*start("tpu_pod.sh"), "--max-restarts", "2", "--", *EXPERIMENT]
    done = launch("tpu_pod.sh", *words, slices=["ACTIVE"] * 3, runs=["none"] * 3, PREPARED="1")
    assert done.returncode == 2
    assert "the hosts could not be set up; no more than --max-restarts 2" in done.stderr
    assert len([words for words in done.calls if "prepare" in words[-1]]) == 3


def test_a_host_runs_what_it_was_told_and_stops_in_peace(launch, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(launch.repository, home / "jaxseq")
    (home / "jaxseq" / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(launch.fakes / "ssh", home / "jaxseq" / ".venv" / "bin" / "jaxseq")
    calls = tmp_path / "calls"
    environment = {**os.environ, "HOME": str(home), "CALLS": str(calls)}

    def host(*words):
        told = ["bash", "jaxseq/scripts/tpu_host.sh", *words]
        return subprocess.run(
            told, cwd=home, env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    def wait_for(status):
        deadline = time.monotonic() + 30
        while (found := host("status", "run-1")) != status:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    assert host("status", "run-1") == "none"
    host("start", "run-1", *EXPERIMENT)
    wait_for("0")
    (call,) = calls.read_text().splitlines()
    assert call.split("\037")[:-1] == ["jaxseq", "train", *EXPERIMENT, "--run-dir", "../runs/run-1"]

    (tmp_path / "calls.runs").touch()
    host("start", "run-1", *EXPERIMENT)
    wait_for("running")
    while len(calls.read_text().splitlines()) < 2:
        time.sleep(0.02)
    host("stop", "run-1")
    assert host("status", "run-1") == "stopped"
    # A machine that was restarted knows of a run that is not there.
    (home / "run-1.status").write_text("running\n")
    assert host("status", "run-1") == "143"


def test_the_working_tree_goes_along(launch, tmp_path):
    """What git knows or would add, as it is now."""
    (launch.repository / ".gitignore").write_text("runs/\n")
    (launch.repository / "runs").mkdir()
    (launch.repository / "runs" / "big").touch()
    (launch.repository / "gone.py").touch()
    subprocess.run(["git", "add", "."], cwd=launch.repository, check=True)
    (launch.repository / "gone.py").unlink()
    (launch.repository / "new file.py").touch()
    done = launch("gke_xpk.sh", *start("gke_xpk.sh"), "--", *EXPERIMENT)
    assert done.returncode == 0, done.stderr
    (call,) = done.calls
    *options, folder, command = call
    assert options == [
        *("xpk", "workload", "create", "--workload=run-1", "--cluster=c", "--zone=z"),
        *("--tpu-type=v5litepod-16", "--num-slices=1", "--storage=runs", "--max-restarts=20"),
        "--base-docker-image=python:3.12",
    ]
    assert not Path(folder.removeprefix("--script-dir=")).exists(), "it is left behind"
    install, train = command.removeprefix("--command=").split(" && exec ")
    assert install == "pip install -q -c constraints.txt -e '.[tpu]'"
    assert shlex.split(train) == ["jaxseq", "train", *EXPERIMENT, "--run-dir", "/runs/run-1"]
    tree = tmp_path / "calls.tree"
    packed = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    scripts = {f"scripts/{path.name}" for path in (launch.repository / "scripts").iterdir()}
    assert packed == {".gitignore", EXPERIMENT[0], "new file.py"} | scripts

    launch("slurm.sh", *start("slurm.sh"), "--host", "me@there", "--", *EXPERIMENT)
    assert set((tmp_path / "calls.files").read_text().splitlines()) == packed


def test_a_slurm_job_goes_back_into_the_queue_when_it_is_stopped(launch, tmp_path):
    dry = launch("slurm.sh", *start("slurm.sh"), "--dry-run", "--", *EXPERIMENT)
    sbatch = shlex.split(dry.stdout.splitlines()[-1])
    there = launch(
        "slurm.sh", *start("slurm.sh"), "--dry-run", "--host", "me@there", "--", *EXPERIMENT
    )
    over_ssh = shlex.split(there.stdout.splitlines()[-1])
    assert over_ssh[:2] == ["ssh", "me@there"]
    assert shlex.split(over_ssh[2]) == ["cd", "jaxseq", "&&", *sbatch]
    assert "--nodes=2 --gpus-per-node=4 --ntasks-per-node=4" in dry.stdout
    job = sbatch.index("scripts/slurm.sbatch")
    assert sbatch[job + 1 :] == [*EXPERIMENT, "--run-dir", "runs/run-1"]

    for name in ("srun", "scontrol"):
        shutil.copy(launch.fakes / "ssh", launch.fakes / name)

    def run(status, restarts="0"):
        environment = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarts, "STATUS": status}
        done = launch("slurm.sbatch", *EXPERIMENT, JAXSEQ_MAX_RESTARTS="3", **environment)
        return done.returncode, [words for words in done.calls if words[0] == "scontrol"]

    assert launch("slurm.sbatch").stderr.startswith("slurm.sbatch: no .venv/bin/jaxseq in ")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(launch.fakes / "ssh", tmp_path / ".venv" / "bin" / "jaxseq")
    assert run("0") == (0, [])
    assert run("2") == (2, [])
    assert run("143") == (143, [["scontrol", "requeue", "7"]])
    assert run("143", restarts="3") == (143, [])


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("tpu_pod.sh", "begin run-1", "unknown verb 'begin'; there are start follow fetch stop"),
        ("tpu_pod.sh", "stop", "stop needs the name of a run: stop NAME"),
        ("tpu_pod.sh", "stop my_run", "the name 'my_run' must be of a-z, 0-9 and -"),
        ("tpu_pod.sh", "stop run-1", "stop needs --zone"),
        ("tpu_pod.sh", "stop run-1 --zone", "--zone needs a value"),
        ("tpu_pod.sh", "stop run-1 --zon z", "unknown option '--zon'; there are type zone bucket"),
        ("tpu_pod.sh", "fetch run-1 --bucket gs://b/c", "must be a bucket, without a folder"),
        ("tpu_pod.sh", f"{START['tpu_pod.sh']}", "start needs an experiment: ... -- experiments/"),
        ("tpu_pod.sh", f"{START['tpu_pod.sh']} -- no.py", "there is no no.py in "),
        ("tpu_pod.sh", f"{START['tpu_pod.sh']} --type v9-4 -- README", "'v9-4' is no v2, v3, v4"),
        ("gke_xpk.sh", f"{START['gke_xpk.sh']} --slices two", "--slices is 'two'; it must be a"),
        ("gke_xpk.sh", f"{START['gke_xpk.sh']} -- README --run-dir=x", "leave --run-dir out"),
        ("slurm.sh", "fetch run-1", "without --host the run is here already, in runs/run-1"),
    ],
)
def test_mistakes_are_named(launch, script, words, message):
    (launch.repository / "README").touch()
    done = launch(script, *words.split(), slices=[""])
    assert done.returncode == 2
    assert message in done.stderr
    assert not done.calls


def test_a_bucket_without_folders_is_refused(launch):
    for folders in ("", "False"):
        done = launch("tpu_pod.sh", "fetch", "run-1", "--bucket", "b", FOLDERS=folders)
        assert done.returncode == 2
        assert "atomic only in a bucket with folders, and gs://b has none" in done.stderr


@pytest.mark.parametrize("script", START)
def test_help_is_the_head_of_the_file(launch, script):
    assert os.access(SCRIPTS / script, os.X_OK)
    done = launch(script, "--help")
    assert done.returncode == 0
    assert f"scripts/{script} start NAME" in done.stdout
    assert "#" not in done.stdout
