"""Meshes over the eight fake devices of the tests."""

import pytest

from jaxseq.errors import UserError
from jaxseq.parallel.mesh import MeshConfig, one_device_mesh


@pytest.mark.parametrize(
    ("config", "batch_size", "shape"),
    [
        (MeshConfig(), 16, {"data": 8, "fsdp": 1, "tensor": 1}),
        (MeshConfig(), 12, {"data": 6, "fsdp": 1, "tensor": 1}),
        (MeshConfig(), 7, {"data": 7, "fsdp": 1, "tensor": 1}),
        (MeshConfig(), 1, {"data": 1, "fsdp": 1, "tensor": 1}),
        (MeshConfig(data=2, fsdp=2, tensor=2), 4, {"data": 2, "fsdp": 2, "tensor": 2}),
        (MeshConfig(data=1, fsdp=-1), 8, {"data": 1, "fsdp": 8, "tensor": 1}),
        (MeshConfig(tensor=4), 6, {"data": 2, "fsdp": 1, "tensor": 4}),
    ],
)
def test_sizes(config, batch_size, shape):
    assert dict(config.build(batch_size).shape) == shape


@pytest.mark.parametrize(
    ("config", "batch_size", "message"),
    [
        (MeshConfig(data=3), 12, r"3 places for 8 devices.*\[1, 2, 4, 8\]"),
        (MeshConfig(data=16), 16, "16 places for 8 devices"),
        (MeshConfig(data=-1, fsdp=-1), 8, "only one"),
        (MeshConfig(data=0), 8, "must be positive"),
        (MeshConfig(data=8), 12, "--data.batch-size 12 does not divide.*nearest that does is 16"),
        (MeshConfig(data=1, fsdp=-1), 12, "--data.batch-size 12"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_compiled(config, batch_size, message):
    with pytest.raises(UserError, match=message):
        config.build(batch_size)


def test_one_device():
    assert one_device_mesh().size == 1
