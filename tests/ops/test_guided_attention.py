"""Guided attention and diagonality: against their twins, over padding, and what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_same, check_parity

from jaxseq.ops.guided_attention import diagonality, guided_attention_loss
from jaxseq.reference import guided_attention as twin

FRAMES, TOKENS = np.array([5, 3, 4, 0]), np.array([3, 4, 0, 2])
FUNCTIONS = guided_attention_loss, diagonality
WEIGHTS = np.random.default_rng(0).uniform(size=(4, 6, 4))


def both(weights):
    lengths = jnp.asarray(FRAMES), jnp.asarray(TOKENS)
    loss = guided_attention_loss(weights, *lengths, width=0.3)
    return loss, diagonality(weights, *lengths, band=0.25)


def both_twins(weights):
    loss = twin.guided_attention_loss(weights, FRAMES, TOKENS, width=0.3)
    return loss, twin.diagonality(weights, FRAMES, TOKENS, band=0.25)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equal_twins(dtype: str) -> None:
    check_parity(both, both_twins, WEIGHTS, dtype=dtype)


def test_what_stands_in_the_padding_changes_nothing() -> None:
    @jax.jit
    def value_and_gradient(weights):
        value, pullback = jax.vjp(both, weights)
        return value, pullback(jax.tree.map(jnp.ones_like, value))

    frames, tokens = np.arange(6)[None, :, None], np.arange(4)[None, None]
    valid = (frames < FRAMES[:, None, None]) & (tokens < TOKENS[:, None, None])
    expected = value_and_gradient(jnp.float32(np.where(valid, WEIGHTS, 0)))
    assert_same(value_and_gradient(jnp.float32(np.where(valid, WEIGHTS, np.nan))), expected)
    np.testing.assert_array_equal(expected[0][1][2:], 0)  # rows of no tokens, of no frames


def test_the_diagonal_costs_least_and_the_other_one_most() -> None:
    diagonal = np.repeat(np.eye(50), 3, axis=0)
    weights = jnp.float32(np.stack([diagonal, np.full((150, 50), 0.02), diagonal[:, ::-1]]))
    lengths = jnp.full(3, 150), jnp.full(3, 50)

    @jax.jit
    @jax.vmap
    def costs_and_shares(*row):
        (cost, frames), (share,) = (f(*(x[None] for x in row)) for f in FUNCTIONS)
        return cost / frames, share

    costs, shares = costs_and_shares(weights, *lengths)
    np.testing.assert_allclose(shares, [1, 2 * 0.2 - 0.2**2, 0.2], atol=0.01)
    assert costs[0] < 1e-3 < 0.4 < costs[1] < 0.6 < costs[2] < 1
