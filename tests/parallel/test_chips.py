"""Peaks out of the tables, and those that are measured."""

from types import SimpleNamespace

import jax
import pytest

from jaxseq.parallel import chips
from jaxseq.parallel.chips import GIB, chip_of, measure_bandwidth, measure_flops


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEQ_CACHE", str(tmp_path))
    chips._speeds.cache_clear()
    yield tmp_path / "chips.json"
    chips._speeds.cache_clear()


@pytest.mark.parametrize(
    ("kind", "name", "flops"),
    [
        ("TPU v5 lite", "TPU v5e", 197e12),
        ("TPU v5", "TPU v5p", 459e12),
        ("TPU7x", "TPU7x", 2307e12 / 2),  # a chip is two devices
    ],
)
def test_a_tpu_is_in_the_table(kind, name, flops):
    chip = chip_of(SimpleNamespace(device_kind=kind, platform="tpu"))
    assert (chip.name, chip.bf16_flops) == (name, flops)
    assert chip.memory_bytes < 96 * GIB


def test_a_gpu_has_the_memory_that_its_driver_leaves():
    h200 = SimpleNamespace(
        device_kind="NVIDIA H200", platform="gpu", memory_stats=lambda: {"bytes_limit": 105 * GIB}
    )
    chip = chip_of(h200)
    assert (chip.name, chip.bf16_flops, chip.memory_bytes) == ("H200", 989e12, 105 * GIB)
    h200.device_kind = "NVIDIA H100 80GB HBM3"
    assert chip_of(h200).name == "H100"


def test_a_cpu_is_measured_once_and_shared_by_its_devices(cache, monkeypatch):
    measured = []
    monkeypatch.setattr(chips, "measure_flops", lambda device: measured.append(device) or 8e11)
    monkeypatch.setattr(chips, "measure_bandwidth", lambda device: 16e9)
    first = chip_of(jax.devices()[0])
    assert first.bf16_flops == 8e11 / jax.local_device_count()
    assert first.memory_bandwidth == 16e9 / jax.local_device_count()
    assert cache.is_file()
    chips._speeds.cache_clear()  # as in another process
    assert chip_of(jax.devices()[1]) == first
    assert len(measured) == 1


def test_what_is_measured_is_a_speed():
    device = jax.devices()[0]
    assert 1e6 < measure_flops(device, size=64, repeats=1) < 1e15
    assert 1e6 < measure_bandwidth(device, size=2**16, repeats=1) < 1e13
