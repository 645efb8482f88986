"""Best paths, k best paths and samples of a chain, against every path written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_cases import assert_log_close, on_device, ragged
from compare import VALUE_TOLERANCES, assert_same

from jaxseq.ops.chain import Chain, Method, node_marginals, score
from jaxseq.ops.chain_paths import k_best, sample, viterbi
from jaxseq.reference import chain as reference

best_path = jax.jit(viterbi, static_argnames="method")
best_paths = jax.jit(k_best, static_argnums=1)
draw_paths = jax.jit(sample, static_argnums=2)


@pytest.mark.parametrize("method", ["scan", "associative"])
@pytest.mark.parametrize("per_step", [False, True], ids=["shared", "per step"])
def test_viterbi_equals_twin(per_step: bool, method: Method) -> None:
    chain = ragged(per_step=per_step)
    best = partial(best_path, method=method)
    states, scores = best(on_device(chain))
    assert_same(best(on_device(ragged(per_step=per_step, junk=False))), (states, scores))
    expected, best_scores = reference.viterbi(chain)
    assert_log_close(scores, best_scores, 1e-5)
    possible = best_scores > -np.inf
    np.testing.assert_array_equal(np.asarray(states)[possible], expected[possible])
    assert 0 <= np.min(states) <= np.max(states) < 3


def test_viterbi_keeps_its_digits_over_ten_thousand_steps() -> None:
    # Scores in the millions, where float32 numbers are a quarter apart; single steps are exact.
    rng = np.random.default_rng(0)
    emissions, transitions = (rng.integers(-64, 65, size) / 64 for size in [(1, 10_000, 4), (4, 4)])
    chain = on_device(Chain(300 + emissions, transitions))
    exact = [*map(np.asarray, chain[:2]), None, None, None]
    for method in ("auto", "scan"):
        states, scores = best_path(chain, method=method)
        expected, best = reference.viterbi(exact)
        np.testing.assert_array_equal(states, expected)
        assert_log_close(scores, best, 1e-6)


@pytest.mark.parametrize("method", ["scan", "associative"])
def test_equal_paths_give_one_of_them(method: Method) -> None:
    states, scores = best_path(Chain(jnp.zeros((2, 5, 3)), jnp.zeros((3, 3))), method=method)
    np.testing.assert_array_equal(states, np.zeros((2, 5)))
    np.testing.assert_array_equal(scores, np.zeros(2))


@pytest.mark.parametrize("k", [1, 2, 5, 12, 17])
@pytest.mark.parametrize("per_step", [False, True], ids=["shared", "per step"])
def test_k_best_equals_enumeration(per_step: bool, k: int) -> None:
    chain = ragged(per_step=per_step)
    paths, scores = best_paths(on_device(chain), k)
    expected, best_scores = reference.enumerated_k_best(chain, k)
    assert_log_close(scores, best_scores, VALUE_TOLERANCES["float32"])
    for found, best in zip(np.asarray(paths), expected, strict=True):
        assert np.all((found >= 0) & (found < 3))
        count, length = best.shape
        np.testing.assert_array_equal(found[:count, :length], best)
        np.testing.assert_array_equal(found[:count, length:], 0)


@pytest.mark.parametrize("k", [5, 20])
def test_k_best_of_equal_paths_are_distinct(k: int) -> None:
    emissions = jnp.zeros((1, 3, 3)).at[0, 1, 2].set(-1.0)
    paths, scores = best_paths(Chain(emissions, jnp.zeros((3, 3))), k)
    assert len({tuple(path) for path in np.asarray(paths[0])}) == k
    np.testing.assert_array_equal(np.sort(scores[0])[::-1], scores[0])
    assert np.sum(np.asarray(scores) == 0) == min(k, 18)


def test_k_best_refuses_less_than_one() -> None:
    with pytest.raises(ValueError, match="k must be at least 1"):
        k_best(Chain(jnp.zeros((1, 2, 2)), jnp.zeros((2, 2))), 0)


@pytest.mark.parametrize("per_step", [False, True], ids=["shared", "per step"])
def test_samples_have_the_exact_probabilities(per_step: bool) -> None:
    """Whole paths, by a chi-square test at one in 10,000."""
    chain = ragged(per_step=per_step)
    draws = 4000
    samples = draw_paths(jax.random.key(0), on_device(chain), draws)
    samples = np.asarray(samples)
    for b, sequence in enumerate(reference.sequences(chain)):
        length = len(sequence.emissions)
        np.testing.assert_array_equal(samples[:, b, length:], 0)
        assert np.all((samples[:, b] >= 0) & (samples[:, b] < 3))
        paths, scores = reference.paths(sequence)
        p = reference.probabilities(scores)
        if length == 0 or not p.any():
            continue
        places = np.sum(samples[:, b, :length] * 3 ** np.arange(length)[::-1], axis=1)
        counts = np.bincount(places, minlength=len(paths))
        assert np.all(counts[p == 0] == 0)
        # Cells that expect less than 5 are taken together.
        common = p * draws >= 5
        seen = np.append(counts[common], counts[~common].sum())
        expected = np.append(p[common], p[~common].sum()) * draws
        seen, expected = seen[expected > 1], expected[expected > 1]
        statistic = np.sum((seen - expected) ** 2 / expected)
        degrees = max(len(seen) - 1, 1)
        # Wilson and Hilferty 1931: the cube root of a chi-square is nearly normal.
        spread = 2 / (9 * degrees)
        assert statistic < degrees * (1 - spread + 3.72 * spread**0.5) ** 3


def test_samples_of_a_long_chain_have_its_marginals() -> None:
    rng = np.random.default_rng(4)
    chain = on_device(Chain(rng.normal(size=(1, 60, 5)), rng.normal(size=(5, 5))))
    samples = draw_paths(jax.random.key(1), chain, 2000)
    frequencies = np.mean(np.asarray(samples)[..., None] == np.arange(5), axis=0)
    assert np.max(np.abs(frequencies - jax.jit(node_marginals)(chain))) < 4.5 * 0.5 / 2000**0.5


def test_no_allowed_path_gives_minus_infinity_and_states_in_range() -> None:
    chain = Chain(jnp.zeros((2, 3, 4)), jnp.full((4, 4), -jnp.inf))
    for states, scores in (best_path(chain), best_paths(chain, 3)):
        assert np.all(np.asarray(scores) == -np.inf)
        assert 0 <= np.min(states) <= np.max(states) < 4
    samples = draw_paths(jax.random.key(0), chain, 2)
    assert 0 <= np.min(samples) <= np.max(samples) < 4


def test_score_of_a_forbidden_path_has_finite_gradients() -> None:
    chain = on_device(ragged())
    states = jnp.ones((7, 4), jnp.int32).at[:, 0].set(0)  # 0 to 1 is forbidden
    value, gradient = jax.jit(
        jax.value_and_grad(lambda p, states: jnp.sum(score(Chain(*p, chain.lengths), states)))
    )(chain[:4], states)
    assert value == -np.inf
    assert all(np.isfinite(each).all() for each in gradient)
    assert jax.jit(score)(chain, jnp.full((7, 4), 3))[0] == -np.inf
