"""The average of the parameters: its formula, and that a training step keeps it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from compare import assert_close

from jaxseq.training.average import update_average
from jaxseq.training.state import TrainState
from jaxseq.training.step import make_train_step


def test_the_average_is_its_formula():
    rng = np.random.default_rng(0)
    params = rng.normal(size=(30, 3))
    update = jax.jit(update_average, static_argnums=3)
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            average, expected = {"kernel": jnp.asarray(params[0], dtype)}, params[0]
            for t, p in enumerate(params):
                average = update(average, {"kernel": jnp.asarray(p, dtype)}, jnp.int32(t), 0.7)
                decay = min(0.7, (1 + t) / (10 + t))
                expected = decay * expected + (1 - decay) * p
            assert average["kernel"].dtype == dtype
            assert_close(average, {"kernel": expected}, dtype)


def test_a_step_averages_what_is_trained():
    def loss(params, batch, key):
        return jnp.sum((params["w"] - batch["x"]) ** 2) + params["fixed"], jnp.float32(1)

    optimizer = optax.sgd(0.1)
    params = {"w": jnp.ones(2), "fixed": jnp.float32(3)}
    start = TrainState(jnp.int32(0), params, optimizer.init({"w": params["w"]}), {"w": params["w"]})
    rate = optax.constant_schedule(0.1)
    step = jax.jit(
        make_train_step(loss, optimizer, rate, jax.random.key(0), {"fixed"}, ema_decay=0.5)
    )
    state, expected = start, start.average
    for t in range(3):
        state, _ = step(state, {"x": jnp.zeros(2)})
        expected = update_average(expected, {"w": state.params["w"]}, jnp.int32(t), 0.5)
    assert_close(state.average, expected, "float32")
    assert state.average["w"][0] > state.params["w"][0]
