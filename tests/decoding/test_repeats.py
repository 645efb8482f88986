"""Search without repeated n-grams against all sequences there are."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.decoding.beam import beam_search, greedy_search, repeat_rows
from jaxseq.decoding.repeats import without_repeats

START, END, VOCAB, LENGTH, ROWS = 0, 1, 4, 5, 2
TABLES = np.random.default_rng(0).normal(size=(ROWS, VOCAB, VOCAB))
TABLES[0, :, 3] += 3  # 3 again and again, if it may
TABLES[:, :, END] -= 4  # and rather something else than the end, if it may not
TABLES = TABLES - np.log(np.exp(TABLES).sum(-1, keepdims=True))


@functools.partial(jax.jit, static_argnames=("n", "beam_size"))
def search(tables, *, n, beam_size):
    def step(tokens, row):
        return tables[row, tokens], row

    carry = repeat_rows(jnp.arange(ROWS), beam_size)
    step, carry = without_repeats(step, carry, n=n, num_rows=ROWS * beam_size, max_length=LENGTH)
    options = {"batch_size": ROWS, "max_length": LENGTH, "start_token": START, "end_token": END}
    if beam_size == 1:
        return greedy_search(step, carry, **options)
    return beam_search(step, carry, beam_size=beam_size, **options)


def repeats(tokens: tuple[int, ...], n: int) -> bool:
    """Whether n tokens in a row come twice, the start counted and the end not."""
    written = [START, *(token for token in tokens if token != END)]
    grams = [tuple(written[i : i + n]) for i in range(len(written) - n + 1)]
    return len(set(grams)) < len(grams)


def every_sequence() -> list[tuple[int, ...]]:
    """All that end, and all that are cut."""
    found = []
    for length in range(LENGTH + 1):
        for tokens in itertools.product((0, 2, 3), repeat=length):
            found.append(tokens if length == LENGTH else (*tokens, END))
    return found


def score(row: int, tokens: tuple[int, ...]) -> float:
    return sum(TABLES[row, a, b] for a, b in zip((START, *tokens), tokens, strict=False))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_beam_wide_enough_finds_the_best_without_repeats(n: int) -> None:
    tokens, lengths, scores = search(jnp.asarray(TABLES), n=n, beam_size=100)
    for row in range(ROWS):
        allowed = [each for each in every_sequence() if not repeats(each, n)]
        best = max(score(row, each) for each in allowed)
        assert float(scores[row, 0]) == pytest.approx(best, rel=1e-5)
        # Several may be the best: the same pairs of tokens in another order.
        found = tuple(tokens[row, 0, : int(lengths[row, 0]) + 1].tolist())
        assert found in allowed
        assert score(row, found) == pytest.approx(best, rel=1e-5)
    assert repeats(max(every_sequence(), key=functools.partial(score, 0)), n)  # else it says little


def test_greedy_takes_the_likeliest_that_repeats_nothing() -> None:
    tokens, lengths, _ = search(jnp.asarray(TABLES), n=2, beam_size=1)
    for row in range(ROWS):
        written: list[int] = []
        while len(written) < LENGTH and END not in written:
            order = np.argsort(-TABLES[row, [START, *written][-1]])
            fits = [int(t) for t in order if t == END or not repeats((*written, int(t)), 2)]
            written.append(fits[0])
        expected = [token for token in written if token != END]
        assert tokens[row, : int(lengths[row])].tolist() == expected


def test_an_n_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="n is 0"):
        without_repeats(lambda tokens, carry: (tokens, carry), (), n=0, num_rows=1, max_length=3)
