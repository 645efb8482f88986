"""Memory that is kept is not fetched from the system again."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from jaxseq.parallel.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24)  # 128 MiB
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="an allocator setting of Linux")
def test_second_use_of_kept_memory_costs_no_page_faults() -> None:
    assert faults("keep") < 16 < faults("leave")
