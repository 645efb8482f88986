"""One of the processes that tests/parallel/test_hosts.py starts: python hosts_worker.py CASE DIR.

An assertion that fails ends all of them with status 1.
"""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseq.errors import UserError
from jaxseq.parallel import hosts
from jaxseq.training.checkpoints import Checkpoints
from jaxseq.training.state import TrainState


def state(step: int, sharding: NamedSharding | None = None) -> TrainState:
    """A state that tells its step, on the devices of `sharding` or as NumPy arrays."""
    whole = {"kernel": np.arange(32.0, dtype=np.float32).reshape(4, 8) + step}

    found = TrainState(np.array(step, np.int32), whole, {"mu": whole}, None)
    if sharding is None:
        return found
    scalar = NamedSharding(sharding.mesh, PartitionSpec())

    def place(array: np.ndarray) -> jax.Array:
        there = sharding if array.ndim else scalar
        return jax.make_array_from_callback(array.shape, there, lambda index: array[index])

    return jax.tree.map(place, found)


def batches(mesh: jax.sharding.Mesh) -> None:
    """Each process gives its rows, or all, and the global batch is the same."""
    me = jax.process_index()
    rows, two_axes = (NamedSharding(mesh, PartitionSpec(axes)) for axes in ("data", ("data", "x")))
    whole = np.arange(24.0).reshape(8, 3)
    for sharding in (rows, two_axes):
        held = hosts.host_rows(sharding, 8)
        assert held == ((0, 1, 2, 3), (4, 5, 6, 7))[me]
        for given in (whole[list(held)], whole):
            found = hosts.to_global({"a": given}, sharding, 8)["a"]
            assert found.shape == (8, 3)
            for shard in found.addressable_shards:
                np.testing.assert_array_equal(shard.data, whole[shard.index])


def checkpoints(mesh: jax.sharding.Mesh, directory: Path) -> None:
    """Reads what one process has written, and writes what it will read."""
    sharding = NamedSharding(mesh, PartitionSpec("data", "x"))
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        state(0, sharding),
    )
    with Checkpoints(directory, keep_last=2) as kept:
        found, wanted = kept.restore(like), state(1)
        for array, expected in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
            for shard in array.addressable_shards:
                np.testing.assert_array_equal(shard.data, expected[shard.index])
        kept.save(state(2, sharding), 2)
        kept.wait()


def main() -> None:
    case, directory = sys.argv[1], Path(sys.argv[2])
    with hosts.start(timeout=60, heartbeat_timeout=10):
        me = jax.process_index()
        assert hosts.is_leader() == (me == 0)
        if case == "absent":
            if me == 0:
                hosts.barrier("lunch", 1.0)
            time.sleep(60)
        if case == "lost":
            if me == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        if me == 1:
            # A busy machine: process 0 must not be gone before this one has disconnected.
            leave = jax.distributed.shutdown
            jax.distributed.shutdown = lambda: (time.sleep(2), leave())
        if case == "end":
            return
        mesh = jax.make_mesh((2, 2), ("data", "x"), axis_types=(AxisType.Auto,) * 2)
        hosts.agree("code", hosts.code_digest())
        batches(mesh)
        checkpoints(mesh, directory)
        hosts.agree("experiment", {"model": {"width": 8 + me, "layers": 2}})


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"jaxseq: {error}")
