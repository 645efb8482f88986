"""How long a compiled program takes at best: a roofline (Williams et al. 2009) with exchanges.

A kernel takes as long as its operations at the chip's peak or its bytes at the memory's bandwidth,
whichever is longer. An exchange between devices takes as long as its bytes on the links that its
group of devices has; where the compiler lets other work go on meanwhile, only what outlasts that
work counts. What no program reaches is counted as reached: the figure is a bound, not a forecast.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxseq.parallel.chips import Chip
from jaxseq.parallel.topologies import torus
from jaxseq.planning.hlo_costs import Collective, Costs


@dataclasses.dataclass(frozen=True)
class Exchange:
    """All collectives of one kind over the same mesh axes, in one run of a program."""

    kind: str
    axes: tuple[str, ...]
    """The mesh axes along which its groups lie."""
    count: int
    bytes: int
    """What one device gives into them."""
    seconds: float
    hidden: bool
    """Whether other work goes on meanwhile."""


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Where the time of a program goes, in seconds of one run."""

    compute: float
    """Of kernels that wait for the matrix units."""
    memory: float
    """Of kernels that wait for main memory."""
    exchanges: tuple[Exchange, ...]

    @property
    def waited(self) -> float:
        """Of exchanges during which nothing else happens."""
        return math.fsum(each.seconds for each in self.exchanges if not each.hidden)

    @property
    def hidden(self) -> float:
        """Of exchanges during which kernels may run."""
        return math.fsum(each.seconds for each in self.exchanges if each.hidden)

    @property
    def seconds(self) -> float:
        """Of a run, at best."""
        return max(self.compute + self.memory, self.hidden) + self.waited

    @property
    def bound(self) -> str:
        """What most of the time goes into."""
        outlasting = max(self.hidden - self.compute - self.memory, 0.0)
        links = self.waited + outlasting
        parts = {"matrix units": self.compute, "memory": self.memory, "links": links}
        most = max(parts, key=parts.__getitem__)
        if most != "links":
            return most
        dearest = max(self.exchanges, key=lambda exchange: exchange.seconds)
        return f"links ({'+'.join(dearest.axes)})"


def roofline(costs: Costs, mesh: Mesh, chip: Chip) -> Roofline:
    """The time of a program whose devices are those of `mesh`, chips of one kind."""
    compute = memory = 0.0
    for operation in costs.operations:
        computing = operation.flops / chip.bf16_flops
        moving = operation.bytes / chip.memory_bandwidth
        if computing >= moving:
            compute += computing * operation.times
        else:
            memory += moving * operation.times
    groups: dict[tuple, list[tuple[Collective, float]]] = {}
    for collective in costs.collectives:
        axes = crossed(collective, mesh)
        if axes:
            key = collective.kind, axes, collective.hidden
            groups.setdefault(key, []).append(
                (collective, exchange_seconds(collective, mesh, chip))
            )
    exchanges = [
        Exchange(
            kind,
            axes,
            sum(each.times for each, _ in found),
            sum(each.bytes * each.times for each, _ in found),
            sum(each.times * seconds for each, seconds in found),
            hidden,
        )
        for (kind, axes, hidden), found in groups.items()
    ]
    exchanges.sort(key=lambda exchange: -exchange.seconds)
    return Roofline(compute, memory, tuple(exchanges))


def crossed(collective: Collective, mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which a collective exchanges anything."""
    if not collective.group:
        return tuple(name for name, size in mesh.shape.items() if size > 1)
    places = np.stack(np.unravel_index(collective.group, tuple(mesh.shape.values())), axis=-1)
    if collective.kind == "collective-permute":
        senders, receivers = places[0::2], places[1::2]
        varies = (senders != receivers).any(axis=0)
    else:
        varies = (places != places[0][None]).any(axis=0)
    return tuple(name for name, does in zip(mesh.axis_names, varies, strict=True) if does)


def exchange_seconds(collective: Collective, mesh: Mesh, chip: Chip) -> float:
    """How long one collective takes at the speed of its links.

    Of V bytes gathered, or summed and divided, over n devices, each sees V (n - 1) / n pass; of
    V bytes summed and left whole, twice that. Along a ring of n, all-to-all moves its bytes n / 4
    places far on average, half of them each way round.
    """
    devices = list(mesh.devices.flat)
    numbers = collective.group or range(len(devices))
    group = [devices[number] for number in numbers]
    given, count = collective.bytes, len(group)
    if collective.kind == "collective-permute":
        return given / min(
            _link(*pair, chip) for pair in zip(group[0::2], group[1::2], strict=True)
        )
    bandwidth, longest = _bandwidth(group, devices, chip)
    share = given * (count - 1) / count
    match collective.kind:
        case "all-gather":
            return share * count / bandwidth
        case "all-reduce":
            return 2 * share / bandwidth
        case "all-to-all" | "ragged-all-to-all":
            return given * max(longest / 4, 1) / bandwidth
    return share / bandwidth


def _bandwidth(group: Sequence[Any], devices: Sequence[Any], chip: Chip) -> tuple[float, int]:
    """(bytes a second into each device of a group, how long its longest line of devices is)."""
    if _far_apart(group[0], group[-1]):
        return chip.network_bandwidth, 1
    if not chip.ring:
        return chip.link_bandwidth, 1
    lengths = torus(devices)
    places = np.array([device.coords for device in group])
    bandwidth, longest = 0.0, 1
    for axis in range(places.shape[1]):
        along = len(np.unique(places[:, axis]))
        if along > 1:
            # A whole axis of the torus; a part of one is a line.
            closed = along % chip.ring == 0 and along == lengths[axis]
            bandwidth += (2 if closed else 1) * chip.link_bandwidth
            longest = max(longest, along if closed else 2 * along)
    # Devices of one chip have the chip between them.
    return bandwidth or 6 * chip.link_bandwidth, longest


def _link(sender: Any, receiver: Any, chip: Chip) -> float:
    return chip.network_bandwidth if _far_apart(sender, receiver) else chip.link_bandwidth


def _far_apart(one: Any, other: Any) -> bool:
    """Whether two devices have only the network between them: other slices, or other GPU hosts."""
    if getattr(one, "slice_index", None) != getattr(other, "slice_index", None):
        return True
    return one.platform == "gpu" and one.process_index != other.process_index
