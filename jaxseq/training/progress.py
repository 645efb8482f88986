"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class ProgressDisplay:
    """Steps done, loss, tokens per second and time left.

    On a terminal a bar that moves with every step; otherwise one line for every call of `row`.
    """

    def __init__(self, start: int, num_steps: int):
        """Begins at step `start` of `num_steps`."""
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._start, self._num_steps = start, num_steps
        self._live = self.console.is_terminal
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
        self._since = time.perf_counter()
        self._tokens, self._tokens_since, self._pace = 0.0, self._since, ""

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line, above the bar where there is one."""
        self.console.print(text, markup=False)

    def pause(self, seconds: float) -> None:
        """Leaves `seconds` spent on something else than steps out of the speed."""
        self._since += seconds
        self._tokens_since += seconds

    def step(self, step: int, loss: float, tokens: float) -> None:
        """Notes a finished step."""
        self._tokens += tokens
        if self._live:
            self._bar.update(self._task, completed=step, status=f"loss {loss:.4f}{self._pace}")

    def row(self, step: int, loss: float) -> float:
        """Shows the steps since the last row; returns their tokens per second."""
        now = time.perf_counter()
        speed = self._tokens / max(now - self._tokens_since, 1e-9)
        self._tokens, self._tokens_since = 0.0, now
        left = (now - self._since) / max(step - self._start, 1) * (self._num_steps - step)
        self._pace = f"  {speed:,.0f} tokens/s  {_clock(left)} left"
        if not self._live:
            width = len(str(self._num_steps))
            self.say(f"step {step:>{width}}/{self._num_steps}  loss {loss:.4f}{self._pace}")
        return speed


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
