"""Random starts: proper distributions, the same for a key, and good enough for EM to go on from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.models.hmm_fit import fit_em
from jaxseq.models.hmm_start import random_categorical, random_gaussian


def clusters():
    """Four ragged sequences that jump between three clumps; NaN in the padding."""
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    observations = centres[rng.integers(0, 3, (4, 30))] + 0.1 * rng.normal(size=(4, 30, 2))
    lengths = np.array([30, 20, 0, 5])
    observations[np.arange(30)[None] >= lengths[:, None]] = np.nan
    return observations, lengths, centres


def test_categorical_rows_are_distributions_and_follow_the_key():
    hmm = random_categorical(jax.random.key(0), 3, 5)
    rows = (hmm.initial[None], hmm.transitions, hmm.emission.log_probs)
    for row in rows:
        np.testing.assert_allclose(jnp.exp(row).sum(axis=-1), 1.0, rtol=1e-5)
    assert not np.allclose(hmm.emission.log_probs[0], hmm.emission.log_probs[1])
    again, other = (random_categorical(jax.random.key(seed), 3, 5) for seed in (0, 1))
    np.testing.assert_array_equal(again.transitions, hmm.transitions)
    assert not np.allclose(other.transitions, hmm.transitions)


@pytest.mark.parametrize("covariance", ["full", "diagonal", "tied"])
def test_em_finds_clumps_from_a_random_start(covariance):
    observations, lengths, centres = clusters()
    start = random_gaussian(jax.random.key(3), 3, observations, lengths, covariance=covariance)
    # One mean lies in each clump already.
    gaps = np.linalg.norm(np.asarray(start.emission.means)[:, None] - centres[None], axis=-1)
    assert sorted(gaps.argmin(axis=1)) == [0, 1, 2]
    fit = fit_em(start, observations, lengths, num_steps=10)
    gaps = np.linalg.norm(np.asarray(fit.hmm.emission.means)[:, None] - centres[None], axis=-1)
    assert gaps.min(axis=1).max() < 0.2
    assert np.all(np.diff(fit.log_likelihoods) > -1e-3)


def test_equal_observations_are_enough_and_too_few_are_named():
    same = np.ones((1, 4, 2))
    assert random_gaussian(jax.random.key(0), 3, same).emission.means.shape == (3, 2)
    with pytest.raises(ValueError, match="4 observations cannot be the means of 5 states"):
        random_gaussian(jax.random.key(0), 5, same)
