"""Several processes on this machine that run one program, as on several hosts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def start_processes(*arguments: object, count: int = 2, devices: int = 4) -> list[subprocess.Popen]:
    """`python ARGUMENTS` in processes 0 to `count` - 1, each with `devices` CPU devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(number),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(count)
    ]


def ends(processes: list[subprocess.Popen], seconds: float = 240) -> list[tuple[int, str]]:
    """(exit status, output) of each, when all have ended."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, output) for process, output in zip(processes, outputs, strict=True)
    ]
