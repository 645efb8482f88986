"""The same numbers everywhere: one device, eight, and every way to divide the work."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxseq.models.gpt import GPTConfig
from jaxseq.parallel.mesh import MeshConfig, one_device
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.state import abstract_state, create_state
from jaxseq.training.step import make_train_step

STEPS = 5
MODEL = GPTConfig(num_layers=2, width=8, num_heads=2, dropout=0.1).resolve(
    vocab_size=32, context=12
)


def batch(step: int) -> dict[str, np.ndarray]:
    """Ragged: a different number of targets counts in every row."""
    rng = np.random.default_rng(step)
    tokens = rng.integers(0, 32, (16, 13), np.int32)
    mask = np.arange(12) < rng.integers(0, 13, (16, 1))
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "mask": mask}


ADAMW = Optimizer(warmup_steps=2)


def run(mesh, optimizer_config=ADAMW):
    """(metrics of every step, final parameters) of a short training on `mesh`."""
    optimizer = optimizer_config.build(STEPS)
    init = partial(LanguageModel().init, MODEL)
    state = create_state(init, optimizer, mesh, jax.random.key(0))
    step = jax.jit(
        make_train_step(
            partial(LanguageModel().loss, MODEL),
            optimizer,
            optimizer_config.learning_rates(STEPS),
            jax.random.key(1),
        ),
        donate_argnums=0,
    )
    history = []
    for k in range(STEPS):
        state, metrics = step(state, jax.device_put(batch(k), mesh.batch))
        history.append({name: float(value) for name, value in metrics.items()})
    return history, jax.device_get(state.params)


@pytest.fixture(scope="module")
def alone():
    return run(one_device())


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(),
        MeshConfig(data=2, fsdp=2, tensor=2),
    ],
    ids=["8 data", "2 data x 2 fsdp x 2 tensor"],
)
def test_one_device_is_eight(alone, mesh):
    history, params = run(mesh.build(16))
    for k, (here, there) in enumerate(zip(history, alone[0], strict=True)):
        for name in here:
            np.testing.assert_allclose(here[name], there[name], rtol=1e-5, err_msg=f"{name}, {k}")
    # Adam divides tiny gradients by their own size, so single weights may differ by more than
    # the losses that they add up to.
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(alone[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_second_run_is_bitwise_the_first(alone):
    history, params = run(one_device())
    assert history == alone[0]
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(alone[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_muon_divides_too():
    """Its state wraps that of two optimizers, each with holes for the other's parameters."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build(16)
    like = abstract_state(
        partial(LanguageModel().init, MODEL), Optimizer("muon").build(STEPS), mesh
    )
    kernel = like.params["blocks"]["mlp"]["in"]["kernel"]
    (momentum,) = [leaf for leaf in jax.tree.leaves(like.opt_state) if leaf.shape == kernel.shape]
    assert momentum.sharding == kernel.sharding
    table = like.params["embedding"]["table"]
    averages = [leaf for leaf in jax.tree.leaves(like.opt_state) if leaf.shape == table.shape]
    assert [average.sharding for average in averages] == [table.sharding] * 2


def test_parameters_and_averages_are_born_divided():
    mesh = MeshConfig(data=1, fsdp=4, tensor=2).build(16)
    optimizer = Optimizer().build(STEPS)
    init = partial(LanguageModel().init, MODEL)
    state = create_state(init, optimizer, mesh, jax.random.key(0))
    like = abstract_state(init, optimizer, mesh)
    assert jax.tree.map(lambda a: a.sharding, like) == jax.tree.map(lambda a: a.sharding, state)
    kernel = state.params["blocks"]["mlp"]["in"]["kernel"]
    assert kernel.shape == (2, 8, 32)
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 2, 16)}
    averages = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert len(averages) == 2
    assert all(average.sharding == kernel.sharding for average in averages)


def test_a_batch_without_a_single_target_changes_nothing_but_the_count():
    mesh = one_device()
    config = Optimizer(weight_decay=0.0)
    optimizer = config.build(STEPS)
    state = create_state(partial(LanguageModel().init, MODEL), optimizer, mesh, jax.random.key(0))
    loss = partial(LanguageModel().loss, MODEL)
    step = make_train_step(loss, optimizer, config.learning_rates(STEPS), jax.random.key(1))
    nothing = batch(0) | {"mask": np.zeros((16, 12), bool)}
    after, metrics = jax.jit(step)(state, nothing)
    assert metrics["loss"] == 0
    assert metrics["weight"] == 0
    assert after.step == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
