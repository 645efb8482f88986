import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from jaxseq.decoding.sampling import SamplingConfig, candidates, nucleus, penalize, sample_token
from jaxseq.errors import UserError
from jaxseq.reference import sampling as twin

VOCAB = 7
# Quarters, so that ties are frequent.
logits_rows = st.lists(
    st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=VOCAB, max_size=VOCAB),
    min_size=2,
    max_size=2,
).map(lambda rows: np.array(rows, np.float32))


def our_probabilities(logits: np.ndarray, **options) -> np.ndarray:
    kept, tokens = candidates(jnp.asarray(logits), **options)
    drawn = np.zeros(logits.shape)
    np.put_along_axis(drawn, np.asarray(tokens), np.asarray(jax.nn.softmax(kept)), axis=-1)
    return drawn


@given(
    logits=logits_rows,
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.integers(0, VOCAB + 2),
    top_p=st.sampled_from([0.05, 0.37, 0.61, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.04, 0.31, 0.7, 1.0]),
)
def test_candidates_equal_twin(logits, temperature, top_k, top_p, min_p):
    # Where a sum of probabilities is within rounding of p, float32 may cut on the other side.
    before_cut = -np.sort(-twin.probabilities(logits, temperature=temperature, top_k=top_k))
    assume(np.min(np.abs(np.cumsum(before_cut, axis=-1) - top_p)) > 1e-5 or top_p == 1.0)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    expected = twin.probabilities(logits, **options)
    actual = our_probabilities(logits, **options)
    np.testing.assert_array_equal(actual > 0, expected > 0)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@given(logits=logits_rows)
def test_greedy_is_the_twins_certainty(logits):
    tokens = sample_token(jax.random.key(0), jnp.asarray(logits), temperature=0.0)
    expected = twin.probabilities(logits, temperature=0.0)
    np.testing.assert_array_equal(np.asarray(tokens), expected.argmax(-1))


@given(logits=logits_rows, penalty=st.sampled_from([0.5, 1.0, 1.3, 4.0]), seed=st.integers(0, 9))
def test_a_repetition_penalty_equals_twin(logits, penalty, seed):
    seen = np.random.default_rng(seed).random(logits.shape) < 0.5
    expected = twin.probabilities(logits, seen, temperature=0.7, repetition_penalty=penalty)
    penalized = penalize(jnp.asarray(logits), jnp.asarray(seen), penalty)
    np.testing.assert_allclose(our_probabilities(penalized, temperature=0.7), expected, atol=1e-6)


def test_a_repetition_penalty_changes_what_is_greedy():
    logits = jnp.array([[2.0, 1.5, -1.0], [-1.0, -0.5, -3.0]])
    seen = jnp.array([[True, False, False], [False, True, False]])
    options = {"temperature": 0.0, "repetition_penalty": 2.5}
    key = jax.random.key(0)
    assert sample_token(key, logits, **options).tolist() == [0, 1]
    assert sample_token(key, logits, seen, **options).tolist() == [1, 0]


def test_what_a_row_draws_depends_on_its_number_alone():
    logits = jax.random.normal(jax.random.key(2), (5, 50))
    key = jax.random.key(3)
    drawn = sample_token(key, logits)
    np.testing.assert_array_equal(sample_token(key, logits[:3]), drawn[:3])
    np.testing.assert_array_equal(sample_token(key, logits.at[0].set(0.0))[1:], drawn[1:])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.3},
        {"top_k": 5, "top_p": 0.8, "min_p": 0.4},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(options):
    row = np.array([0.3, -1.0, 1.2, 0.1, -2.0, 0.9], np.float32)
    logits = jnp.broadcast_to(row, (100_000, row.size))
    drawn = sample_token(jax.random.key(1), logits, **options)
    counts = np.bincount(np.asarray(drawn), minlength=row.size)
    expected = twin.probabilities(row[None], **options)[0]
    possible = expected > 0
    assert not counts[~possible].any()
    assert stats.chisquare(counts[possible], len(logits) * expected[possible]).pvalue > 1e-3


def test_ties_keep_the_lower_numbers():
    equal = np.zeros((1, 8), np.float32)
    half = np.array([[1, 1, 1, 1, 0, 0, 0, 0]]) / 4
    np.testing.assert_array_equal(our_probabilities(equal, top_k=4), half)
    # Eighths are exact: four of them reach one half, no fifth is needed.
    np.testing.assert_array_equal(our_probabilities(equal, top_p=0.5), half)


def test_nucleus_keeps_at_least_one():
    kept = nucleus(jnp.array([[100.0, 0.0, 0.0]]), 1e-6)
    np.testing.assert_array_equal(np.asarray(kept), [[True, False, False]])


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.99}], ids=str)
def test_a_temperature_near_zero_is_greedy(options):
    logits = jnp.array([[1.0, 3.0, 2.999], [1e34, 2e34, 3e34]])
    drawn = sample_token(jax.random.key(0), logits, temperature=1e-6, **options)
    np.testing.assert_array_equal(np.asarray(drawn), [1, 2])


def test_bfloat16_logits_are_summed_in_float32():
    """4096 equal tokens: in bfloat16 the sum would stall long before it reaches p."""
    kept, _ = candidates(jnp.zeros((1, 4096), jnp.bfloat16), top_p=0.75)
    assert kept.dtype == jnp.float32
    assert int(jnp.isfinite(kept).sum()) == 3072


def test_what_is_off_sorts_nothing():
    def program(**options) -> str:
        return str(jax.make_jaxpr(lambda logits: candidates(logits, **options))(jnp.ones((1, 9))))

    assert "top_k" in program(top_k=3)
    for word in ("top_k", "sort", "cumsum"):
        assert word not in program(temperature=0.7, min_p=0.1)


@pytest.mark.parametrize(
    ("field", "option", "values"),
    [
        ("temperature", "--temperature", [-0.1, math.inf, math.nan, 1e-9]),
        ("top_k", "--top-k", [-1]),
        ("top_p", "--top-p", [0.0, -0.5, 1.01, math.nan]),
        ("min_p", "--min-p", [-0.1, 1.01, math.nan]),
        ("repetition_penalty", "--repetition-penalty", [0.0, -1.0, math.inf, math.nan]),
    ],
)
def test_options_out_of_range(field, option, values):
    for value in values:
        with pytest.raises(UserError, match=f"^{option} is {value}; it must be [^\n]*$"):
            SamplingConfig(**{field: value})
