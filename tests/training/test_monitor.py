"""The clocks of a run, against a machine whose times are known; the profiler, on a real one."""

import gzip
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.errors import UserError
from jaxseq.parallel.mesh import MeshConfig, one_device
from jaxseq.training import monitor as monitor_module
from jaxseq.training.memory import memory_high_water
from jaxseq.training.monitor import MEASURED, Monitor
from jaxseq.training.profiler import traced_steps

FLOPS, PEAK = 6_000_000_000, 1e12


def batch(length: int = 8) -> dict[str, np.ndarray]:
    return {"inputs": np.zeros((4, length), np.int32)}


class Machine:
    """Devices that compute one step after the other, a reader beside them, and a clock."""

    def __init__(self, batch_seconds: float = 0.0, step_seconds: float = 0.5):
        self.batch_seconds, self.step_seconds = batch_seconds, step_seconds
        self.now, self.ends, self.compiled = 0.0, [0.0], set()

    def batches(self, start: int, stop: int, length: int):
        begin = self.now  # the first was read ahead
        for count, index in enumerate(range(start, stop)):
            self.now = max(self.now, begin + count * self.batch_seconds)
            yield index, batch(length)

    def step(self, length: int) -> None:
        """Returns at once, but for the seven seconds that compilation takes."""
        self.now += 0.0 if length in self.compiled else 7.0
        self.compiled.add(length)
        self.ends.append(max(self.now, self.ends[-1]) + self.step_seconds)

    def run(self, monitor: Monitor, start: int, stop: int, length: int = 8) -> dict[str, float]:
        """The loop: a step is waited for once the next is on its way. Returns the row of all."""
        for index, _ in monitor.input(self.batches(start, stop, length)):
            with monitor.step(index):
                self.step(length)
            self.wait(-2)
        self.wait()
        return monitor.row(stop - start, 100.0 * (stop - start))

    def wait(self, step: int = -1) -> None:
        self.now = max(self.now, self.ends[step])


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """begin(machine) -> (a Monitor that lives by its clock, what that says)."""
    chip = SimpleNamespace(name="a chip", bf16_flops=PEAK)
    monkeypatch.setattr(monitor_module, "chip_of", lambda device: chip)

    def build(machine, flops_per_step=lambda shapes: FLOPS, layout=None):
        clock = SimpleNamespace(perf_counter=lambda: machine.now)
        monkeypatch.setattr(monitor_module, "time", clock)
        monkeypatch.setattr(monitor_module, "wait_for_devices", machine.wait)
        said = []
        return Monitor(tmp_path, "", flops_per_step, layout or one_device(), said.append), said

    return build


def test_a_row_is_of_training_alone(begin):
    machine = Machine()
    monitor, said = begin(machine, layout=MeshConfig(data=4, tensor=2).build(4))
    first = machine.run(monitor, 0, 3)
    np.testing.assert_allclose([first["tokens_per_second"], first["step_seconds"]], [200, 0.5])
    with monitor.aside("evaluation"):
        machine.now += 2.0
    with monitor.aside("checkpoint"):
        machine.now += 1.0
    row = machine.run(monitor, 3, 13)
    assert tuple(row) == MEASURED
    assert row.pop("memory_bytes") > 2**20  # of this process, with JAX in it
    expected = [200, 0.5, FLOPS / (0.5 * 8 * PEAK), 0, 2 / 8, 1 / 8]
    np.testing.assert_allclose(list(row.values()), expected)
    assert said == [
        "first step, compilation included, took 7.5 s; MFU = model FLOPs (6e+09 in this step) / "
        "(seconds x 8 x 1e+12 FLOP/s of bfloat16, a chip)"
    ]
    assert monitor.summary().startswith(
        "16 s: steps 36%, compilation 45%, evaluation 12%, checkpoint 6%; MFU 0.1%; memory of the "
        "process at most "
    )


def test_without_flops_there_is_no_mfu(begin):
    machine = Machine()
    monitor, said = begin(machine, flops_per_step=None)
    # A row of the first step alone has no speed.
    assert tuple(machine.run(monitor, 0, 1)) == ("memory_bytes",)
    assert "mfu" not in machine.run(monitor, 1, 5)
    assert "MFU" not in said[0] + monitor.summary()


def test_each_shape_of_batches_compiles_and_has_its_own_flops(begin):
    asked = []

    def count(shapes):
        asked.append(shapes["inputs"].shape)
        return shapes["inputs"].size * 10**9

    machine = Machine()
    monitor, said = begin(machine, flops_per_step=count)
    machine.run(monitor, 0, 5)
    for length, timed in ((16, 4), (8, 5), (16, 5)):
        row = machine.run(monitor, 0, 5, length)
        assert row["step_seconds"] == pytest.approx(0.5)
        assert row["tokens_per_second"] == pytest.approx(200)
        assert row["mfu"] == pytest.approx(timed * 4 * length * 1e9 / (timed * 0.5 * PEAK))
    assert asked == [(4, 8), (4, 16)]
    assert len(said) == 1
    assert "compilation 62%" in monitor.summary()  # 15 of 24 s


def test_a_step_that_compiles_counts_in_its_own_row(begin):
    """Rows are of steps that have ended, while the next is on its way."""
    machine = Machine()
    monitor, _ = begin(machine)
    machine.run(monitor, 0, 5)
    rows = []
    for index, length in enumerate((8, 8, 16, 16, 16, 16)):
        for _ in monitor.input(iter([(index, batch(length))])):
            with monitor.step(index):
                machine.step(length)
        machine.wait(-2)
        if index in (2, 5):
            rows.append(monitor.row(2 if index == 2 else 3, 1.0))
    # Two steps of half a second while the third compiled; then that one, and two timed ones.
    assert [row["step_seconds"] for row in rows] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("batch_seconds", "share"),
    [(0.49, 0.0), (0.5001, 0.0), (0.505, 0.01), (0.625, 0.2), (5.0, 0.9)],
)
def test_devices_wait_only_where_they_have_nothing_to_do(begin, batch_seconds, share):
    """Steps of half a second: the loop itself waits for its batch nearly all the time."""
    machine = Machine(batch_seconds)
    monitor, said = begin(machine)
    machine.run(monitor, 0, 3)
    for start in (3, 43):
        row = machine.run(monitor, start, start + 40)
        assert row["input_wait_share"] == pytest.approx(share, abs=0.02)
    warned = [line for line in said if "wait for input" in line]
    assert len(warned) == (share > 0.1)
    assert not warned or "--data.path" in warned[0]


def test_one_late_batch_is_seen_and_no_reason_to_warn(begin):
    machine = Machine()
    monitor, said = begin(machine)
    machine.run(monitor, 0, 21)

    def stalls():
        for index, found in machine.batches(21, 41, 8):
            machine.now += 1.5 if index == 30 else 0.0
            yield index, found

    for index, _ in monitor.input(stalls()):
        with monitor.step(index):
            machine.step(8)
        machine.wait(-2)
    machine.wait()
    # The step under way hides half a second of it.
    assert monitor.row(20, 2000.0)["input_wait_share"] == pytest.approx(1 / 11, abs=0.01)
    assert len(said) == 1


# ---- on a real machine --------------------------------------------------------------------------


def train(monitor, steps: range, fail_at: int = -1) -> None:
    step = jax.jit(lambda state, batch: state + batch["inputs"].sum(), donate_argnums=0)
    with monitor:
        state = jnp.zeros(())
        for index, found in monitor.input((index, batch()) for index in steps):
            with monitor.step(index):
                state = step(state, found)
            if index == fail_at:
                raise KeyboardInterrupt


@pytest.fixture
def profiled(tmp_path, monkeypatch):
    chip = SimpleNamespace(name="a chip", bf16_flops=PEAK)
    monkeypatch.setattr(monitor_module, "chip_of", lambda device: chip)
    said = []
    return Monitor(tmp_path, "1:3", None, one_device(), said.append), said, tmp_path / "profile"


def names_of_steps(folder) -> set[str]:
    """The steps that a trace holds."""
    (file,) = folder.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return {event["args"]["step_num"] for event in events if event.get("name") == "train"}


def test_chosen_steps_are_traced(profiled):
    monitor, said, folder = profiled
    train(monitor, range(5))
    assert names_of_steps(folder) == {"1", "2"}
    assert f"the trace is in {folder}" in said[-1]


def test_a_run_that_ends_early_writes_its_trace(profiled):
    monitor, _, folder = profiled
    with pytest.raises(KeyboardInterrupt):
        train(monitor, range(5), fail_at=1)
    assert names_of_steps(folder) == {"1"}


def test_a_trace_that_cannot_be_written_does_not_end_the_run(profiled):
    monitor, said, folder = profiled
    folder.write_text("in the way")
    train(monitor, range(5))
    assert said[-1].startswith(f"cannot write the trace to {folder}: ")


@pytest.mark.parametrize("text", ["10", "3:3", "5:2", "-1:3", "a:b", "1:2:3"])
def test_what_names_no_steps_is_refused(text):
    with pytest.raises(UserError, match=f"--profile-steps {text} names no steps; 10:13 names"):
        traced_steps(text)
    assert traced_steps("10:13") == range(10, 13)
    assert not traced_steps("")


def test_devices_that_count_their_memory_are_asked():
    devices = [SimpleNamespace(memory_stats=lambda n=n: {"peak_bytes_in_use": n}) for n in (3, 5)]
    assert memory_high_water(devices) == ([3, 5], "of a device")
    assert memory_high_water(jax.devices()[:2])[1] == "of the process"
