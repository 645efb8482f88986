"""The same numbers everywhere: however the work is divided, one loss curve and one checkpoint."""

import functools

import jax
import numpy as np
import pytest
from compare import assert_same
from curves import STEPS, WAYS, program, train

from jaxseq.training.checkpoints import Checkpoints

RELATIVE = 1e-5
ALONE = {False: "1 device", True: "1 device, experts"}


def is_mixture(name: str) -> bool:
    return "model" in WAYS[name]


@functools.cache
def curve(name: str) -> list[float]:
    here = program(name)
    return train(here, here.create(), range(STEPS))[1]


@pytest.mark.parametrize("name", [name for name in WAYS if name not in ALONE.values()])
def test_one_loss_curve(name: str) -> None:
    alone = curve(ALONE[is_mixture(name)])
    assert alone[-1] < 0.9 * alone[0], "nothing is learnt, so that nothing is compared"
    np.testing.assert_allclose(curve(name), alone, rtol=RELATIVE)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("8 fsdp", "4 fsdp x 2 tensor"),
        ("4 fsdp x 2 tensor", "1 device"),
        ("1 device", "4 stage x 2 data"),
        ("4 stage x 2 data", "2 data x 2 fsdp x 2 context"),
        ("2 data x 2 fsdp x 2 context", "pmap 8"),
        ("pmap 8", "8 fsdp"),
        ("8 expert", "2 expert x 2 data x 2 tensor"),
    ],
)
def test_a_checkpoint_moves(source: str, target: str, tmp_path) -> None:
    half = STEPS // 2
    before, after = program(source), program(target)
    state, _ = train(before, before.create(), range(half))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, half)
        checkpoints.wait()
        moved = checkpoints.restore(after.like)
    assert_same(jax.device_get(moved), jax.device_get(state))
    for leaf, like in zip(jax.tree.leaves(moved), jax.tree.leaves(after.like), strict=True):
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
    _, losses = train(after, moved, range(half, STEPS))
    whole = curve(ALONE[is_mixture(source)])
    np.testing.assert_allclose(losses, whole[half:], rtol=RELATIVE)
