"""A mixture of experts on eight devices is that on one, and sends only what it must."""

import re
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close
from jax.sharding import PartitionSpec

from jaxseq.ops.activations import swiglu
from jaxseq.ops.expert_parallel import ExpertKernels, Rule, mixture
from jaxseq.parallel.mesh import MeshConfig

EXPERTS, LENGTH, WIDTH, HIDDEN = 8, 8, 4, 6
RULES = {"dropless": Rule(2, swiglu), "capacity": Rule(2, swiglu, capacity_factor=0.7)}


def arrays(rows: int) -> tuple[Any, ...]:
    """((x, logits, kernels), valid, the gradient that comes back), in float64."""
    rng = np.random.default_rng(3)
    into = tuple(rng.normal(size=(EXPERTS, WIDTH, HIDDEN)) for _ in range(2))
    kernels = ExpertKernels(into, rng.normal(size=(EXPERTS, HIDDEN, WIDTH)))
    x, dy = rng.normal(size=(2, rows, LENGTH, WIDTH))
    logits = 2 * rng.normal(size=(rows, LENGTH, EXPERTS))
    valid = np.arange(rows * LENGTH).reshape(rows, LENGTH) % 5 != 3
    return (x, logits, kernels), valid, dy


def computed(rule: Rule, arguments: tuple, valid: Any, dy: Any) -> tuple:
    """((y, probabilities), gradients by x, logits and kernels)."""

    def run(*arguments: Any) -> tuple:
        y, probabilities, experts = mixture(*arguments[:2], valid, arguments[2], rule)
        return y, probabilities * (experts[:, :, :1] == 0)

    outputs, pullback = jax.vjp(run, *arguments)
    return outputs, pullback((dy, outputs[1]))


@cache
def on_one_device(name: str, rows: int) -> Any:
    with jax.enable_x64(True):
        out = jax.jit(partial(computed, RULES[name]))(*jax.tree.map(jnp.asarray, arrays(rows)))
        return jax.tree.map(np.asarray, out)


EXPERTS_ALONE = MeshConfig(data=1, expert=8)
WITH_TIME_AND_FEATURES = MeshConfig(data=1, expert=2, context=2, tensor=2)
GATHERED, ALL = {"all-gather", "reduce-scatter"}, {"all-gather", "reduce-scatter", "all-reduce"}
SENT = {"all-to-all"}

# The mesh, the rule, the rows of the batch, and what the devices do with one another.
CASES = {
    # The gradients of kernels are summed, and no token leaves its device.
    "rows": (MeshConfig(data=8), "dropless", 8, {"all-reduce"}),
    "rows, capacity": (MeshConfig(data=8), "capacity", 8, {"all-reduce"}),
    # Tokens are gathered, or sent to their experts; kernels stay where they are.
    "experts": (EXPERTS_ALONE, "dropless", 8, GATHERED),
    "experts, capacity": (EXPERTS_ALONE, "capacity", 8, SENT),
    "experts and fsdp": (MeshConfig(data=2, fsdp=2, expert=2), "capacity", 8, ALL | SENT),
    "experts, time and features": (WITH_TIME_AND_FEATURES, "dropless", 8, ALL),
    "experts, time and features, capacity": (WITH_TIME_AND_FEATURES, "capacity", 8, ALL | SENT),
    # Devices with different experts have the same tokens.
    "rows that do not divide": (MeshConfig(data=1, fsdp=2, expert=2, tensor=2), "capacity", 3, ALL),
    "experts on the axis of rows": (
        MeshConfig(data=4, fsdp=2, rules=("expert=data",)),
        "dropless",
        8,
        GATHERED,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_eight_devices_equal_one(case: str) -> None:
    config, name, rows, kinds = CASES[case]
    layout = config.build(8)
    with jax.enable_x64(True), layout.use():
        arguments = jax.device_put(arrays(rows), layout.replicated)
        step = jax.jit(partial(computed, RULES[name])).lower(*arguments).compile()
        many = jax.tree.map(np.asarray, step(*arguments))
    assert_close(many, on_one_device(name, rows), "float64")
    known = "all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute"
    found = set(re.findall(rf" ({known})(?:-start)?\(", step.as_text()))
    assert found == kinds


def test_stages_of_a_pipeline_hold_experts() -> None:
    layout = MeshConfig(data=1, fsdp=2, expert=2, stage=2).build(8)
    stage = PartitionSpec("stage")

    def one_stage(arguments: tuple, valid: Any, dy: Any) -> tuple:
        own = jax.tree.map(lambda z: z[0], (arguments, valid, dy))
        return jax.tree.map(lambda z: z[None], computed(RULES["capacity"], *own))

    def two(tree: Any) -> Any:
        return jax.tree.map(lambda z: np.stack([z, z]), tree)

    with jax.enable_x64(True), layout.use():
        run = jax.jit(
            jax.shard_map(one_stage, in_specs=stage, out_specs=stage, axis_names={"stage"})
        )
        found = jax.tree.map(np.asarray, run(*jax.device_put(two(arrays(8)), layout.replicated)))
    assert_close(found, two(on_one_device("capacity", 8)), "float64")
