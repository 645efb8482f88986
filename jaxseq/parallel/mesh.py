"""The devices of a run, laid out as a grid with named axes."""

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxseq.errors import UserError


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many ways each kind of parallelism divides the work; one size may be -1: what is left.

    The default is data parallelism over as many of the devices as divide the batch.
    """

    data: int = -1
    """Copies of the model, each on its share of the batch."""
    fsdp: int = 1
    """Like data, with parameters and optimizer state divided too (fully sharded)."""
    tensor: int = 1
    """Divides heads, feed-forward and vocabulary of every layer."""

    def build(self, batch_size: int) -> Mesh:
        """The mesh over this process's view of all devices.

        Raises UserError when the sizes do not multiply to the device count or the batch does not
        divide over `data` x `fsdp`. With `data` at -1, devices that the batch cannot use are left
        idle rather than an error: a batch of 12 runs on 6 of 8 devices.
        """
        devices = jax.devices()
        sizes = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        asked = " x ".join(f"{name} {size}" for name, size in sizes.items())
        if [size for size in sizes.values() if size != -1 and size < 1]:
            raise UserError(f"--mesh sizes must be positive, or -1 once: {asked}")
        free = [name for name, size in sizes.items() if size == -1]
        if len(free) > 1:
            raise UserError(f"only one --mesh size may be -1: {asked}")
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if free:
            sizes[free[0]] = max(len(devices) // fixed, 1)
            if free == ["data"] and jax.process_count() == 1:
                while sizes["data"] > 1 and batch_size % (sizes["data"] * sizes["fsdp"]):
                    sizes["data"] -= 1
        used = math.prod(sizes.values())
        if used > len(devices) or (not free and used < len(devices)):
            fits = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
            raise UserError(
                f"the mesh ({asked}) has {used} places for {len(devices)} devices; sizes must "
                f"multiply to {len(devices)}, so each must be one of {fits}"
            )
        shards = sizes["data"] * sizes["fsdp"]
        if batch_size % shards:
            raise UserError(
                f"--data.batch-size {batch_size} does not divide over --mesh.data {sizes['data']} "
                f"x --mesh.fsdp {sizes['fsdp']}; the nearest that does is "
                f"{max(round(batch_size / shards), 1) * shards}"
            )
        return _mesh(devices[:used], sizes)


def one_device_mesh() -> Mesh:
    """The first device alone, under the axis names of `MeshConfig`."""
    return _mesh(jax.devices()[:1], {field.name: 1 for field in dataclasses.fields(MeshConfig)})


def _mesh(devices: list[jax.Device], sizes: dict[str, int]) -> Mesh:
    # Explicit axes, the default of newer JAX, do not work with Linen's embedding and scan.
    axis_types = (AxisType.Auto,) * len(sizes)
    return Mesh(np.asarray(devices).reshape(tuple(sizes.values())), tuple(sizes), axis_types)
