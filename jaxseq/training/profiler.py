"""A trace of chosen steps, for the viewers of XLA's profiler."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import jax

from jaxseq.errors import UserError


class StepProfiler:
    """Traces the steps that `--profile-steps` names into a folder, once the run comes to them."""

    def __init__(self, folder: Path, steps: range, say: Callable[[str], None]):
        """`steps` count from 0, as batches do; `say` shows a person a line."""
        self._folder, self.steps, self._say = folder, steps, say
        self._tracing = False

    def before(self, step: int) -> None:
        """Begins the trace, at the first that comes of the steps to trace."""
        if self._tracing:
            return
        wait_for_devices()  # else the end of the step before would be in the trace
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it slows the host down, and the trace would show that
        jax.profiler.start_trace(self._folder, profiler_options=options)
        self._tracing = True

    def after(self, step: int) -> None:
        """Ends the trace, after the last of them."""
        if step + 1 not in self.steps:
            self.close()

    def close(self) -> None:
        """Writes what was traced, where a trace goes on."""
        if not self._tracing:
            return
        self._tracing = False
        wait_for_devices()
        try:
            jax.profiler.stop_trace()
        except jax.errors.JaxRuntimeError as error:  # no reason to lose the run
            self._say(f"cannot write the trace to {self._folder}: {error}; the run goes on")
            return
        self._say(
            f"the trace is in {self._folder}: look at it with TensorBoard (pip install xprof), or "
            "at its .trace.json.gz on ui.perfetto.dev"
        )


def traced_steps(profile_steps: str) -> range:
    """The steps that `--profile-steps` names: 10, 11 and 12 for "10:13", none for "".

    Raises UserError for what names none.
    """
    if not profile_steps:
        return range(0)
    found = re.fullmatch(r"(\d+):(\d+)", profile_steps)
    steps = range(int(found[1]), int(found[2])) if found else range(0)
    if not steps:
        raise UserError(
            f"--profile-steps {profile_steps} names no steps; 10:13 names 10, 11 and 12"
        )
    return steps


def wait_for_devices() -> None:
    """Returns when all that this process has begun on its devices is done."""
    for array in jax.live_arrays():
        # Donated, or deleted meanwhile by the thread that writes a checkpoint.
        with contextlib.suppress(RuntimeError):
            array.block_until_ready()
