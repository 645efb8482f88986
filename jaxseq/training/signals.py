"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """While entered, notes the first SIGINT or SIGTERM instead of dying of it.

    A second one has its usual effect at once. Of several processes, a signal to any one stops all,
    as JAX's preemption service agrees: the notice of a cluster that takes a machine back is a
    SIGTERM. There Ctrl-C counts as one, and only a second Ctrl-C has its usual effect.
    """

    number: int | None = None
    """The signal that this process has got."""

    def __enter__(self) -> "StopRequest":
        self._shared = jax.distributed.is_initialized()
        # Between several processes SIGTERM is JAX's: its handler must stay.
        noted = (signal.SIGINT,) if self._shared else (signal.SIGINT, signal.SIGTERM)
        self._usual = {number: signal.signal(number, self._note) for number in noted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    def agreed(self, step: int) -> int | None:
        """The signal for which all processes stop after `step`, the same one for all; else None.

        To be called after every step.
        """
        if not self._shared:
            return self.number
        stops = multihost_utils.reached_preemption_sync_point(step)
        return signal.SIGTERM if stops else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each, handler in self._usual.items():
            signal.signal(each, handler)
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)
