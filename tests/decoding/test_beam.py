"""Beam search against plain lists of hypotheses, and against all hypotheses there are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import VALUE_TOLERANCES

from jaxseq.decoding.beam import beam_search, greedy_search, repeat_rows
from jaxseq.reference import beam as reference

START, END = 0, 1


def random_tables(rows: int, vocab_size: int, *, forbidden: float = 0.0) -> np.ndarray:
    """Log-probabilities of the next token given the two before, another model for each row."""
    rng = np.random.default_rng(rows * 100 + vocab_size)
    logits = 1.5 * rng.normal(size=(rows, vocab_size, vocab_size, vocab_size))
    logits[rng.random(logits.shape) < forbidden] = -np.inf
    logits[..., 2] = np.where(np.isneginf(logits).all(-1), 0, logits[..., 2])
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def row_model(table: np.ndarray) -> reference.Model:
    def next_log_probs(prefix: tuple[int, ...]) -> np.ndarray:
        before, last = (START, START, *prefix)[-2:]
        return table[before, last]

    return next_log_probs


@functools.partial(
    jax.jit, static_argnames=("beam_size", "max_length", "length_penalty", "early_stopping")
)
def search(tables, *, beam_size, max_length, length_penalty, early_stopping=False):
    """Beam search over the tables, or greedy search for a beam of 0."""
    rows = tables.shape[0]

    def step(tokens, carry):
        log_probs = tables[carry["row"], carry["before"], tokens]
        return log_probs, {"row": carry["row"], "before": tokens}

    carry = {"row": jnp.arange(rows), "before": jnp.full(rows, START)}
    options = {
        "batch_size": rows,
        "max_length": max_length,
        "start_token": START,
        "end_token": END,
        "length_penalty": length_penalty,
    }
    if beam_size == 0:
        return greedy_search(step, carry, **options)
    carry = repeat_rows(carry, beam_size)
    options["early_stopping"] = early_stopping
    return beam_search(step, carry, beam_size=beam_size, **options)


def check_row(found, expected: list[reference.Hypothesis], max_length: int) -> None:
    """The hypotheses found in one row are the expected ones, and behind them there is nothing."""
    tokens, lengths, scores = map(np.asarray, found)
    assert tokens.shape[1] == max_length
    actual = [tuple(t[:n].tolist()) for t, n in zip(tokens, lengths, strict=True)]
    assert actual[: len(expected)] == [tokens for tokens, _ in expected]
    tolerance = VALUE_TOLERANCES["float32"] * max(1.0, max(abs(s) for _, s in expected))
    np.testing.assert_allclose(
        scores[: len(expected)], [score for _, score in expected], rtol=0, atol=tolerance
    )
    assert np.all(np.isneginf(scores[len(expected) :]))
    assert not np.any(lengths[len(expected) :])
    assert np.all(tokens[np.arange(max_length)[None] >= lengths[:, None]] == END)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_equals_twin(beam_size: int, length_penalty: float) -> None:
    # The twin never stops early and knows one row alone.
    tables = random_tables(6, 5)
    found = search(
        jnp.asarray(tables, jnp.float32),
        beam_size=beam_size,
        max_length=7,
        length_penalty=length_penalty,
    )
    for b, table in enumerate(tables):
        expected = reference.beam_search(
            row_model(table),
            beam_size=beam_size,
            max_length=7,
            end_token=END,
            exponent=length_penalty,
        )
        check_row([x[b] for x in found], expected, 7)


@pytest.mark.parametrize("beam_size", [2, 3])
def test_stopping_early_equals_twin_in_every_row(beam_size: int) -> None:
    tables = random_tables(8, 4)
    options = {"beam_size": beam_size, "max_length": 7, "length_penalty": 1.0}
    found = search(jnp.asarray(tables, jnp.float32), **options, early_stopping=True)
    for b, table in enumerate(tables):
        expected = reference.beam_search(
            row_model(table),
            beam_size=beam_size,
            max_length=7,
            end_token=END,
            exponent=1.0,
            early_stopping=True,
        )
        check_row([x[b] for x in found], expected, 7)
    patient = search(jnp.asarray(tables, jnp.float32), **options)
    assert np.any(np.asarray(patient[2]) > np.asarray(found[2]))


@pytest.mark.parametrize("length_penalty", [0.0, 0.7])
def test_a_beam_as_wide_as_all_hypotheses_finds_all_of_them(length_penalty: float) -> None:
    # 1 + 2 + 4 that end after 1, 2 or 3 tokens and 8 that are cut; the 16th does not exist.
    tables = random_tables(4, 3)
    found = search(
        jnp.asarray(tables, jnp.float32), beam_size=16, max_length=3, length_penalty=length_penalty
    )
    for b, table in enumerate(tables):
        expected = reference.all_hypotheses(
            row_model(table), max_length=3, end_token=END, exponent=length_penalty
        )
        assert len(expected) == 15
        check_row([x[b] for x in found], expected, 3)


def test_tokens_that_cannot_come_are_never_written() -> None:
    tables = random_tables(4, 4, forbidden=0.5)
    found = search(jnp.asarray(tables, jnp.float32), beam_size=60, max_length=3, length_penalty=0.0)
    counts = []
    for b, table in enumerate(tables):
        expected = reference.all_hypotheses(
            row_model(table), max_length=3, end_token=END, exponent=0.0
        )
        check_row([x[b] for x in found], expected, 3)
        counts.append(len(expected))
    assert max(counts) < 40


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_greedy_equals_twin(length_penalty: float) -> None:
    tables = random_tables(6, 5)
    found = search(
        jnp.asarray(tables, jnp.float32), beam_size=0, max_length=7, length_penalty=length_penalty
    )
    for b, table in enumerate(tables):
        expected = reference.greedy_search(
            row_model(table), max_length=7, end_token=END, exponent=length_penalty
        )
        check_row([x[b : b + 1] for x in found], [expected], 7)


def test_a_beam_of_one_is_greedy() -> None:
    tables = jnp.asarray(random_tables(6, 5), jnp.float32)
    beam = search(tables, beam_size=1, max_length=7, length_penalty=0.0)
    greedy = search(tables, beam_size=0, max_length=7, length_penalty=0.0)
    for one, other in zip(beam, greedy, strict=True):
        np.testing.assert_array_equal(one[:, 0], other)


@pytest.mark.parametrize("beam_size", [0, 1, 2])
def test_stops_when_nothing_unfinished_can_win(beam_size: int) -> None:
    """A step after the third would see a token of probability e^9."""

    def step(tokens, carry):
        count = jnp.where(carry < 3, 0.0, 9.0)
        ends = jnp.where(carry[:, None] == 1, jnp.array([[-3.0, -0.1, -3.0]]), 0)
        others = jnp.where(carry[:, None] == 1, 0, jnp.array([[-0.5, -30.0, -1.0]]))
        return ends + others + count[:, None], carry + 1

    options = {
        "batch_size": 1,
        "max_length": 50,
        "start_token": START,
        "end_token": END,
        "length_penalty": 0.0,
    }
    if beam_size == 0:
        found = jax.jit(lambda carry: greedy_search(step, carry, **options))(jnp.zeros(1))
    else:
        found = jax.jit(lambda carry: beam_search(step, carry, beam_size=beam_size, **options))(
            jnp.zeros(beam_size)
        )
    _, lengths, scores = found
    # Both ways to end at the second step, after token 0 or token 2.
    np.testing.assert_array_equal(lengths.ravel(), [1] * max(1, beam_size))
    np.testing.assert_allclose(scores.ravel(), [-0.6, -1.1][: max(1, beam_size)], rtol=1e-6)


def test_goes_on_while_the_length_penalty_may_let_a_longer_one_win() -> None:
    """e^-0.5 for the end at once; e^-1 for 13 tokens that follow of themselves: lp(13) = 3."""

    def step(tokens, carry):
        first = jnp.array([[-1.0, -0.5]])
        return jnp.where(carry[:, None] == 0, first, jnp.array([[0.0, -jnp.inf]])), carry + 1

    options = {"batch_size": 1, "max_length": 13, "start_token": START, "end_token": END}
    search = jax.jit(
        lambda carry, penalty: beam_search(
            step, carry, beam_size=1, length_penalty=penalty, **options
        ),
        static_argnums=1,
    )
    for length_penalty, length, score in [(1.0, 13, -1 / 3), (0.0, 0, -0.5)]:
        _, lengths, scores = search(jnp.zeros(1), length_penalty)
        assert int(lengths[0, 0]) == length
        np.testing.assert_allclose(scores[0, 0], score, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"length_penalty": -0.5}, r"length_penalty is -0\.5"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_sizes_out_of_range_name_the_argument(changes: dict, message: str) -> None:
    options = {"batch_size": 1, "beam_size": 1, "max_length": 1, "start_token": 0, "end_token": 1}
    with pytest.raises(ValueError, match=message):
        beam_search(lambda tokens, carry: (tokens, carry), None, **{**options, **changes})
