"""Schedules at their corners, what decays, and options out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseq.errors import UserError
from jaxseq.training.optimizers import Optimizer, decays, matrices

PARAMS = {
    "embedding": {"table": jnp.ones((5, 4))},
    "blocks": {
        "mlp": {"kernel": jnp.ones((3, 4, 8)), "bias": jnp.ones((3, 8))},
        "norm": {"scale": jnp.ones((3, 4))},
    },
}


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_rises_to_the_peak_and_ends_at_the_fraction(schedule):
    config = Optimizer(learning_rate=2.0, warmup_steps=10, final_fraction=0.1, schedule=schedule)
    rate = config.learning_rates(100)
    assert 0 < rate(0) < rate(5) < 2.0
    assert rate(10) == pytest.approx(2.0)
    assert rate(55) == pytest.approx((2.0 + 0.2) / 2)
    assert rate(100) == pytest.approx(0.2)


def test_a_constant_schedule_stays():
    rate = Optimizer(learning_rate=2.0, warmup_steps=0, schedule="constant").learning_rates(10)
    assert [float(rate(step)) for step in (0, 5, 10)] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("warmup_steps", [0, 1, 50])
def test_a_run_shorter_than_its_warm_up_still_reaches_the_peak(warmup_steps):
    rate = Optimizer(learning_rate=1.0, warmup_steps=warmup_steps).learning_rates(1)
    assert rate(0) == pytest.approx(1.0)


def test_only_matrices_and_tables_decay():
    config = Optimizer(learning_rate=0.1, weight_decay=0.5, warmup_steps=0, clip_norm=0.0)
    for name in ("adamw", "lion", "sgd", "muon"):
        optimizer = Optimizer(**{**config.__dict__, "name": name}).build(10)
        zero = jax.tree.map(jnp.zeros_like, PARAMS)
        updates, _ = optimizer.update(zero, optimizer.init(PARAMS), PARAMS)
        moved = {
            jax.tree_util.keystr(path, simple=True, separator="/"): bool(jnp.any(update != 0))
            for path, update in jax.tree_util.tree_leaves_with_path(updates)
        }
        expected = {"blocks/mlp/kernel"} | ({"embedding/table"} if name != "muon" else set())
        assert {path for path, was in moved.items() if was} == expected, name
    assert decays(PARAMS)["blocks"]["mlp"] == {"kernel": True, "bias": False}


def test_muon_orthogonalises_each_layer_of_a_stack_by_itself():
    kernels = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)
    gradient = {"kernel": jnp.asarray(kernels * np.array([1, 10, 100])[:, None, None])}
    optimizer = Optimizer(name="muon", weight_decay=0.0, warmup_steps=0, clip_norm=0.0).build(10)
    params = jax.tree.map(jnp.zeros_like, gradient)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    singular = np.linalg.svd(np.asarray(updates["kernel"]), compute_uv=False)
    singular /= singular.mean()
    # Five Newton-Schulz steps bring every singular value near one, whatever the layer's scale.
    assert singular.min() > 0.6
    assert singular.max() < 1.4
    assert matrices(PARAMS)["embedding"]["table"] is None


def test_clipping_bounds_the_global_norm():
    optimizer = Optimizer(
        name="sgd", learning_rate=1.0, schedule="constant", warmup_steps=0, weight_decay=0.0,
        beta1=0.0, clip_norm=0.5,
    ).build(1)  # fmt: skip
    gradient = jax.tree.map(lambda p: 10 * p, PARAMS)
    updates, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS)
    norm = np.sqrt(sum(float(jnp.sum(u**2)) for u in jax.tree.leaves(updates)))
    assert norm == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0}, "--optimizer.learning-rate is -1.0"),
        ({"beta2": 1.5}, "--optimizer.beta2 is 1.5"),
        ({"warmup_steps": -1}, "--optimizer.warmup-steps is -1"),
        ({"clip_norm": -0.1}, "--optimizer.clip-norm"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(UserError, match=message):
        Optimizer(**options).build(10)


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "sgd"])
def test_every_optimizer_finds_the_bottom_of_a_bowl(name):
    target = {"kernel": jnp.eye(4), "bias": jnp.arange(4.0)}
    config = Optimizer(name=name, learning_rate=0.1, adam_learning_rate=0.1, weight_decay=0.0)
    optimizer = config.build(300)

    def distance(params):
        return sum(jnp.sum((params[name] - target[name]) ** 2) for name in target)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(distance)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.zeros_like, target)
    state = optimizer.init(params)
    for _ in range(300):
        params, state = step(params, state)
    assert distance(params) < 0.05
