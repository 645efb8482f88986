"""Times of kernels and exchanges, by hand, on a torus of 4 x 4 x 4 chips."""

import dataclasses

import numpy as np
import pytest
from jax.sharding import Mesh

from jaxseq.parallel.chips import Chip
from jaxseq.planning.hlo_costs import Collective, Costs, Operation
from jaxseq.planning.roofline import crossed, exchange_seconds, roofline

CHIP = Chip("chip", 100.0, 10**9, 10.0, link_bandwidth=2.0, network_bandwidth=0.5, ring=4)


@dataclasses.dataclass(frozen=True)
class Device:
    """A chip of a torus, as far as a roofline looks at it."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "chip"
    process_index: int = 0


def slice_of_a_pod(sizes: dict[str, int], slices: int = 1) -> Mesh:
    """A mesh, in the order of the axes, over chips numbered along a torus."""
    shape = tuple(sizes.values())
    each = int(np.prod(shape)) // slices
    grid = np.empty(each * slices, object)
    for n in range(each * slices):
        grid[n] = Device(n, (n % each // 16, n % 16 // 4, n % 4), n // each)
    return Mesh(grid.reshape(shape), tuple(sizes))


def collective(kind: str, group: tuple[int, ...], hidden: bool = False) -> Collective:
    return Collective(kind, 120, group, 1, hidden)


LINE, PLANE = tuple(range(4)), tuple(range(16))


@pytest.mark.parametrize(
    ("kind", "group", "seconds"),
    [
        # A ring of 4: two links of 2 bytes a second; each device sees 3/4 of everything pass.
        ("all-gather", LINE, 120 * 3 / 4),
        ("reduce-scatter", LINE, 120 * 3 / 4 / 4),
        ("all-reduce", LINE, 2 * 120 * 3 / 4 / 4),
        ("all-to-all", LINE, 120 * 1 / 4),
        # A plane has twice the links.
        ("reduce-scatter", PLANE, 120 * 15 / 16 / 8),
        # Half an axis is a line, of one link.
        ("reduce-scatter", (0, 1), 120 / 2 / 2),
        ("collective-permute", (0, 1, 1, 0), 120 / 2),
    ],
)
def test_an_exchange_takes_as_long_as_its_links(kind, group, seconds):
    mesh = slice_of_a_pod({"data": 16, "tensor": 4})
    assert exchange_seconds(collective(kind, group), mesh, CHIP) == pytest.approx(seconds)


def test_between_slices_there_is_the_network():
    mesh = slice_of_a_pod({"data": 2, "fsdp": 64}, slices=2)
    across = collective("reduce-scatter", (0, 64))
    assert exchange_seconds(across, mesh, CHIP) == pytest.approx(120 / 2 / 0.5)
    assert crossed(across, mesh) == ("data",)


def test_along_which_axes():
    mesh = slice_of_a_pod({"data": 4, "fsdp": 4, "tensor": 4})
    for group, axes in (
        ((0, 1, 2, 3), ("tensor",)),
        ((0, 16, 32, 48), ("data",)),
        (PLANE, ("fsdp", "tensor")),
        ((), ("data", "fsdp", "tensor")),
        ((5,), ()),
    ):
        assert crossed(collective("all-gather", group), mesh) == axes
    # Pairs: the one that stays where it is says nothing.
    assert crossed(collective("collective-permute", (0, 0, 1, 5, 5, 1)), mesh) == ("fsdp",)


def test_the_time_is_that_of_what_is_slower():
    mesh = slice_of_a_pod({"data": 16, "tensor": 4})
    matmul, copy = Operation("matmul", 1000, 10, 3), Operation("copy", 0, 100, 2)
    waited, hidden = collective("all-gather", LINE), collective("all-gather", PLANE, hidden=True)

    found = roofline(Costs((matmul, copy), (waited,), ()), mesh, CHIP)
    assert (found.compute, found.memory) == (30.0, 20.0)
    assert found.seconds == pytest.approx(30 + 20 + 90)
    assert found.bound == "links (tensor)"

    found = roofline(Costs((matmul, copy), (hidden,), ()), mesh, CHIP)
    assert found.hidden == pytest.approx(225)  # longer than the kernels that hide it
    assert found.seconds == pytest.approx(225)
    assert roofline(Costs((matmul, copy), (), ()), mesh, CHIP).bound == "matrix units"
    assert roofline(Costs((copy,), (), ()), mesh, CHIP).bound == "memory"
