"""The mixture of writing and copying: against its twin, at its limits, over padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity

from jaxseq.ops.copying import (
    Mixture,
    copy_probabilities,
    mixture_cross_entropy,
    mixture_log_probs,
)
from jaxseq.reference import copying as reference

VOCAB, SIZE = 5, 9
# Row 0: 2 stands twice, 7 is no word of the vocabulary; row 1: its last place is padding.
NUMBERS = np.array([[2, 7, 2, 4], [8, 1, 8, 3]], np.int32)
TARGETS = np.array([[2, 7, 0], [8, 3, 1]], np.int32)
MASK = np.array([[True, True, True], [True, False, True]])


def draw() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, gates, and weights that are 0 at the last place of row 1."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(4), (2, 3))
    weights[1, :, 3] = 0
    return 2 * rng.normal(size=(2, 3, VOCAB)), rng.normal(size=(2, 3)), weights


def loss(logits, gate, weights, numbers=NUMBERS, targets=TARGETS, mask=MASK):
    arrays = map(jnp.asarray, (numbers, targets, mask))
    return mixture_cross_entropy(Mixture(logits, gate), weights, *arrays)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_equals_twin(dtype: str) -> None:
    check_parity(
        loss,
        lambda *arrays: reference.mixture_cross_entropy(*arrays, NUMBERS, TARGETS, MASK),
        *draw(),
        dtype=dtype,
    )


def test_log_probs_equal_twin_and_are_those_of_the_loss() -> None:
    with jax.enable_x64(True):

        @jax.jit
        def both(logits, gate, weights):
            mixture, numbers = Mixture(logits, gate), jnp.asarray(NUMBERS)
            log_probs = mixture_log_probs(mixture, weights, numbers, SIZE)
            return log_probs, loss(logits, gate, weights)

        found, (total, count) = both(*map(jnp.asarray, draw()))
    expected = reference.mixture_probabilities(*map(np.asarray, draw()), NUMBERS, SIZE)
    found = np.asarray(found)
    assert_close(np.exp(found), expected, "float64")
    # What a row does not see is lacking to 1; row 0 sees all.
    np.testing.assert_allclose(np.exp(found[0]).sum(-1), 1, rtol=1e-12)
    at_targets = np.take_along_axis(found, TARGETS[..., None], axis=-1)[..., 0]
    assert float(total) == pytest.approx(-at_targets[MASK].sum(), rel=1e-12)
    assert float(count) == 5
    # Neither written nor copied: no word of the vocabulary, and in no place of row 0.
    assert np.isneginf(found[0, :, [5, 6, 8]]).all()


def test_the_same_word_at_two_places_has_the_weight_of_both() -> None:
    weights = jnp.array([[[0.25, 0.5, 0.125, 0.125]]])
    found = jax.jit(copy_probabilities, static_argnums=2)(weights, jnp.array([[2, -1, 2, 11]]), 4)
    # Negative numbers and those from the size on are left out.
    np.testing.assert_array_equal(found, [[[0, 0, 0.375, 0]]])


def test_extremes_stay_finite_and_keep_the_side_that_gives_something() -> None:
    logits = jnp.array([[[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]]])
    gate = jnp.array([[200.0, 200.0, -200.0]])
    weights = jnp.array([[[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]])
    # The first target stands where nothing looks at it.
    numbers, targets = jnp.array([[0, 4]]), jnp.array([[0, 4, 2]])

    def total(logits, gate, weights):
        mask = jnp.ones((1, 3), bool)
        return mixture_cross_entropy(Mixture(logits, gate), weights, numbers, targets, mask)[0]

    both = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    value, gradient = both(logits, gate, weights)
    # Written for sure; copied, at odds of exp(-200), with half the weight; written, at those odds.
    assert float(value) == pytest.approx(0 + 200 + np.log(2) + 200 + np.log(3), rel=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in gradient)
    np.testing.assert_allclose(gradient[1][0], [0, 1, -1], atol=1e-6)
    np.testing.assert_allclose(gradient[2][0, 1], [0, -2], atol=1e-6)


def test_what_stands_in_the_padding_changes_nothing() -> None:
    logits, gate, weights = (jnp.asarray(x, jnp.float32) for x in draw())

    @jax.jit
    def both(logits, gate, weights, numbers, targets):
        def total(*arrays):
            return loss(*arrays, numbers, targets)[0]

        return jax.value_and_grad(total, argnums=(0, 1, 2))(logits, gate, weights)

    expected = both(logits, gate, weights, NUMBERS, TARGETS)
    junk = tuple(
        jnp.asarray(np.where(MASK if x.ndim == 2 else MASK[..., None], x, value), jnp.float32)
        for x, value in ((logits, np.nan), (gate, np.inf), (weights, np.nan))
    )
    for number in (-3, 10**6):
        targets = np.where(MASK, TARGETS, number).astype(np.int32)
        numbers = NUMBERS.copy()
        numbers[1, 3] = number
        assert_same(both(*junk, numbers, targets), expected)


def test_a_size_below_the_vocabulary_is_refused() -> None:
    logits, gate, weights = map(jnp.asarray, draw())
    with pytest.raises(ValueError, match="size is 4; the vocabulary alone has 5"):
        mixture_log_probs(Mixture(logits, gate), weights, jnp.asarray(NUMBERS), 4)
