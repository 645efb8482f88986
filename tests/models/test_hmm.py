"""Inference in hidden Markov models against enumeration and the twin."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity
from small_hmm import KINDS, LENGTHS, STATES, draw, rows, to_jax, twin_emission, twin_potentials

from jaxseq.models import hmm as hidden
from jaxseq.models.hmm import HMM, CategoricalEmission
from jaxseq.models.hmm_neural import AutoregressiveGaussian, NeuralEmission
from jaxseq.reference import hmm as reference


@jax.jit
def infer(hmm, observations, lengths, labels):
    given = hmm, observations, lengths, labels
    states, scores = hidden.viterbi(*given)
    return {
        "log_likelihood": hidden.log_likelihood(*given),
        "filtered": hidden.filtered(*given),
        "smoothed": hidden.smoothed(*given),
        "states": states,
        "scores": scores,
    }


def infer_by_twin(hmm: HMM, observations: np.ndarray) -> dict[str, np.ndarray]:
    """The same from the twin, sequence by sequence; checked against enumeration on the way."""
    batch, steps = observations.shape[:2]
    found = {
        "log_likelihood": np.zeros(batch),
        "filtered": np.zeros((batch, steps, STATES)),
        "smoothed": np.zeros((batch, steps, STATES)),
        "states": np.zeros((batch, steps), int),
        "scores": np.zeros(batch),
    }
    for b, sequence in enumerate(rows(observations)):
        if not (length := len(sequence)):
            continue
        potentials = twin_potentials(hmm, sequence)
        found["log_likelihood"][b] = reference.log_likelihood(*potentials)
        found["filtered"][b, :length] = reference.filtered(*potentials)
        found["smoothed"][b, :length] = reference.smoothed(*potentials)
        found["states"][b, :length], found["scores"][b] = reference.viterbi(*potentials)
        paths, scores = reference.every_path(*potentials)
        total = reference.logsumexp(scores, axis=0)
        shares = np.exp(scores - total)
        at = paths[:, :, None] == np.arange(STATES)
        nodes = np.einsum("n,ntc->tc", shares, at)
        np.testing.assert_allclose(found["log_likelihood"][b], total, rtol=1e-12)
        np.testing.assert_allclose(found["smoothed"][b, :length], nodes, atol=1e-12)
        np.testing.assert_array_equal(found["states"][b, :length], paths[np.argmax(scores)])
    return found


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, "float64") for kind in KINDS), ("full", "float32")]
)
def test_inference_equals_twin_and_enumeration(kind: str, dtype: str) -> None:
    hmm, observations = draw(kind)
    expected = infer_by_twin(hmm, observations)
    with jax.enable_x64(dtype == "float64"):
        arguments = to_jax((hmm, observations, LENGTHS), dtype)
        found = infer(*arguments, None)
    assert found["smoothed"].dtype == dtype
    assert_close(found, expected, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_log_likelihood_equals_twin(kind: str) -> None:
    hmm, observations = draw(kind)
    clean = np.nan_to_num(observations) if kind != "categorical" else observations

    def ours(hmm):
        return hidden.log_likelihood(hmm, jnp.asarray(observations), jnp.asarray(LENGTHS))

    def twin(hmm):
        each = [twin_potentials(hmm, sequence) for sequence in rows(clean)]
        return np.array([reference.log_likelihood(*potentials) for potentials in each])

    check_parity(ours, twin, hmm, dtype="float64")


def test_batch_equals_each_sequence_alone() -> None:
    hmm, observations = to_jax(draw("diagonal"), "float32")
    together = infer(hmm, observations, jnp.asarray(LENGTHS), None)
    for b, length in enumerate(LENGTHS):
        alone = infer(hmm, observations[b : b + 1], jnp.asarray([length]), None)
        assert_close(alone, jax.tree.map(lambda x, b=b: x[b : b + 1], together), "float32")


def test_labels_clamp_states() -> None:
    hmm, observations = draw("categorical")
    labels = np.full(observations.shape, -1)
    labels[0, 1:4] = [2, 0, 1]
    labels[3, 3] = 1
    labels[1, 1:] = 99  # padding
    with jax.enable_x64(True):
        arguments = to_jax((hmm, observations, LENGTHS), "float64")
        found = infer(*arguments, jnp.asarray(labels))
    for b, sequence in enumerate(rows(observations)):
        if not len(sequence):
            continue
        paths, scores = reference.every_path(*twin_potentials(hmm, sequence))
        known = labels[b, : len(sequence)]
        scores = scores[np.all((known < 0) | (paths == known), axis=1)]
        expected = reference.logsumexp(scores, axis=0)
        np.testing.assert_allclose(found["log_likelihood"][b], expected, rtol=1e-12)
    np.testing.assert_allclose(found["smoothed"][0, 1:4], np.eye(STATES)[[2, 0, 1]], atol=1e-12)
    np.testing.assert_array_equal(found["states"][0, 1:4], [2, 0, 1])


def test_impossible_observation_has_no_likelihood_and_finite_gradient() -> None:
    hmm, observations = to_jax(draw("categorical"), "float32")
    never = hmm.emission.log_probs.at[:, 2].set(-jnp.inf)
    hmm = hmm._replace(emission=CategoricalEmission(never))
    observations = jnp.minimum(observations, 1).at[0, 3].set(2)
    found = infer(hmm, observations, jnp.asarray(LENGTHS), None)
    assert found["log_likelihood"][0] == -jnp.inf
    assert np.isfinite(found["log_likelihood"][1:]).all()
    assert_same(found["smoothed"][0], jnp.zeros_like(found["smoothed"][0]))

    def total(hmm):
        return jnp.sum(hidden.log_likelihood(hmm, observations, jnp.asarray(LENGTHS)))

    for leaf in jax.tree.leaves(jax.jit(jax.grad(total))(hmm)):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("kind", ["categorical", "full", "diagonal", "tied"])
def test_forecast_equals_enumeration(kind: str) -> None:
    hmm, observations = draw(kind)
    with jax.enable_x64(True):
        arguments = to_jax((hmm, observations, LENGTHS), "float64")
        states, future = jax.jit(partial(hidden.forecast, num_steps=3))(*arguments)
    moves = np.exp(hmm.transitions)
    expected = np.zeros((len(LENGTHS), 3, STATES))
    for b, sequence in enumerate(rows(observations)):
        at = np.exp(hmm.initial)
        if len(sequence):
            at = reference.filtered(*twin_potentials(hmm, sequence))[-1] @ moves
        for h in range(3):
            expected[b, h], at = at, at @ moves
    assert_close(states, expected, "float64")
    if kind == "categorical":
        assert_close(future, expected @ np.exp(hmm.emission.log_probs), "float64")
        return
    means, covariances = twin_emission(hmm.emission)
    mean = expected @ means
    second = np.einsum("bhc,cij->bhij", expected, covariances)
    second += np.einsum("bhc,ci,cj->bhij", expected, means, means)
    covariance = second - mean[..., :, None] * mean[..., None, :]
    assert_close(future, (mean, covariance), "float64")


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_models_distribution(kind: str) -> None:
    hmm, _ = to_jax(draw(kind), "float32")
    hmm = hmm._replace(transitions=hmm.transitions.at[0, 1].set(-jnp.inf))
    hmm = hmm._replace(transitions=jax.nn.log_softmax(hmm.transitions, axis=-1))
    number = 40_000
    draw_many = jax.jit(partial(hidden.sample, num_sequences=number, num_steps=2))
    states, observations = draw_many(jax.random.key(0), hmm)
    pairs = np.zeros((STATES, STATES))
    np.add.at(pairs, tuple(np.asarray(states).T), 1 / number)
    expected = np.exp(np.asarray(hmm.initial)[:, None] + np.asarray(hmm.transitions))
    error = 5 * np.sqrt(0.25 / number)
    np.testing.assert_allclose(pairs, expected, rtol=0, atol=error)
    assert pairs[0, 1] == 0
    for c in range(STATES):
        seen = np.asarray(observations)[np.asarray(states) == c]
        if kind == "categorical":
            shares = np.bincount(seen, minlength=hmm.emission.log_probs.shape[1]) / len(seen)
            share_error = 5 * np.sqrt(0.25 / len(seen))
            np.testing.assert_allclose(shares, np.exp(hmm.emission.log_probs[c]), atol=share_error)
            continue
        means, covariances = twin_emission(hmm.emission)
        scale = np.max(np.linalg.eigvalsh(covariances[c]))
        close = 6 * scale * np.sqrt(2 / len(seen))
        np.testing.assert_allclose(seen.mean(axis=0), means[c], rtol=0, atol=close)
        np.testing.assert_allclose(np.cov(seen.T), covariances[c], rtol=0, atol=close)


def test_neural_emission_is_a_density_that_sees_only_the_past() -> None:
    module = AutoregressiveGaussian(num_states=2, hidden=3)
    observations = jax.random.normal(jax.random.key(0), (1, 4, 1))
    params = jax.jit(module.init)(jax.random.key(1), observations)
    apply = jax.jit(lambda params, x: module.apply(params, x))
    # On a fine grid of x_3 the densities sum to 1 in each state, and x_4 matters to none.
    grid = jnp.linspace(-9.0, 9.0, 2001)
    rows = jnp.broadcast_to(observations, (2001, 4, 1)).at[:, 2, 0].set(grid)
    rows = rows.at[:, 3, 0].set(jnp.nan)
    densities = jnp.exp(apply(params, rows)[:, 2])
    np.testing.assert_allclose(jnp.sum(densities, axis=0) * (grid[1] - grid[0]), 1, rtol=1e-4)
    emission = NeuralEmission(params, lambda params, x: module.apply(params, x))
    uniform = jnp.log(jnp.full((2, 2), 0.5))
    hmm = HMM(uniform[0], uniform, emission)
    lengths, junk = jnp.asarray([3]), observations.at[:, 3].set(jnp.nan)
    smooth = jax.jit(hidden.smoothed)
    assert_same(smooth(hmm, junk, lengths), smooth(hmm, observations, lengths))
    future = jax.jit(partial(hidden.forecast, num_steps=1))(hmm, junk, lengths)
    assert future.observations is None
    with pytest.raises(ValueError, match="NeuralEmission"):
        hidden.sample(jax.random.key(0), hmm, num_sequences=1, num_steps=1)
