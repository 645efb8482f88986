"""How a process finds the others of its program, and how it joins them."""

import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import jax
from jax._src import clusters  # what JAX knows of launchers, to be had before it connects

from jaxseq.errors import UserError

# JAX aborts the process, with a stack of C++, when its own limit for the start is over.
_NEVER = 10**6


class Place(NamedTuple):
    """One process among several."""

    coordinator: str
    """HOST:PORT at which process 0 listens."""
    num_processes: int
    process_id: int
    devices: Sequence[int] | None
    """The GPUs of the machine that are this process's; None: all."""


def find_place(
    coordinator: str, num_processes: int, process_id: int, timeout: float
) -> Place | None:
    """The place that the options or the environment give this process; None: it is alone.

    See `hosts.start`. Raises UserError for options that do not go together.
    """
    local = os.environ.get("JAX_LOCAL_DEVICE_IDS", "")
    address: str | None = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None
    # Open MPI 5 no longer tells JAX the address; without these each process would train alone.
    count = num_processes or _from_environment("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE")
    number = process_id
    if number < 0:
        number = _from_environment("JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK")
    devices: Sequence[int] | None = [int(i) for i in local.split(",")] if local else None
    if address is None or count is None or number is None:
        try:
            detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
            address, count, number, devices = detect(
                address, count, number, devices, None, round(timeout)
            )
        except RuntimeError as error:
            raise UserError(
                f"the other hosts cannot be found: {error}; name them with --coordinator "
                "HOST:PORT, --num-processes and --process-id"
            ) from error
    if address is None and count in (None, 1):
        return None
    if address is None or count is None or number is None:
        raise UserError(
            "several processes need all of --coordinator, --num-processes and --process-id; there "
            f"are {address}, {count} and {number}"
        )
    if not address.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator is {address}: it must be HOST:PORT of process 0")
    if not 0 <= number < count:
        raise UserError(f"--process-id is {number}: it must be 0 to {count - 1}, one each")
    return None if count == 1 else Place(address, count, number, devices)


def connect(place: Place, timeout: float, heartbeat_timeout: int) -> None:
    """Returns when all processes have come.

    Raises UserError with the address and what to check where they do not within `timeout` s.
    """
    # A process that fails may then leave at once, and need not wait until the others end too.
    jax.config.update("jax_enable_recoverability", True)
    connected: Future[None] = Future()

    def run() -> None:
        try:
            jax.distributed.initialize(
                place.coordinator,
                place.num_processes,
                place.process_id,
                local_device_ids=place.devices,
                cluster_detection_method="deactivate",
                initialization_timeout=_NEVER,
                heartbeat_timeout_seconds=heartbeat_timeout,
            )
        except (RuntimeError, ValueError) as error:
            connected.set_exception(error)
        else:
            connected.set_result(None)

    # In a thread, which can be given up.
    threading.Thread(target=run, name="connect to hosts", daemon=True).start()
    try:
        connected.result(timeout)
    except TimeoutError:
        raise UserError(_not_met(place, timeout)) from None
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"process {place.process_id} cannot use {place.coordinator}: {error}; give another "
            "--coordinator"
        ) from error


def _not_met(place: Place, timeout: float) -> str:
    address, who = place.coordinator, f"process {place.process_id} of {place.num_processes}"
    told = f"this address, --num-processes {place.num_processes} and each its own --process-id"
    if place.process_id == 0:
        return (
            f"{who} listened at {address} for {timeout:g} s and not all others came; check that "
            f"they run and are told {told}, and that no firewall closes the port"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return (
            f"{who} could not reach the coordinator {address} for {timeout:g} s ({error}); check "
            "that process 0 runs, that this is its address and that no firewall closes the port"
        )
    return (
        f"{who} reached {address} and waited {timeout:g} s for the others; check that all run and "
        f"are told {told}"
    )


def _from_environment(*names: str) -> int | None:
    for name in names:
        value = os.environ.get(name, "")
        if value and not value.isdigit():
            raise UserError(f"${name} is {value}: it must be a whole number")
        if value:
            return int(value)
    return None
