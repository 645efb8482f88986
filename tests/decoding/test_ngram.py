"""N-grams against the recursion that defines them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.decoding.beam import beam_search
from jaxseq.decoding.ngram import NGram
from jaxseq.reference import ngram as reference

TEXTS = [[1, 2, 1], [2, 2], [1, 2, 0, 1], [1], []]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_twin(order: int) -> None:
    boundary = 3
    grams = NGram.fit(TEXTS, order, 4, boundary)
    twin = reference.NGram(TEXTS, order, 4, boundary)
    np.testing.assert_allclose(np.exp(grams.log_probs).sum(-1), 1, rtol=1e-6)
    for number, context in enumerate(itertools.product(range(4), repeat=order - 1)):
        expected = [twin.probability(each, context) for each in range(4)]
        np.testing.assert_allclose(np.exp(grams.log_probs[number]), expected, rtol=1e-5)
    held_out = [[2, 1, 0], [0], []]
    assert grams.perplexity(held_out) == pytest.approx(twin.perplexity(held_out), rel=1e-5)
    assert grams.perplexity(TEXTS) < 4
    assert np.isnan(grams.perplexity([]))


def test_steps_follow_the_context_from_the_start() -> None:
    grams = NGram.fit(TEXTS, 3, 4, 3)
    twin = reference.NGram(TEXTS, 3, 4, 3)
    carry = grams.start_carry(2)
    context = (3, 3)
    for token in [3, 1, 2, 0]:  # the boundary goes in first
        found, carry = grams.step(jnp.array([token, 3]), carry)
        context = (*context, token)[-2:]
        expected = [twin.probability(each, context) for each in range(4)]
        np.testing.assert_allclose(np.exp(found[0]), expected, rtol=1e-5)
    np.testing.assert_array_equal(found[1], grams.step(jnp.array([3]), grams.start_carry(1))[0][0])


def test_beam_search_writes_the_likeliest_text() -> None:
    grams = NGram.fit([[1, 2, 1]] * 9 + [[2]], 2, 3)
    tokens, lengths, scores = jax.jit(
        lambda grams: beam_search(
            grams.step,
            grams.start_carry(4),
            batch_size=1,
            beam_size=4,
            max_length=5,
            start_token=0,
            end_token=0,
        )
    )(grams)
    every = [x for n in range(5) for x in itertools.product([1, 2], repeat=n)]
    log_probs = [-(len(x) + 1) * np.log(grams.perplexity([x])) for x in every]
    best = int(np.argmax(log_probs))
    assert tuple(tokens[0, 0, : lengths[0, 0]].tolist()) == every[best]
    np.testing.assert_allclose(scores[0, 0], log_probs[best], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1]], 0, 3), "order is 0"),
        (([[1]], 2, 3, 3), r"boundary is 3; it must be one of 0 \.\.\. 2"),
        (([[1]], 9, 30), "order 9 of 30 symbols has .* entries.* take a lower order"),
        (([[1], [1, 0]], 2, 3), r"sequence 1 holds 0.* without the boundary 0"),
        (([[1], [1, 7]], 2, 3), r"sequence 1 holds 7, which is no symbol of 0 \.\.\. 2"),
    ],
)
def test_what_does_not_fit_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NGram.fit(*arguments)
