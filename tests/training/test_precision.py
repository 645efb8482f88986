"""Training with fewer bits ends where training with float32 does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.models.gpt import GPTConfig
from jaxseq.parallel.mesh import one_device
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.state import create_state
from jaxseq.training.step import make_train_step

STEPS = 60

# What changes in the model and in the optimizer, and how far from the loss of float32 the mean loss
# of the last ten steps may be, as a share of it.
VARIANTS = {
    "bfloat16": ({"dtype": "bfloat16"}, {}, 0.01),
    "int8, averages in bfloat16": (
        {"dtype": "bfloat16", "quantize": "int8"},
        {"state_dtype": "bfloat16"},
        0.02,
    ),
}


def learn(model=None, optimizer=None):
    """(losses of all steps, final state) of a tiny GPT that learns to count backwards in threes."""
    task = LanguageModel()
    config = GPTConfig(num_layers=1, width=16, num_heads=2, **(model or {}))
    config = config.resolve(vocab_size=17, context=8)
    rates = Optimizer(learning_rate=1e-2, warmup_steps=5, **(optimizer or {}))
    rule = rates.build(STEPS)
    state = create_state(lambda key: task.init(config, key), rule, one_device(), jax.random.key(0))
    step = make_train_step(
        lambda params, batch, key: task.loss(config, params, batch),
        *(rule, rates.learning_rates(STEPS), jax.random.key(1)),
    )
    first = np.random.default_rng(0).integers(0, 17, (STEPS, 16, 1))
    tokens = jnp.asarray((first - 3 * np.arange(9)) % 17, jnp.int32)
    mask = jnp.ones((STEPS, 16, 8), bool)
    batches = {"inputs": tokens[..., :-1], "targets": tokens[..., 1:], "mask": mask}
    state, metrics = jax.jit(lambda state: jax.lax.scan(step, state, batches))(state)
    return np.asarray(metrics["loss"]), state


@pytest.fixture(scope="module")
def exact():
    losses, _ = learn()
    assert losses[-1] < 0.7 * losses[0]
    return losses


@pytest.mark.parametrize("name", VARIANTS)
def test_fewer_bits_learn_as_much(exact, name):
    model, optimizer, tolerance = VARIANTS[name]
    if "quantize" in model:
        pytest.importorskip("qwix")
    losses, state = learn(model, optimizer)
    assert np.all(losses != exact)
    np.testing.assert_allclose(losses[-10:].mean(), exact[-10:].mean(), rtol=tolerance)
    # The masters, and what they were moved by, are float32 whatever the products are of.
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
