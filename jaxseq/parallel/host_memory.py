"""How the host's allocator treats memory that a step is done with."""

import ctypes
import platform
import sys

# <malloc.h> of the GNU C library.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> bool:
    """Makes this process keep the memory it frees; returns whether that was possible.

    On CPUs, XLA allocates the intermediate arrays of a compiled step anew each time it runs, and
    by default the GNU C library gives such large pieces back to the system at once. The next step
    then waits for the kernel to find and clear every page again: up to half of a small model's
    step. Kept memory is reused instead; the process holds on to the most it ever needed.

    Call it before JAX makes its first array: the threads that JAX starts then take their memory
    from one place. Elsewhere than on Linux with the GNU C library nothing happens.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 2**31 - 1), (M_TRIM_THRESHOLD, -1))
    return all([mallopt(name, value) == 1 for name, value in settings])
