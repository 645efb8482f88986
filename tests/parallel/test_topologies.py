"""Slices of pods by name."""

import importlib.util

import pytest

from jaxseq.errors import UserError
from jaxseq.parallel import topologies
from jaxseq.parallel.topologies import near_names, topology_devices, torus

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler (extra tpu)"
)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("v5e:16x15", "v5e:16x16"),
        ("v5e:7x7", "v5e:8x8"),
        ("v5p:8x8x7", "v5p:8x8x8"),
        ("v5x:4x4", "v5e:4x4"),
        ("v5litepod-256", "v5e:16x16"),  # Google's own name of it
        ("v5p-1024", "v5p:8x8x8"),  # which counts cores
        ("v4:5x5x5", "v4:4x4x4"),
    ],
)
def test_the_names_near_one_that_is_none(name, nearest):
    assert nearest in near_names(name)[:2]
    with pytest.raises(UserError, match=f"no topology {name}; near it are .*{nearest}"):
        topology_devices(name)


def test_without_the_compiler_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the TPU compiler.*\[tpu\]"):
        topology_devices("v5e:2x4")


@needs_compiler
@pytest.mark.parametrize(
    ("name", "slices", "count", "lengths"),
    [
        ("v5e:2x4", 1, 8, (2, 4, 1)),
        ("v5p:8x8x8", 1, 512, (8, 8, 8)),
        ("v4:2x2x1", 1, 4, (2, 2, 1)),  # one device a chip
        ("v5e:4x4", 2, 32, (4, 4, 1)),
    ],
)
def test_devices_of_a_slice(name, slices, count, lengths):
    devices = topology_devices(name, slices)
    assert len(devices) == count
    assert torus(devices) == lengths
    assert len({getattr(device, "slice_index", None) for device in devices}) == slices
