"""What is measured during a run: where its time goes, and what the devices make of it.

    MFU = model FLOPs of a step / (seconds of a step x devices x peak bfloat16 FLOP/s of one)

(Chowdhery et al. 2022, arXiv:2204.02311, appendix B; the FLOPs: `flops.py`, the peaks:
`parallel/chips.py`.) A step's seconds are those of training, waits for input among them, without
evaluation, checkpoints and compilation.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax

from jaxseq.parallel.chips import chip_of
from jaxseq.parallel.mesh import Layout
from jaxseq.training.memory import memory_high_water
from jaxseq.training.profiler import StepProfiler, traced_steps, wait_for_devices

PROFILE = "profile"
"""The folder of a run directory with what the profiler traced."""

MEASURED = (
    "tokens_per_second",
    "step_seconds",
    "mfu",
    "input_wait_share",
    "evaluation_share",
    "checkpoint_share",
    "memory_bytes",
)
"""What `Monitor.row` finds: figures of the machine, in which two equal runs differ."""

# From this share of the time on, over so many steps, a run is told that it waits for input.
WAIT_SHARE, WAIT_STEPS = 0.1, 20
# Batches that were read ahead are there in less.
LONG_WAIT = 1e-3

Clock = Literal["compilation", "input", "evaluation", "checkpoint", "profile"]


class Monitor:
    """The clocks of one run, set by the loop; made just before it.

        with Monitor(run_dir, "10:13", flops_per_step, layout, say) as monitor:
            for index, batch in monitor.input(prefetch(...)):
                with monitor.step(index):
                    state, metrics = train_step(state, batch)
                with monitor.aside("checkpoint"):
                    ...
                row = monitor.row(steps, tokens)  # since the last row

    A step with batches of a new shape, as the first, compiles: its seconds are compilation's.
    """

    def __init__(
        self,
        run_dir: Path,
        profile_steps: str,
        flops_per_step: Callable[[dict[str, jax.ShapeDtypeStruct]], int] | None,
        layout: Layout,
        say: Callable[[str], None],
    ):
        """`flops_per_step` maps the shapes of a batch to the model FLOPs of its step.

        None: there is no MFU. `say` shows a person a line. Raises UserError for `profile_steps`
        that name no steps.
        """
        self._profiler = StepProfiler(run_dir / PROFILE, traced_steps(profile_steps), say)
        self._flops_per_step, self._say = flops_per_step, say
        self._devices, self._num_devices = layout.mesh.local_devices, layout.mesh.size
        # Now, when the devices have no other work: the peak of a CPU may have to be measured.
        self._chip = chip_of(self._devices[0])
        self._batch: dict[str, Any] = {}
        self._flops: dict[tuple, int] = {}  # of a step, by the shapes of its batch
        # FLOPs of the steps that are in no row yet; None where one compiled.
        self._begun: deque[int | None] = deque()
        # Of the run: the steps that did not compile, and all seconds that were not theirs.
        self._steps = 0
        self._seconds: dict[Clock, float] = dict.fromkeys(get_args(Clock), 0.0)
        self._begin = time.perf_counter()
        # Of the run up to the last row.
        self._row_begin, self._row_seconds = self._begin, self._seconds.copy()
        self._row_flops, self._row_training = 0, 0.0
        self._watched, self._warned = _Waits(0, 0.0, 0.0), False

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self._profiler.close()

    # ---- what the loop sets ---------------------------------------------------------------------

    def input(
        self, batches: Iterable[tuple[int, dict[str, Any]]]
    ) -> Generator[tuple[int, dict[str, Any]], None, None]:
        """The batches; measures how long the devices wait for them.

        A batch may come late and the devices still not wait, while they compute the step before.
        So after a long wait they are let finish before the next is timed, which a run that does
        wait loses nothing by. Of waits that are not timed so, a step's usual seconds are hidden.
        """
        iterator, waited = iter(batches), 0.0
        while True:
            hidden = self._hidden()
            if waited > LONG_WAIT:
                wait_for_devices()
                hidden = 0.0
            begin = time.perf_counter()
            item = next(iterator, None)
            waited = time.perf_counter() - begin
            if item is None:
                return
            clock = "input" if self._flops else "compilation"  # the reader too has to begin
            self._seconds[clock] += max(waited - hidden, 0.0)
            self._batch = item[1]
            yield item

    @contextlib.contextmanager
    def step(self, index: int) -> Generator[None, None, None]:
        """Around the call of step `index`, counted from 0; traces it where that was asked for."""
        is_traced = index in self._profiler.steps
        if is_traced:
            with self._timed("profile"):
                self._profiler.before(index)
        shapes = tuple(x.shape for x in self._batch.values())
        compiles = shapes not in self._flops
        with jax.profiler.StepTraceAnnotation("train", step_num=index):
            if compiles:
                wait_for_devices()
                with self._timed("compilation"):
                    yield
                    self._flops[shapes] = self._count_flops()  # while the devices are at work
                    wait_for_devices()
            else:
                yield
        if len(self._flops) == 1 and compiles:
            self._say(self._first_step())
        self._begun.append(None if compiles else self._flops[shapes])
        self._steps += not compiles
        if is_traced:
            with self._timed("profile"):
                self._profiler.after(index)

    def aside(
        self, name: Literal["evaluation", "checkpoint"]
    ) -> contextlib.AbstractContextManager[None]:
        """Around what is no training. Not one inside another."""
        return self._timed(name)

    # ---- what was measured ----------------------------------------------------------------------

    def row(self, steps: int, tokens: float) -> dict[str, float]:
        """What was measured since the last row, in which `steps` with `tokens` were done.

        tokens_per_second, step_seconds and mfu are of training alone. input_wait_share,
        evaluation_share and checkpoint_share are of all the time but compilation; the rest of it
        is the steps'. memory_bytes is the most that was ever in use on one device of this process.
        A row of steps that all compiled has that alone.
        """
        now = time.perf_counter()
        spent = {name: total - self._row_seconds[name] for name, total in self._seconds.items()}
        elapsed = now - self._row_begin - spent["compilation"] - spent["profile"]
        self._row_begin, self._row_seconds = now, self._seconds.copy()
        timed = [
            flops for flops in (self._begun.popleft() for _ in range(steps)) if flops is not None
        ]
        memory = {"memory_bytes": float(max(memory_high_water(self._devices)[0]))}
        if not timed:
            return memory
        seconds = elapsed - spent["evaluation"] - spent["checkpoint"]
        self._row_flops += sum(timed)
        self._row_training += seconds
        self._watch_input(len(timed), seconds, spent["input"])
        return {
            "tokens_per_second": tokens * len(timed) / steps / seconds,
            "step_seconds": seconds / len(timed),
            **({"mfu": self._mfu(sum(timed), seconds)} if sum(timed) else {}),
            "input_wait_share": spent["input"] / elapsed,
            "evaluation_share": spent["evaluation"] / elapsed,
            "checkpoint_share": spent["checkpoint"] / elapsed,
            **memory,
        }

    def summary(self) -> str:
        """Where the time of the run went, how well it used the devices, and its memory: a line."""
        total = time.perf_counter() - self._begin
        spent = {"steps": total - sum(self._seconds.values()), **self._seconds}
        shares = [f"{name} {seconds / total:.0%}" for name, seconds in spent.items() if seconds]
        said = f"{total:.0f} s: {', '.join(shares)}"
        if self._row_flops:
            said += f"; MFU {self._mfu(self._row_flops, self._row_training):.1%}"
        peaks, whose = memory_high_water(self._devices)
        least, most = (f"{peak / 2**30:.2f}" for peak in (min(peaks), max(peaks)))
        most = most if least == most else f"{least} to {most}"
        return f"{said}; memory {whose} at most {most} GiB"

    # ---- its parts ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _timed(self, name: Clock) -> Generator[None, None, None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - begin

    def _hidden(self) -> float:
        """For how long the step that was begun last occupies the devices: as long as the others."""
        computing = time.perf_counter() - self._begin - sum(self._seconds.values())
        return computing / max(self._steps - 1, 1)

    def _count_flops(self) -> int:
        if self._flops_per_step is None:
            return 0
        return self._flops_per_step(
            {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in self._batch.items()}
        )

    def _mfu(self, flops: int, seconds: float) -> float:
        return flops / (seconds * self._num_devices * self._chip.bf16_flops)

    def _first_step(self) -> str:
        said = f"first step, compilation included, took {self._seconds['compilation']:.1f} s"
        (flops,) = self._flops.values()
        if flops:
            said += (
                f"; MFU = model FLOPs ({flops:.4g} in this step) / (seconds x {self._num_devices} "
                f"x {self._chip.bf16_flops:.4g} FLOP/s of bfloat16, {self._chip.name})"
            )
        return said

    def _watch_input(self, steps: int, seconds: float, waits: float) -> None:
        """Says, once, that the devices wait for input for a good part of the time."""
        seen = self._watched
        seen = _Waits(seen.steps + steps, seen.seconds + seconds, seen.waits + waits)
        self._watched = seen if seen.steps < WAIT_STEPS else _Waits(0, 0.0, 0.0)
        share = seen.waits / seen.seconds
        if self._warned or seen.steps < WAIT_STEPS or share < WAIT_SHARE:
            return
        self._warned = True
        self._say(
            f"the devices wait for input {share:.0%} of the time: batches are read more slowly "
            "than they are computed; bring the data to a local disk (--data.path)"
        )


class _Waits(NamedTuple):
    """The steps of some rows, their seconds, and those of them in which devices had no input."""

    steps: int
    seconds: float
    waits: float
