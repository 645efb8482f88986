"""Learning hidden Markov models: EM against the twin's, labels against counts, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compare import assert_close, assert_same
from small_hmm import KINDS, LENGTHS, STATES, STEPS, SYMBOLS, draw, rows, to_jax, twin_emission

from jaxseq.errors import UserError
from jaxseq.models import hmm_fit
from jaxseq.models.hmm import HMM, CategoricalEmission, sample
from jaxseq.models.hmm_emissions import DiagonalGaussianEmission, Prior
from jaxseq.models.hmm_neural import AutoregressiveGaussian, NeuralEmission
from jaxseq.reference import hmm as reference

WITHOUT_FLOOR = Prior(variance_floor=0.0)


def twin_em(hmm: HMM, kind: str, sequences: list[np.ndarray], num_steps: int):
    """The twin's parameters after `num_steps`, and the log-likelihood before each."""
    parameters = np.asarray(hmm.initial), np.asarray(hmm.transitions), twin_emission(hmm.emission)
    course = []
    for _ in range(num_steps):
        *parameters, total = reference.em_step(*parameters, sequences, kind)
        course.append(total)
    return parameters, np.array(course)


@pytest.mark.parametrize("kind", KINDS)
def test_em_equals_twin_and_never_lowers_the_likelihood(kind: str) -> None:
    hmm, observations = draw(kind, seed=1)
    if kind != "categorical":  # enough observations that no covariance collapses
        observations = np.random.default_rng(2).normal(size=observations.shape)
        observations[0, 3:] += 3
        observations[np.arange(STEPS)[None] >= LENGTHS[:, None]] = np.inf
        covariance = hmm.emission[1]
        hmm = hmm._replace(emission=hmm.emission._replace(**{hmm.emission._fields[1]: covariance}))
    sequences = [row for row in rows(observations) if len(row)]
    num_steps = 3 if kind == "full" else 6
    (initial, transitions, emission), course = twin_em(hmm, kind, sequences, num_steps)
    with jax.enable_x64(True):
        start = to_jax(hmm, "float64")
        fit = hmm_fit.fit_em(start, observations, LENGTHS, num_steps=num_steps, prior=WITHOUT_FLOOR)
    assert np.all(np.diff(fit.log_likelihoods) >= 0)
    np.testing.assert_allclose(fit.log_likelihoods, course, rtol=1e-9)
    np.testing.assert_allclose(np.exp(fit.hmm.initial), np.exp(initial), atol=1e-8)
    np.testing.assert_allclose(np.exp(fit.hmm.transitions), np.exp(transitions), atol=1e-8)
    for found, expected in zip(twin_emission(fit.hmm.emission), emission, strict=True):
        np.testing.assert_allclose(np.exp(found), np.exp(expected), rtol=1e-6)


def test_em_is_monotone_in_float32_with_a_floor_and_offset_data() -> None:
    """Means a thousand deviations from zero, one state on a single point."""
    rng = np.random.default_rng(0)
    observations = 1000 + rng.normal(size=(3, 40, 2)).astype(np.float32)
    observations[:, ::5] = 1010.0
    emission = DiagonalGaussianEmission(
        jnp.asarray([[999.0, 1001.0], [1002.0, 1000.0], [1009.0, 1009.0]]), jnp.ones((3, 2))
    )
    uniform = jnp.log(jnp.full((3, 3), 1 / 3))
    start = HMM(uniform[0], uniform, emission)
    fit = hmm_fit.fit_em(start, observations, num_steps=30, prior=Prior(variance_floor=1e-2))
    course = np.asarray(fit.log_likelihoods, np.float64)
    assert np.all(np.diff(course) >= -1e-5 * np.abs(course[:-1]))
    variances = np.asarray(fit.hmm.emission.variances)
    np.testing.assert_allclose(variances[2], 1e-2, rtol=1e-5)
    assert np.all(variances[:2] > 0.1)


def test_raised_eigenvalues_keep_the_others() -> None:
    from jaxseq.models.hmm_emissions import _raise_eigenvalues

    flat = jnp.asarray([[[1.0, 1.0], [1.0, 1.0]], [[2.0, 0.5], [0.5, 1.0]]])
    raised = _raise_eigenvalues(flat, 0.1)
    np.testing.assert_allclose(np.linalg.eigvalsh(raised[0]), [0.1, 2.0], rtol=1e-5)
    assert_same(raised[1], flat[1])


def test_partly_labelled_em_clamps_and_is_monotone() -> None:
    hmm, observations = draw("categorical")
    labels = np.full(observations.shape, -1)
    labels[0] = [0, -1, 1, -1, 2]
    fit = hmm_fit.fit_em(to_jax(hmm, "float32"), observations, LENGTHS, labels, num_steps=8)
    assert np.all(np.diff(fit.log_likelihoods) >= -1e-5)
    assert fit.log_likelihoods[-1] > fit.log_likelihoods[0]


@pytest.mark.parametrize("kind", KINDS)
def test_fully_labelled_is_counting_and_one_em_step(kind: str) -> None:
    hmm, observations = draw(kind)
    hmm = to_jax(hmm, "float32")
    labels = np.add.outer(np.arange(len(LENGTHS)), np.array([0, 1, 2, 2, 0])) % STATES
    labels[np.arange(STEPS)[None] >= LENGTHS[:, None]] = -7
    fitted = hmm_fit.fit_labels(hmm, observations, labels, LENGTHS)
    clamped = hmm_fit.fit_em(hmm, observations, LENGTHS, labels, num_steps=1)
    assert_close(jax.tree.map(jnp.exp, fitted), jax.tree.map(jnp.exp, clamped.hmm), "float32")
    moves = np.zeros((STATES, STATES))
    for row in rows(labels):
        np.add.at(moves, (row[:-1], row[1:]), 1)
    seen = moves.sum(axis=1) > 0
    expected = moves[seen] / moves[seen].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(fitted.transitions)[seen], expected, atol=1e-6)
    starts = np.bincount([row[0] for row in rows(labels) if len(row)], minlength=STATES)
    np.testing.assert_allclose(np.exp(fitted.initial), starts / starts.sum(), atol=1e-6)
    at = np.concatenate(rows(labels))
    everything = np.concatenate(rows(observations))
    for c in range(STATES):
        if kind == "categorical":
            counts = np.bincount(everything[at == c], minlength=SYMBOLS)
            found = np.exp(fitted.emission.log_probs[c])
            np.testing.assert_allclose(found, counts / counts.sum(), atol=1e-6)
        else:
            found = fitted.emission.means[c]
            np.testing.assert_allclose(found, everything[at == c].mean(axis=0), rtol=1e-5)


def test_pseudocounts_fill_what_is_possible_alone() -> None:
    hmm, observations = to_jax(draw("categorical"), "float32")
    hmm = hmm._replace(
        transitions=jax.nn.log_softmax(hmm.transitions.at[0, 2].set(-jnp.inf), axis=-1)
    )
    labels = np.zeros(observations.shape, int)
    prior = Prior(transitions=0.5, symbols=1.0)
    fitted = hmm_fit.fit_labels(hmm, observations, labels, LENGTHS, prior=prior)
    np.testing.assert_allclose(np.exp(fitted.transitions[0]), [7.5 / 8, 0.5 / 8, 0], rtol=1e-6)
    np.testing.assert_allclose(np.exp(fitted.transitions[1]), np.full(3, 1 / 3), rtol=1e-6)
    counts = np.bincount(np.concatenate(rows(np.asarray(observations))), minlength=SYMBOLS) + 1.0
    found = np.exp(fitted.emission.log_probs[0])
    np.testing.assert_allclose(found, counts / counts.sum(), rtol=1e-6)


def test_one_minibatch_is_a_full_step_and_many_come_near_full_em() -> None:
    key = jax.random.key(0)
    true = HMM(
        jnp.log(jnp.asarray([0.5, 0.5])),
        jnp.log(jnp.asarray([[0.9, 0.1], [0.2, 0.8]])),
        DiagonalGaussianEmission(jnp.asarray([[-2.0], [2.0]]), jnp.ones((2, 1))),
    )
    _, observations = sample(key, true, num_sequences=32, num_steps=20)
    observations = np.asarray(observations)
    start = true._replace(
        emission=DiagonalGaussianEmission(jnp.asarray([[-0.5], [0.5]]), jnp.ones((2, 1)))
    )
    prior = Prior(transitions=2.0)
    once = hmm_fit.fit_em(start, observations, num_steps=1, prior=prior)
    batch = observations, None, None
    same = hmm_fit.fit_em_minibatch(start, [batch], num_sequences=32, prior=prior)
    assert_close(same, once, "float32")
    batches = [(observations[i : i + 8], None, None) for _ in range(5) for i in range(0, 32, 8)]
    fit = hmm_fit.fit_em_minibatch(start, batches, num_sequences=32)
    full = hmm_fit.fit_em(start, observations, num_steps=20)
    np.testing.assert_allclose(fit.hmm.emission.means, full.hmm.emission.means, atol=0.05)
    difference = np.exp(fit.hmm.transitions) - np.exp(full.hmm.transitions)
    assert np.abs(difference).max() < 0.05
    with pytest.raises(ValueError, match="decay"):
        hmm_fit.fit_em_minibatch(start, batches, num_sequences=32, decay=0.5)


@pytest.mark.parametrize("kind", [*KINDS, "neural"])
def test_gradient_descent_raises_the_likelihood(kind: str) -> None:
    hmm, observations = to_jax(draw("diagonal" if kind == "neural" else kind), "float32")
    if kind == "neural":
        module = AutoregressiveGaussian(num_states=STATES, hidden=4)
        params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 2, 2)))
        emission = NeuralEmission(params, lambda params, x: module.apply(params, x))
        hmm = hmm._replace(emission=emission)
        with pytest.raises(ValueError, match="NeuralEmission"):
            hmm_fit.fit_em(hmm, observations, LENGTHS)
    hmm = hmm._replace(
        transitions=jax.nn.log_softmax(hmm.transitions.at[0, 1].set(-jnp.inf), axis=-1)
    )
    free, constrained = hmm_fit.parametrise(hmm)
    if kind != "neural":
        assert_close(
            jax.tree.map(jnp.exp, constrained(free)), jax.tree.map(jnp.exp, hmm), "float32"
        )
    optimizer = optax.adam(3e-2)

    def loss(free):
        total, weight = hmm_fit.loss(constrained(free), observations, jnp.asarray(LENGTHS))
        return total / weight

    @jax.jit
    def train(free):
        def step(carry, _):
            free, state = carry
            value, gradient = jax.value_and_grad(loss)(free)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(free, updates), state), value

        (free, _), values = jax.lax.scan(step, (free, optimizer.init(free)), length=20)
        return free, values

    free, values = train(free)
    assert values[-1] < values[0] - 0.05
    trained = constrained(free)
    assert trained.transitions[0, 1] == -jnp.inf
    np.testing.assert_allclose(jnp.sum(jnp.exp(trained.transitions), axis=1), 1, rtol=1e-5)
    weight = jax.jit(
        lambda free: hmm_fit.loss(constrained(free), observations, jnp.asarray(LENGTHS))[1]
    )(free)
    assert weight == LENGTHS.sum()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("diagonal", {"x": np.nan}, r"sequence 3, position 2: .*finite"),
        ("diagonal", {"x": np.inf}, r"sequence 3, position 2: .*finite"),
        ("categorical", {"x": SYMBOLS}, rf"sequence 3, position 2: {SYMBOLS}; .*to {SYMBOLS - 1}"),
        ("categorical", {"x": -1}, r"sequence 3, position 2: -1"),
        ("categorical", {"lengths": STEPS + 1}, r"sequence 3 has length 6"),
        ("categorical", {"lengths": -1}, r"sequence 3 has length -1"),
        ("categorical", {"label": STATES}, r"sequence 3, position 2: label 3"),
        ("categorical", {"label": -2}, r"sequence 3, position 2: label -2"),
    ],
)
def test_bad_data_is_named(kind: str, change: dict, message: str) -> None:
    hmm, observations = draw(kind)
    observations, lengths = observations.copy(), LENGTHS.copy()
    labels = np.zeros(observations.shape[:2], int)
    if "x" in change:
        observations[3, 2] = change["x"]
    lengths[3] = change.get("lengths", 4)
    labels[3, 2] = change.get("label", 0)
    with pytest.raises(UserError, match=message):
        hmm_fit.fit_em(to_jax(hmm, "float32"), observations, lengths, labels)


def test_impossible_and_unlabelled_sequences_are_named() -> None:
    hmm, observations = draw("categorical")
    hmm = to_jax(hmm, "float32")
    hmm = hmm._replace(emission=CategoricalEmission(hmm.emission.log_probs.at[:, 2].set(-jnp.inf)))
    observations = np.where(observations == 2, 1, observations)
    observations[3, 1] = 2
    with pytest.raises(UserError, match="sequence 3 is impossible"):
        hmm_fit.fit_em(hmm, observations, LENGTHS)
    with pytest.raises(UserError, match="sequence 3 is impossible"):
        hmm_fit.fit_em_minibatch(hmm, [(observations, LENGTHS, None)], num_sequences=4)
    labels = np.zeros(observations.shape, int)
    labels[1, 0] = -1
    with pytest.raises(UserError, match=r"sequence 1, position 0 has no label.*fit_em"):
        hmm_fit.fit_labels(hmm, observations, labels, LENGTHS)
    with pytest.raises(ValueError, match="integers"):
        hmm_fit.fit_em(hmm, observations.astype(float), LENGTHS)
