"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class ProgressDisplay:
    """Steps done, loss, tokens per second, MFU and time left.

    On a terminal a bar that moves with every step; otherwise one line for every call of `row`.
    """

    def __init__(self, start: int, num_steps: int, quiet: bool = False):
        """Begins at step `start` of `num_steps`; a quiet one shows nothing."""
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True, quiet=quiet)
        self._num_steps = num_steps
        self._live = self.console.is_terminal and not quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=not self._live,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=num_steps, completed=start, status="")
        self._row_step, self._pace = start, ""
        self._timed_steps, self._timed_seconds = 0, 0.0

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        self.console.print(text, markup=False)

    def step(self, step: int, loss: float) -> None:
        """Notes a finished step."""
        if self._live:
            self._bar.update(self._task, completed=step, status=f"loss {loss:.4f}{self._pace}")

    def row(self, step: int, loss: float, measured: Mapping[str, float]) -> None:
        """Shows what `Monitor.row` measured in the steps up to this one."""
        if "step_seconds" in measured:
            self._timed_steps += step - self._row_step
            self._timed_seconds += (step - self._row_step) * measured["step_seconds"]
            left = self._timed_seconds / self._timed_steps * (self._num_steps - step)
            self._pace = f"  {measured['tokens_per_second']:,.0f} tokens/s"
            if "mfu" in measured:
                self._pace += f"  MFU {measured['mfu']:.1%}"
            self._pace += f"  {_clock(left)} left"
        self._row_step = step
        if not self._live:
            width = len(str(self._num_steps))
            self.say(f"step {step:>{width}}/{self._num_steps}  loss {loss:.4f}{self._pace}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
