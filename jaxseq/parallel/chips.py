"""What a chip can do: the peaks that a roofline and a utilisation divide by.

Peaks are of one JAX device: a TPU v4 or v5p chip is one, a TPU7x chip is two, and CPU devices share
the machine. Sources: the pages of Cloud TPU on each version (docs.cloud.google.com/tpu/docs),
NVIDIA's data sheets (dense, without sparsity). A TPU's memory is what its compiler lets a program
have; a link's speed is what is reached of it ("How to Scale Your Model", Austin et al. 2025). What
stands in no table is measured: by a matrix product and a copy.
"""

import contextlib
import dataclasses
import functools
import json
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxseq.cache_folder import cache_folder

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The peaks of one device."""

    name: str
    bf16_flops: float
    """Floating-point operations a second, of matrix products of bfloat16."""
    memory_bytes: int
    """Bytes that a program may use."""
    memory_bandwidth: float
    """Bytes a second to and from that memory."""
    link_bandwidth: float
    """Bytes a second, one way: over one link of a TPU's torus, or into a GPU's switch."""
    network_bandwidth: float
    """Bytes a second, one way, to devices of another slice or node."""
    ring: int = 0
    """A torus axis that is a multiple of this long closes to a ring; 0: no torus, a switch."""


TPUS = {
    "TPU v4": Chip("TPU v4", 275e12, int(30.75 * GIB), 1228e9, 4.5e10, 3.1e9, ring=4),
    "TPU v5 lite": Chip("TPU v5e", 197e12, int(15.75 * GIB), 819e9, 4.5e10, 3.1e9, ring=16),
    "TPU v5": Chip("TPU v5p", 459e12, int(95.73 * GIB), 2765e9, 9e10, 6.25e9, ring=4),
    "TPU v6 lite": Chip("TPU v6e", 918e12, int(31.24 * GIB), 1640e9, 9e10, 12.5e9, ring=16),
    # Half of a chip: 2307 TFLOP/s, 192 GiB and 7380 GB/s in all.
    "TPU7x": Chip("TPU7x", 1153.5e12, int(94.74 * GIB), 3690e9, 4.5e10, 6.25e9, ring=4),
}
"""By `device_kind`."""

GPUS = {
    r"A100.*40GB": Chip("A100 40GB", 312e12, 40 * 10**9, 1555e9, 300e9, 25e9),
    r"A100": Chip("A100 80GB", 312e12, 80 * 10**9, 2039e9, 300e9, 25e9),
    r"H100 PCIe": Chip("H100 PCIe", 756e12, 80 * 10**9, 2000e9, 64e9, 50e9),
    r"H100": Chip("H100", 989e12, 80 * 10**9, 3350e9, 450e9, 50e9),
    r"H200": Chip("H200", 989e12, 141 * 10**9, 4800e9, 450e9, 50e9),
}
"""The first whose pattern is found in `device_kind`; the memory is what the driver leaves."""


def chip_of(device: Any) -> Chip:
    """The peaks of a device, compile-only ones too: from the tables, or measured once.

    What is measured is kept in the cache directory ($JAXSEQ_CACHE), and measured anew on another
    processor or version of JAX.
    """
    if device.device_kind in TPUS:
        return TPUS[device.device_kind]
    if device.platform == "gpu":
        for pattern, chip in GPUS.items():
            if re.search(pattern, device.device_kind):
                return dataclasses.replace(chip, memory_bytes=_memory_bytes(device))
    return _measured(device)


# ---- measured -----------------------------------------------------------------------------------


def _measured(device: Any) -> Chip:
    flops, bandwidth = _speeds(device)
    # Devices of one CPU share its cores.
    share = jax.local_device_count() if device.platform == "cpu" else 1
    return Chip(
        name=f"{_processor() if device.platform == 'cpu' else device.device_kind} (measured)",
        bf16_flops=flops / share,
        memory_bytes=_memory_bytes(device) // share,
        memory_bandwidth=bandwidth / share,
        # What one device of a CPU sends another is copied.
        link_bandwidth=bandwidth / share / 2,
        network_bandwidth=1e9,
    )


@functools.cache
def _speeds(device: Any) -> tuple[float, float]:
    """(operations a second, bytes a second), from the cache file where it has them."""
    file, key = cache_folder() / "chips.json", f"{device.device_kind}, jax {jax.__version__}"
    if device.platform == "cpu":
        key = f"{_processor()}, {os.cpu_count()} cores, jax {jax.__version__}"
    known: dict[str, list[float]] = {}
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
    if key not in known:
        known[key] = [measure_flops(device), measure_bandwidth(device)]
        with contextlib.suppress(OSError):  # where nothing can be kept, it is measured each time
            file.parent.mkdir(parents=True, exist_ok=True)
            # Another process may read meanwhile: the file is there whole or not at all.
            new = file.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps(known, indent=1), encoding="utf-8")
            new.replace(file)
    flops, bandwidth = known[key]
    return flops, bandwidth


def measure_flops(device: Any, size: int = 2048, repeats: int = 5) -> float:
    """Operations a second of the fastest product of two `size` x `size` matrices.

    Operands are bfloat16 or float32, whichever is faster: old CPUs have no product of bfloat16.
    """

    def seconds(dtype: Any) -> float:
        a, b = (jax.device_put(jnp.ones((size, size), dtype), device) for _ in range(2))
        product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
        return _fastest(lambda: product(a, b), repeats)

    return 2 * size**3 / min(seconds(jnp.bfloat16), seconds(jnp.float32))


def measure_bandwidth(device: Any, size: int = 2**24, repeats: int = 9) -> float:
    """Bytes a second, read and written, of `size` bytes of float32 changed into others.

    The default stays in the last cache of a CPU, as much of a small model does.
    """
    x = jax.device_put(jnp.ones(size // 4, jnp.float32), device)
    change = jax.jit(jnp.negative)
    return 2 * size / _fastest(lambda: change(x), repeats)


def _fastest(run: Callable[[], Any], repeats: int) -> float:
    jax.block_until_ready(run())  # compiles
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - begin)
    return min(found)


def _memory_bytes(device: Any) -> int:
    """What the driver leaves a program on this device; of a CPU, the machine's memory."""
    stats = device.memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        return min(machine, int(text))
    return machine


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*: (.*)", info.read_text())
        if found:
            return found[1]
    return platform.processor() or platform.machine()
