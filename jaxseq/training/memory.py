"""How much memory a run has needed."""

import resource
import sys
from collections.abc import Sequence
from typing import Any


def memory_high_water(devices: Sequence[Any]) -> tuple[list[int], str]:
    """(the most bytes in use at once so far on each of these devices of this process, whose).

    "of a device" as the runtime counts it; where it does not, as on CPUs, "of the process", all
    that it had in memory, for all its devices together.
    """
    found = [device.memory_stats() for device in devices]
    peaks = [
        stats["peak_bytes_in_use"] for stats in found if stats and "peak_bytes_in_use" in stats
    ]
    if len(peaks) == len(devices):
        return peaks, "of a device"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return [resident if sys.platform == "darwin" else resident * 1024], "of the process"
