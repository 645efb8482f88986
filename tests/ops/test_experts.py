"""Routing and dispatch against their twins."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import check_parity

from jaxseq.ops import experts as ops
from jaxseq.reference import experts as reference

COUNT = 4
KINDS = ["float64", "float32"]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def choose(rows: int, length: int, per_token: int, seed: int = 0) -> np.ndarray:
    """Different experts for each token, the first ones more often."""
    scores = draw(rows, length, COUNT, seed=seed) - np.arange(COUNT)[None, None]
    return np.argsort(-scores, axis=2)[:, :, :per_token].astype(np.int32)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("per_token", [1, 2, 4])
def test_route_equals_twin(per_token: int, dtype: str) -> None:
    logits = 2 * draw(3, 3, COUNT)
    check_parity(
        lambda logits: ops.route(logits, per_token)[::2],
        lambda logits: reference.route(logits, per_token)[::2],
        logits,
        dtype=dtype,
    )
    found = ops.route(jnp.asarray(logits, jnp.float32), per_token)[1]
    np.testing.assert_array_equal(found, reference.route(logits, per_token)[1])


def test_equal_experts_are_chosen_in_order() -> None:
    logits = np.array([[[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    for experts in (ops.route(jnp.asarray(logits), 2)[1], reference.route(logits, 2)[1]):
        np.testing.assert_array_equal(experts, [[[1, 2], [0, 1]]])


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("per_token", [1, 2])
def test_balance_loss_equals_twin(per_token: int, dtype: str) -> None:
    experts, valid = choose(3, 5, per_token), np.arange(15).reshape(3, 5) % 3 != 1
    valid[1] = False
    check_parity(
        lambda p: ops.balance_loss(p, jnp.asarray(experts), jnp.asarray(valid)),
        lambda p: np.asarray(reference.balance_loss(p, experts, valid)),
        np.exp(draw(3, 5, COUNT)),
        dtype=dtype,
    )


def test_balance_loss_is_one_in_balance_and_grows_to_the_number_of_experts() -> None:
    loss = jax.jit(ops.balance_loss)

    def of_a_token(logits: np.ndarray, per_token: int) -> float:
        _, experts, p = ops.route(jnp.asarray(logits, jnp.float32)[None], per_token)
        return float(loss(p, experts)) / len(logits)

    # Each expert for two tokens of eight; five tokens for the first; all eight.
    preferred = [np.arange(8) % COUNT, np.maximum(np.arange(8) - 4, 0), np.zeros(8, int)]
    losses = [of_a_token(30.0 * np.eye(COUNT)[experts], 1) for experts in preferred]
    np.testing.assert_allclose(losses, [1.0, 4 * (25 + 3) / 64, 4.0], rtol=1e-6)
    assert losses == sorted(losses)
    # Two choices a token, both halves of the experts alike.
    halves = np.array([[9.0, 9.0, 0, 0], [0, 0, 9.0, 9.0]])
    np.testing.assert_allclose(of_a_token(halves, 2), 1.0, rtol=1e-6)


def test_balance_loss_of_padding_alone_is_zero() -> None:
    p = jnp.full((1, 3, COUNT), jnp.nan)
    valid = jnp.zeros((1, 3), bool)
    experts = jnp.asarray(choose(1, 3, 2))
    value, gradient = jax.value_and_grad(ops.balance_loss)(p, experts, valid)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((1, 3, COUNT)))


@partial(jax.jit, static_argnums=2)
def kept_and_dispatched(experts: jax.Array, valid: jax.Array | None, factor: float) -> tuple:
    """(the choices that are taken, their places), in slots where there is a capacity."""
    rows, length, per_token = experts.shape
    slots = rows * ops.capacity(factor, per_token, COUNT, length)
    kept = ops.kept_choices(experts, valid, COUNT, factor or 9.0)
    chosen = jnp.where(kept, experts, COUNT).reshape(-1, per_token)
    return kept, ops.dispatch(chosen, COUNT, slots)[:3]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.1, 1.5, 9.0])
def test_dispatch_keeps_what_the_twin_keeps(factor: float, padded: bool) -> None:
    for seed in range(5):
        for per_token in (1, 2):
            experts = choose(2, 10, per_token, seed)
            valid = draw(2, 10, seed=seed) > -0.5 if padded else np.ones((2, 10), bool)
            expected = reference.kept_choices(experts, valid, COUNT, factor)
            where = jnp.asarray(valid) if padded else None
            found = kept_and_dispatched(jnp.asarray(experts), where, factor)
            kept, (choice_of_row, row_of_choice, sizes) = jax.tree.map(np.asarray, found)
            np.testing.assert_array_equal(kept, expected)
            rows, kept = len(choice_of_row), kept.reshape(20, per_token)
            np.testing.assert_array_equal((row_of_choice < rows).reshape(per_token, 20).T, kept)
            expert = experts.reshape(20, per_token)
            np.testing.assert_array_equal(sizes, [np.sum(kept & (expert == e)) for e in range(4)])
            # There and back, at a row of the chosen expert.
            taken = np.flatnonzero(row_of_choice < rows)
            np.testing.assert_array_equal(choice_of_row[row_of_choice[taken]], taken)
            assert np.sum(choice_of_row < 20 * per_token) == len(taken)
            slots = rows // COUNT
            begin = slots * np.arange(COUNT) if factor else np.cumsum(sizes) - sizes
            expert = expert.T.reshape(-1)[taken]
            assert np.all(row_of_choice[taken] >= begin[expert])
            assert np.all(row_of_choice[taken] < (begin + sizes)[expert])
            if factor == 0.3:
                assert np.sum(kept) < 20 * per_token / 2


def test_first_choices_come_before_second_ones() -> None:
    # Expert 0 is the second choice of tokens 0 and 1, and the first of tokens 2 and 3.
    experts = np.array([[[1, 0], [2, 0], [0, 1], [0, 2]]], np.int32)
    kept = ops.kept_choices(jnp.asarray(experts), None, COUNT, 1.0)
    np.testing.assert_array_equal(kept[0].T, [[True] * 4, [False, False, True, True]])


def test_experts_of_others_get_no_row() -> None:
    # A device with experts 2 and 3 counts them from 0 on; a token of k = 2 may want both.
    experts = choose(1, 10, 2)[0]
    places = ops.dispatch(jnp.asarray(experts - 2), 2)
    assert len(places.choice_of_row) == 20
    np.testing.assert_array_equal(places.sizes, [np.sum(experts == e) for e in (2, 3)])
    alone = ops.dispatch(jnp.asarray(experts - 3), 1)
    assert len(alone.choice_of_row) == 10, "a token wants an expert once at most"
    np.testing.assert_array_equal(alone.row_of_choice < 10, (experts == 3).T.reshape(-1))
