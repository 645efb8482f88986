"""Beam search with a GPT against all texts that it can write, and against the plain twin."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import VALUE_TOLERANCES
from small_gpt import CONFIGS, make_params

from jaxseq.decoding.generate_beam import beam_generate
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT
from jaxseq.reference import beam as reference

END = 1
PROMPTS = np.array([[2, 0, 2], [2, -1, -1]])
LENGTHS = np.array([3, 1])


@functools.cache
def tiny(vocab_size):
    """(model, parameters, what the twin asks of a prompt's row)."""
    config = dataclasses.replace(CONFIGS["llama"], vocab_size=vocab_size)
    params = jax.tree.map(lambda x: 2 * x, make_params(config))  # far from uniform

    @jax.jit
    def read(tokens):
        logits = GPT(config).apply({"params": params}, tokens)
        return jax.nn.log_softmax(logits)

    def model_of(row):
        prompt = PROMPTS[row, : LENGTHS[row]].tolist()

        @functools.cache
        def next_log_probs(prefix):
            text = [*prompt, *prefix]
            padded = np.zeros((1, config.context), np.int32)
            padded[0, : len(text)] = text
            return np.asarray(read(jnp.asarray(padded)), np.float64)[0, len(text) - 1]

        return next_log_probs

    return GPT(config), params, model_of


def search(vocab_size, **options):
    model, params, _ = tiny(vocab_size)
    options = {"end_token": END, "prompt_lengths": jnp.asarray(LENGTHS), **options}
    return beam_generate(model, params, jnp.asarray(PROMPTS, jnp.int32), **options)


def check(found, vocab_size, expect):
    """The hypotheses found in every row are those that `expect` makes of its model."""
    for row in range(2):
        expected = expect(tiny(vocab_size)[2](row))
        tokens, lengths, scores = (np.asarray(x[row]) for x in found)
        actual = [tuple(t[:n].tolist()) for t, n in zip(tokens, lengths, strict=True)]
        assert actual == [tokens for tokens, _ in expected][: len(actual)]
        best = [score for _, score in expected][: len(actual)]
        atol = VALUE_TOLERANCES["float32"] * max(1.0, -min(best))
        np.testing.assert_allclose(scores[: len(best)], best, rtol=0, atol=atol)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_all_continuations_finds_the_best_of_all(length_penalty):
    found = search(3, beam_size=15, max_new_tokens=3, length_penalty=length_penalty, num_return=15)
    options = {"max_length": 3, "end_token": END, "exponent": length_penalty}
    check(found, 3, lambda model: reference.all_hypotheses(model, **options))


@pytest.mark.parametrize(("beam_size", "early_stopping"), [(1, False), (3, False), (3, True)])
def test_equals_twin(beam_size, early_stopping):
    options = {"beam_size": beam_size, "early_stopping": early_stopping}
    found = search(11, max_new_tokens=6, length_penalty=0.8, num_return=beam_size, **options)
    assert found[0].shape == (2, beam_size, 6)
    options |= {"max_length": 6, "end_token": END, "exponent": 0.8}
    check(found, 11, lambda model: reference.beam_search(model, **options))


def test_the_first_of_the_best_are_returned():
    all_three = search(11, beam_size=3, max_new_tokens=6, length_penalty=0.8, num_return=3)
    for few, all_ in zip(
        search(11, beam_size=3, max_new_tokens=6, length_penalty=0.8), all_three, strict=True
    ):
        np.testing.assert_array_equal(few, all_[:, :1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_return": 3}, ValueError, "num_return is 3; it must be from 1 to beam_size, 2"),
        ({"num_return": 0}, ValueError, "num_return is 0"),
        ({"beam_size": 0, "num_return": 0}, ValueError, "num_return is 0"),
        ({"max_new_tokens": 0}, ValueError, "max_length is 0"),
        ({"max_new_tokens": 9}, UserError, "take --max-new-tokens down by 3"),
        ({"prompt_lengths": jnp.array([0, 1])}, UserError, "the prompt is empty"),
        ({"length_penalty": -1.0}, ValueError, "length_penalty is -1"),
    ],
    ids=str,
)
def test_what_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        search(11, **{"beam_size": 2, "max_new_tokens": 2, **options})
