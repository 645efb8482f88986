"""Several processes, mostly one on each host, that run one program together.

JAX's distributed runtime connects them: process 0 listens at the coordinator's address and the
others meet there. Everything here does nothing where a program is a single process.
"""

import contextlib
import functools
import hashlib
import json
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # whose client has the runtime's key-value store
from jax.sharding import NamedSharding

import jaxseq
from jaxseq.config import differences
from jaxseq.errors import UserError
from jaxseq.parallel.host_start import connect, find_place
from jaxseq.parallel.host_watch import HostWatch
from jaxseq.typing import Array, Shaped


@contextlib.contextmanager
def start(
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    *,
    timeout: float = 300.0,
    heartbeat_timeout: int = 100,
    agreed: tuple[type[BaseException], ...] = (),
) -> Generator[None, None, None]:
    """While entered, this process is one of several that run the same program.

    `coordinator` is HOST:PORT of process 0. What is not given ("", 0, -1) comes from the
    environment: $JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES and $JAX_PROCESS_ID, or what Cloud
    TPU, Slurm, Open MPI or Kubernetes say; where nothing asks for more, the process stays alone.
    Enter it before anything asks JAX for its devices.

    The others must come within `timeout` seconds. From then on a process that gives no sign of
    life for `heartbeat_timeout` seconds, or that leaves by an exception, ends the others too: each
    writes a line that names it and exits, with status 75 where running the same command again is
    the mend. When process 0 dies, it is JAX that aborts the others. Exceptions in `agreed` are
    those that all raise alike: they end this as returning does, when all have come to it.

    Raises UserError for options that do not go together and, naming the address and what to check,
    where the others cannot be reached.
    """
    place = find_place(coordinator, num_processes, process_id, timeout)
    if place is None:
        yield
        return
    connect(place, timeout, heartbeat_timeout)
    client, me = _client(), place.process_id
    client.key_value_set(f"jaxseq/host/{me}", socket.gethostname())
    barrier("the start", timeout)
    watch = HostWatch(client, [name_of(i) for i in _everyone()], me, heartbeat_timeout)
    try:
        yield
    except agreed:
        _finish(watch)
        raise
    except BaseException as error:
        watch.fail(error)
        raise
    _finish(watch)


def is_leader() -> bool:
    """Whether this is the one process that writes files and talks to the user."""
    return jax.process_index() == 0


def name_of(process_id: int) -> str:
    """`process 1 (HOST)`."""
    try:
        host = _client().key_value_try_get(f"jaxseq/host/{process_id}")
    except jax.errors.JaxRuntimeError:  # it never came so far, or the coordinator is gone
        return f"process {process_id}"
    return f"process {process_id} ({host})"


def barrier(name: str, seconds: float = 300.0) -> None:
    """Returns when every process has called it; each name serves once.

    Raises UserError naming the processes that did not come within `seconds`.
    """
    if not jax.distributed.is_initialized():
        return
    client, here = _client(), f"jaxseq/barrier/{name}/"
    client.key_value_set(f"{here}{distributed.global_state.process_id}", "")
    try:
        client.wait_at_barrier(f"jaxseq {name}", round(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        came = {int(key.removeprefix(here)) for key, _ in client.key_value_dir_get(here)}
        missing = [name_of(i) for i in _everyone() if i not in came]
        raise UserError(
            f"{', '.join(missing) or 'a process that has failed since'} did not come to the "
            f"barrier '{name}' within {seconds:g} s; see the log there, and start all again"
        ) from error


def agree(what: str, value: Any, seconds: float = 300.0) -> None:
    """Returns where every process has the same `value`: a string or a tree of JSON values.

    Raises UserError naming the processes that differ from process 0, and in what. Each `what`
    serves once.
    """
    if not jax.distributed.is_initialized():
        return
    client, text = _client(), json.dumps(value, sort_keys=True, default=str)
    key, me = f"jaxseq/agree/{what}", distributed.global_state.process_id
    digest = hashlib.sha256(text.encode()).hexdigest()
    client.key_value_set(f"{key}/text/{me}", text)
    client.key_value_set(f"{key}/digest/{me}", digest)
    barrier(f"agree on {what}", seconds)
    digests = [client.key_value_try_get(f"{key}/digest/{i}") for i in _everyone()]
    others = [i for i, found in enumerate(digests) if found != digests[0]]
    if not others:
        return
    first, other = (json.loads(client.key_value_try_get(f"{key}/text/{i}")) for i in (0, others[0]))
    fields = [
        f"{name or what} is {_short(a)} on {name_of(0)} and {_short(b)} on {name_of(others[0])}"
        for name, (a, b) in differences(first, other).items()
    ]
    raise UserError(
        f"{', '.join(map(name_of, others))} has another {what} than {name_of(0)}: "
        f"{'; '.join(fields)}; give every host the same code and the same command"
    )


def code_digest() -> str:
    """SHA-256, in hex, of jaxseq's source files."""
    digest = hashlib.sha256()
    folder = Path(jaxseq.__file__).parent
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


# ---- batches --------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def host_rows(sharding: NamedSharding, batch_size: int) -> tuple[int, ...]:
    """The rows of a batch, of which `sharding` divides the first axis, on this host's devices."""
    places = sharding.addressable_devices_indices_map((batch_size,)).values()
    held = {row for place in places if place for row in range(batch_size)[place[0]]}
    return tuple(sorted(held))


def to_global(
    batch: dict[str, Shaped[np.ndarray, "B ..."]], sharding: NamedSharding, batch_size: int
) -> dict[str, Shaped[Array, "B ..."]]:
    """The batch of `batch_size` rows over all hosts; each gives its `host_rows`, or all rows."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)

    def place(array: np.ndarray) -> jax.Array:
        whole = len(array) == batch_size
        first = range(batch_size) if whole else host_rows(sharding, batch_size)

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            rows = range(batch_size)[index[0]]
            begin = first.index(rows[0])  # a device's rows follow one another
            return array[begin : begin + len(rows)]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, shard)

    return {name: place(array) for name, array in batch.items()}


# ---- the runtime ----------------------------------------------------------------------------


def _finish(watch: HostWatch) -> None:
    """Leaves when all are at the end, process 0 as the last one."""
    barrier("the end", seconds=1e6)  # the watch still looks whether all live
    watch.end()


def _client() -> Any:
    return distributed.global_state.client


def _everyone() -> range:
    return range(distributed.global_state.num_processes)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
