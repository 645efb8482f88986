"""Recurrent layers: parity with the twins, streaming, initial values, state dropout."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity, random_params

from jaxseq.nn.concat_elman import ConcatElman
from jaxseq.nn.recurrent import GRU, LSTM, Elman
from jaxseq.reference import recurrent as reference

B, T, D, F = 3, 4, 3, 4
X = np.random.default_rng(0).normal(size=(B, T, D))
LENGTHS = np.array([T, 0, 2])

# Layer and twin(params, x, carry, lengths).
LAYERS = {
    "elman": (
        Elman(F),
        lambda params, x, *rest, **how: reference.elman(
            *(x, params["kernel"], params["recurrent_kernel"], params["bias"], *rest), **how
        ),
    ),
    "elman with output": (
        Elman(F, activation="sigmoid", output_features=5),
        partial(reference.elman_with_output, activation="sigmoid"),
    ),
    "concatenated elman": (ConcatElman(F, num_classes=5), reference.concat_elman),
    "lstm": (
        LSTM(F),
        lambda params, x, *rest, **how: reference.lstm(
            *(x, params["kernel"], params["recurrent_kernel"], params["bias"], *rest), **how
        ),
    ),
    "gru": (
        GRU(F),
        lambda params, x, carry=None, lengths=None, **how: reference.gru(
            x, **params, carry=carry, lengths=lengths, **how
        ),
    ),
}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_twin(name: str, reverse: bool) -> None:
    layer, twin = LAYERS[name]
    carry = jax.tree.map(lambda s: np.full(s.shape, 0.3), layer.zero_carry(B))

    def ours(params, x, carry):
        return layer.apply({"params": params}, x, carry, jnp.asarray(LENGTHS), reverse=reverse)

    def theirs(params, x, carry):
        return twin(params, x, carry, LENGTHS, reverse=reverse)

    check_parity(ours, theirs, random_params(layer, jnp.asarray(X)), X, carry, dtype="float64")


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("name", ["elman with output", "concatenated elman"])
def test_equals_twin_in_less_precision(name: str, dtype: str) -> None:
    layer, twin = LAYERS[name]
    params = random_params(layer, jnp.asarray(X))
    check_parity(lambda p, x: layer.apply({"params": p}, x), twin, params, X, dtype=dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_step_by_step_is_the_sequence(name: str) -> None:
    layer, _ = LAYERS[name]
    x = jnp.asarray(X, jnp.float32)
    params = {"params": random_params(layer, x)}
    params = jax.tree.map(partial(jnp.asarray, dtype="float32"), params)
    y, last = jax.jit(layer.apply)(params, x)
    step = jax.jit(partial(layer.apply, method="step"))
    carry = layer.zero_carry(B)
    for t in range(T):
        y_t, carry = step(params, x[:, t], carry)
        assert_close(y_t, y[:, t], "float32")
    assert_close(carry, last, "float32")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["elman with output", "concatenated elman"])
def test_padding_matters_to_nothing(name: str, reverse: bool) -> None:
    layer, _ = LAYERS[name]
    x, lengths = jnp.asarray(X, jnp.float32), jnp.asarray(LENGTHS)
    padding = jnp.arange(T)[None, :, None] >= lengths[:, None, None]
    params = jax.tree.map(partial(jnp.asarray, dtype="float32"), random_params(layer, x))

    @jax.jit
    def run(params, x):
        def function(params, x):
            return layer.apply({"params": params}, x, None, lengths, reverse=reverse)

        output, pullback = jax.vjp(function, params, x)
        return output, pullback(jax.tree.map(jnp.ones_like, output))

    clean = run(params, jnp.where(padding, 0, x))
    assert_same(run(params, jnp.where(padding, jnp.nan, x)), clean)
    assert not np.any(clean[0][0], where=np.asarray(padding))
    assert not np.any(clean[1][1], where=np.asarray(padding))


def test_concatenated_elman_gives_log_probabilities() -> None:
    layer, x = LAYERS["concatenated elman"][0], jnp.asarray(X, jnp.float32)
    (y, _), _ = jax.jit(layer.init_with_output)(jax.random.key(0), x)
    assert_close(jnp.exp(y).sum(axis=-1), np.ones((B, T)), "float32")


@pytest.mark.parametrize(("layer", "gates"), [(Elman(F), 1), (GRU(F), 3), (LSTM(F), 4)])
def test_initial_values(layer: nn.Module, gates: int) -> None:
    params = nn.unbox(jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 1, D))))["params"]
    blocks = jnp.split(params["recurrent_kernel"], gates, axis=1)
    for block in blocks:
        assert_close(block @ block.T, np.eye(F), "float32")
    assert len({float(block[0, 0]) for block in blocks}) == gates
    bias = np.zeros(gates * F)
    if gates == 4:
        bias[F : 2 * F] = 1  # the forget gate
    np.testing.assert_array_equal(params["bias"], bias)


@pytest.mark.parametrize("cell", [Elman, LSTM, GRU])
def test_state_dropout_uses_one_mask_for_a_whole_sequence(cell: type[nn.Module]) -> None:
    layer = cell(F, state_dropout_rate=0.5, deterministic=False)
    x, key = jnp.zeros((1, T, D)), jax.random.key(4)
    params = {"params": random_params(layer.clone(deterministic=True), x)}
    params = jax.tree.map(partial(jnp.asarray, dtype="float32"), params)
    y, _ = layer.apply(params, x, rngs={"dropout": key})

    @jax.jit
    def scaled(mask: jax.Array) -> jax.Array:
        kernel = mask[:, None] * params["params"]["recurrent_kernel"]
        by_hand = {"params": {**params["params"], "recurrent_kernel": kernel}}
        return layer.clone(deterministic=True).apply(by_hand, x)[0]

    masks = [jnp.array(np.unravel_index(i, (2,) * F)) * 2.0 for i in range(2**F)]
    same = [bool(jnp.allclose(scaled(mask), y, atol=1e-6)) for mask in masks]
    assert same.count(True) == 1
    assert 0 < masks[same.index(True)].sum() < 2 * F
    assert_same(jax.jit(layer.clone(deterministic=True).apply)(params, x)[0], scaled(jnp.ones(F)))
