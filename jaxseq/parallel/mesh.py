"""The devices of a run, laid out as a grid with named axes."""

import contextlib
import dataclasses
import difflib
import itertools
import math
from collections.abc import Generator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseq.errors import UserError
from jaxseq.option_checks import check_range
from jaxseq.parallel.rules import ONE_ROUND, RULES, Rules, Ticks, targets, use_rules
from jaxseq.parallel.sharding import parameter_shardings
from jaxseq.typing import PyTree

# Slowest first: neighbours on the last axes are neighbours in the machine, and what talks most is
# there. Whole slices of a pod, between which the network is slow, lie along the first of these.
AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Devices with named axes, and the rules that lay arrays out over them."""

    mesh: Mesh
    rules: Rules
    ticks: Ticks = ONE_ROUND
    """Of the pipeline over stages."""

    @contextlib.contextmanager
    def use(self) -> Generator[None, None, None]:
        """Puts mesh and rules around what is traced or called inside."""
        with jax.set_mesh(self.mesh), use_rules(self.rules, self.ticks):
            yield

    @property
    def batch(self) -> NamedSharding:
        """Where the rows of a batch live."""
        return NamedSharding(self.mesh, PartitionSpec(self.rules["batch"]))

    @property
    def row_shards(self) -> int:
        """Into how many parts the rows of a batch are divided."""
        return math.prod(self.mesh.shape[axis] for axis in targets("batch", self.rules))

    @property
    def replicated(self) -> NamedSharding:
        """A whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def parameters(self, boxed: PyTree) -> PyTree:
        """The shardings of parameters in their boxes of names; see `parameter_shardings`."""
        return parameter_shardings(boxed, self.mesh, self.rules)


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
    context: int = 1
    """Divides the time of every sequence (ring attention)."""
    expert: int = 1
    """Like data, with the experts of a mixture divided too."""
    stage: int = 1
    """Divides the layers: a pipeline."""
    microbatches: int = 0
    """Parts of a batch that follow one another through the pipeline; 0: as many as stages."""
    interleave: int = 1
    """Rounds that each part makes through the stages, so that they wait less for one another."""
    rules: tuple[str, ...] = ()
    """Changes of the table parallel/rules.py: `mlp=fsdp,tensor`, or `embed=` to divide nothing."""
    max_unsharded: float = 1.0
    """Fail where a larger share of the parameters is whole on every device."""

    def build(self, batch_size: int, devices: Sequence[jax.Device] | None = None) -> Layout:
        """The layout over all devices, or over `devices`.

        Raises UserError when the sizes do not multiply to the device count, the batch does not
        divide over the axes that its rows are on, or a rule is none. With `data` at -1, devices
        that the batch cannot use are left idle rather than an error: a batch of 12 runs on 6 of 8
        devices.
        """
        rules = self.table()
        devices = jax.devices() if devices is None else devices
        sizes = self._sizes(batch_size, devices, rules)
        shards = math.prod(sizes[axis] for axis in targets("batch", rules))
        if batch_size % shards:
            over = " x ".join(
                f"--mesh.{axis} {sizes[axis]}"
                for axis in targets("batch", rules)
                if sizes[axis] > 1
            )
            raise UserError(
                f"--data.batch-size {batch_size} does not divide over {over}; the nearest that "
                f"does is {max(round(batch_size / shards), 1) * shards}"
            )
        used = devices[: math.prod(sizes.values())]
        return Layout(_mesh(used, sizes), rules, Ticks(self.microbatches, self.interleave))

    def table(self) -> Rules:
        """The rules with this config's changes; UserError for one that names no axis."""
        table = dict(RULES)
        for change in self.rules:
            name, equals, after = change.partition("=")
            axes = tuple(axis for axis in after.split(",") if axis)
            if not equals or name not in table:
                raise UserError(
                    f"--mesh.rules {change}: a rule is NAME=AXES, such as mlp=fsdp,tensor"
                    f"{_nearest(name, list(table))}"
                )
            for axis in axes:
                if axis not in AXES:
                    raise UserError(f"--mesh.rules {change}: no mesh axis{_nearest(axis, AXES)}")
            table[name] = axes[0] if len(axes) == 1 else axes or None
        return table

    def _sizes(
        self, batch_size: int, devices: Sequence[jax.Device], rules: Rules
    ) -> dict[str, int]:
        """The size of every axis, slowest first."""
        sizes = {axis: getattr(self, axis) for axis in AXES}
        asked = " x ".join(f"{name} {size}" for name, size in sizes.items() if size != 1) or "1"
        if [size for size in sizes.values() if size != -1 and size < 1]:
            raise UserError(f"--mesh sizes must be positive, or -1 once: {asked}")
        check_range("mesh", self, "max_unsharded", least=0, most=1)
        check_range("mesh", self, "microbatches", least=0)
        check_range("mesh", self, "interleave", least=1)
        free = [name for name, size in sizes.items() if size == -1]
        if len(free) > 1:
            raise UserError(f"only one --mesh size may be -1: {asked}")
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if free:
            sizes[free[0]] = max(len(devices) // fixed, 1)
            if free == ["data"] and jax.process_count() == 1:
                rows = math.prod(sizes[axis] for axis in targets("batch", rules) if axis != "data")
                while sizes["data"] > 1 and batch_size % (sizes["data"] * rows):
                    sizes["data"] -= 1
        used = math.prod(sizes.values())
        idle_is_meant = free == ["data"]
        if used > len(devices) or (used < len(devices) and not idle_is_meant):
            nearest = nearest_sizes(sizes, len(devices))
            options = " ".join(f"--mesh.{name} {size}" for name, size in nearest.items())
            raise UserError(
                f"the mesh ({asked}) has {used} places for {len(devices)} devices; the nearest "
                f"that has as many is {options}"
            )
        return sizes


def one_device() -> Layout:
    """The first device of this process alone, under all axis names."""
    return Layout(_mesh(jax.local_devices()[:1], dict.fromkeys(AXES, 1)), RULES)


def nearest_sizes(sizes: dict[str, int], count: int) -> dict[str, int]:
    """The sizes of the axes larger than 1 that multiply to `count` and change the least.

    By the sum of the ratios' logarithms; where none is larger than 1, `data` has them all.
    """
    axes = [name for name, size in sizes.items() if size > 1] or ["data"]
    divisors = [n for n in range(1, count + 1) if count % n == 0]

    def change(found: tuple[int, ...]) -> float:
        return sum(abs(math.log(n / sizes[axis])) for n, axis in zip(found, axes, strict=True))

    found = (
        (*head, count // math.prod(head))
        for head in itertools.product(divisors, repeat=len(axes) - 1)
        if count % math.prod(head) == 0
    )
    return dict(zip(axes, min(found, key=change), strict=True))


def _mesh(devices: Sequence[Any], sizes: dict[str, int]) -> Mesh:
    shape = tuple(sizes.values())
    # Explicit axes, the default of newer JAX, do not work with Linen's embedding and scan.
    types = (AxisType.Auto,) * len(sizes)
    if devices[0].platform != "tpu":
        return Mesh(np.asarray(devices).reshape(shape), tuple(sizes), types)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    across = slices_across(sizes, slices)
    within = tuple(size // many for size, many in zip(shape, across, strict=True))
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            within, across, devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, tuple(sizes), types)


def slices_across(sizes: dict[str, int], slices: int) -> tuple[int, ...]:
    """How many of each axis's places lie in different slices of a pod: the slow axes' first.

    Raises UserError where stage, data and fsdp do not divide over the slices.
    """
    left, across = slices, []
    for axis, size in sizes.items():
        many = math.gcd(size, left) if axis in ("stage", "data", "fsdp") else 1
        across.append(many)
        left //= many
    if left > 1:
        raise UserError(
            f"{slices} slices of a pod, and --mesh.stage, --mesh.data and --mesh.fsdp do not "
            f"divide over them; make one of them a multiple of {slices}"
        )
    return tuple(across)


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"
