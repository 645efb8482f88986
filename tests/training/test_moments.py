"""Averages of gradients kept in bfloat16: rounded so that they neither stall nor drift."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compare import assert_same

from jaxseq.training.moments import to_bfloat16
from jaxseq.training.optimizers import Optimizer

PARAMS = {"blocks": {"kernel": jnp.ones((2, 4, 8)), "bias": jnp.ones(8)}, "table": jnp.ones((3, 4))}


def test_rounding_goes_to_a_neighbour_and_its_mean_is_right():
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=50) * 10.0 ** rng.integers(-30, 30, 50))
    copies = jnp.broadcast_to(jnp.asarray(x), (4000, 50))
    found = np.asarray(to_bfloat16(copies, jax.random.key(0)), np.float64)
    low = (x.view(np.uint32) & 0xFFFF0000).view(np.float32).astype(np.float64)
    high = ((x.view(np.uint32) & 0xFFFF0000) + 0x10000).view(np.float32).astype(np.float64)
    assert np.all((found == low) | (found == high))
    # Four standard errors of a coin with these odds.
    odds = (x - low) / (high - low)
    error = np.abs((found.mean(axis=0) - x) / (high - low))
    assert np.all(error <= 4 * np.sqrt(odds * (1 - odds) / 4000) + 1e-12)


def test_what_bfloat16_holds_stays():
    held = jnp.array([0.0, -0.0, 1.0, -3.140625, jnp.inf, -jnp.inf, 2.0**-133, 3.3895314e38])
    for seed in range(5):
        found = to_bfloat16(held, jax.random.key(seed)).astype(jnp.float32)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(held))
        np.testing.assert_array_equal(found, held)
    assert np.isnan(to_bfloat16(jnp.full(100, jnp.nan), jax.random.key(0))).all()


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "sgd"])
def test_only_averages_are_kept_in_bfloat16(name):
    wide = jax.eval_shape(Optimizer(name).build(10).init, PARAMS)
    low = jax.eval_shape(Optimizer(name, state_dtype="bfloat16").build(10).init, PARAMS)
    shapes = {leaf.shape for leaf in jax.tree.leaves(PARAMS)}
    expected = [
        (leaf.shape, jnp.dtype("bfloat16") if leaf.shape in shapes else leaf.dtype)
        for leaf in jax.tree.leaves(wide)
    ]
    found = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(low)]
    assert found == [((), jnp.dtype("int32")), *expected]  # how often it was rounded comes first


def test_a_slow_average_falls_as_it_should():
    """Rounded to the nearest, a mean square with decay 0.999 would stay at 1 for ever."""
    config = Optimizer(beta2=0.999, clip_norm=0.0, state_dtype="bfloat16")
    optimizer = config.build(10)
    params = {"kernel": jnp.ones((64, 64))}
    ones, zeros = ({"kernel": jnp.full((64, 64), x)} for x in (1.0, 0.0))

    def mean_square(state):
        (nu,) = [leaf.nu for leaf in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(leaf)]
        return nu["kernel"]

    @jax.jit
    def run(state):
        _, state = optimizer.update(ones, state, params)
        first = mean_square(state)
        return first, jax.lax.fori_loop(
            0, 500, lambda _, state: optimizer.update(zeros, state, params)[1], state
        )

    first, state = run(optimizer.init(params))
    assert first.dtype == jnp.bfloat16
    np.testing.assert_allclose(first.astype(jnp.float32), 0.001, rtol=2**-7)
    mean = mean_square(state).astype(jnp.float32).mean()
    np.testing.assert_allclose(mean, 0.001 * 0.999**500, rtol=3e-3)


def _is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


def test_it_learns_what_float32_learns_and_a_second_run_is_bitwise_the_first():
    rng = np.random.default_rng(0)
    target = {"kernel": jnp.float32(rng.normal(size=(16, 16))), "bias": jnp.arange(16.0) / 16}

    def distance(params):
        return sum(jnp.mean((params[name] - target[name]) ** 2) for name in target)

    def runner(state_dtype):
        config = Optimizer(learning_rate=0.1, weight_decay=0.0, state_dtype=state_dtype)
        optimizer = config.build(200)

        def step(carry, _):
            params, state = carry
            loss, gradient = jax.value_and_grad(distance)(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), loss

        params = jax.tree.map(jnp.zeros_like, target)
        return jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), length=200))

    low, high = runner("bfloat16"), runner("float32")
    state, losses = low()
    assert_same(low(), (state, losses))
    np.testing.assert_allclose(losses[:100], high()[1][:100], rtol=0.05)
    assert losses[-1] < 1e-3 * losses[0]
