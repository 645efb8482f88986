"""Meshes over the eight fake devices of the tests."""

import jax
import numpy as np
import pytest

from jaxseq.errors import UserError
from jaxseq.parallel.mesh import AXES, MeshConfig, nearest_sizes, one_device, slices_across


@pytest.mark.parametrize(
    ("config", "batch_size", "shape"),
    [
        (MeshConfig(), 16, {"data": 8}),
        (MeshConfig(), 12, {"data": 6}),
        (MeshConfig(), 7, {"data": 7}),
        (MeshConfig(), 1, {}),
        (MeshConfig(data=2, fsdp=2, tensor=2), 4, {"data": 2, "fsdp": 2, "tensor": 2}),
        (MeshConfig(data=1, fsdp=-1), 8, {"fsdp": 8}),
        (MeshConfig(tensor=4), 6, {"data": 2, "tensor": 4}),
    ],
)
def test_sizes(config, batch_size, shape):
    assert {
        name: size for name, size in config.build(batch_size).mesh.shape.items() if size > 1
    } == shape


@pytest.mark.parametrize(
    ("config", "batch_size", "message"),
    [
        (
            MeshConfig(data=3),
            12,
            "3 places for 8 devices; the nearest that has as many is --mesh.data 8",
        ),
        (MeshConfig(data=16), 16, "16 places for 8 devices"),
        (MeshConfig(data=-1, fsdp=-1), 8, "only one"),
        (MeshConfig(data=0), 8, "must be positive"),
        (MeshConfig(data=8), 12, "--data.batch-size 12 does not divide.*nearest that does is 16"),
        (MeshConfig(data=1, fsdp=-1), 12, "--data.batch-size 12 .* over --mesh.fsdp 8"),
        (
            MeshConfig(data=1, fsdp=5, tensor=2),
            20,
            "fsdp 5 x tensor 2. has 10 places .* is --mesh.fsdp 4 --mesh.tensor 2",
        ),
        (MeshConfig(microbatches=-1), 8, "--mesh.microbatches is -1"),
        (MeshConfig(max_unsharded=2.0), 8, "--mesh.max-unsharded is 2.0"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_compiled(config, batch_size, message):
    with pytest.raises(UserError, match=message):
        config.build(batch_size)


def test_one_device():
    assert one_device().mesh.size == 1


def test_the_last_axes_are_neighbours_in_the_machine():
    mesh = MeshConfig(stage=2, data=2, tensor=2).build(4).mesh
    assert mesh.axis_names == AXES
    np.testing.assert_array_equal(
        mesh.devices.reshape(2, 2, 2), np.array(jax.devices()).reshape(2, 2, 2)
    )


def test_the_nearest_sizes_change_the_least():
    assert nearest_sizes({"data": 1, "fsdp": 16, "tensor": 3}, 32) == {"fsdp": 16, "tensor": 2}
    assert nearest_sizes({"data": 1, "fsdp": 1}, 6) == {"data": 6}


@pytest.mark.parametrize(
    ("sizes", "slices", "across"),
    [
        ({"stage": 1, "data": 4, "fsdp": 8, "tensor": 2}, 2, (1, 2, 1, 1)),
        ({"stage": 2, "data": 2, "fsdp": 8, "tensor": 2}, 4, (2, 2, 1, 1)),
        ({"stage": 1, "data": 1, "fsdp": 8, "tensor": 2}, 4, (1, 1, 4, 1)),
    ],
)
def test_slices_of_a_pod_lie_along_the_slow_axes(sizes, slices, across):
    assert slices_across(sizes, slices) == across


def test_tensor_parallelism_never_crosses_slices():
    with pytest.raises(UserError, match="make one of them a multiple of 2"):
        slices_across({"stage": 1, "data": 1, "fsdp": 1, "tensor": 8}, 2)
