"""Speculative decoding writes what sampling without it writes, however good the draft is."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import random_params
from scipy import stats
from small_gpt import CONFIGS

from jaxseq.decoding.generate import generate
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.decoding.speculative import speculative_generate
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT
from jaxseq.reference import sampling as twin

GREEDY = SamplingConfig(temperature=0.0)
KEY = jax.random.key(5)
PROMPT = np.array([[3, 0, 7, 1, 5]])


def build(name, seed, **changes):
    config = dataclasses.replace(CONFIGS[name], **changes)
    params = random_params(GPT(config), jnp.asarray(PROMPT), seed=seed)
    return GPT(config), jax.tree.map(lambda p: jnp.asarray(p, "float32"), params)


@functools.cache
def target(**changes):
    """A model whose greedy text is not always the same token."""
    return build("llama", 3, context=16, **changes)


@functools.cache
def draft():
    """The first of its two layers: right at times."""
    model, params = target()
    layer = jax.tree.map(lambda leaf: leaf[:1], params["blocks"])
    config = dataclasses.replace(model.config, num_layers=1, context=20)
    return GPT(config), {**params, "blocks": layer}


def speculate(large, small, prompt=PROMPT, **options):
    options = {"sampling": GREEDY, "key": KEY, "max_new_tokens": 12, "num_draft": 3, **options}
    return speculative_generate(*large, *small, jnp.asarray(prompt, jnp.int32), **options)


def plainly(large, prompt=PROMPT, **options):
    options = {"sampling": GREEDY, "key": KEY, "max_new_tokens": 12, **options}
    return np.asarray(generate(*large, jnp.asarray(prompt, jnp.int32), **options))


@pytest.mark.parametrize(
    ("length", "num_draft", "sampling"),
    [
        (5, 1, GREEDY),
        (5, 3, GREEDY),
        (1, 5, SamplingConfig(temperature=0.0, repetition_penalty=1.8)),
    ],
)
def test_greedy_is_greedy_to_the_end_of_the_context(length, num_draft, sampling):
    prompt, count = PROMPT[:, :length], 17 - length
    options = {"max_new_tokens": count, "sampling": sampling}
    found = speculate(target(), draft(), prompt, num_draft=num_draft, **options)
    expected = plainly(target(), prompt, **options)
    np.testing.assert_array_equal(found.tokens, expected)
    assert len(np.unique(expected)) > 3
    # Each pass writes what it accepts and one token more; the last may want less.
    written = int(found.accepted) + int(found.passes)
    assert count <= written <= count + 1
    assert 0 < int(found.accepted) < num_draft * int(found.passes)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_draft_that_is_the_target_is_always_accepted(temperature):
    sampling = SamplingConfig(temperature=temperature)
    found = speculate(target(), target(), sampling=sampling, max_new_tokens=12, num_draft=2)
    if temperature == 0:
        np.testing.assert_array_equal(found.tokens, plainly(target()))
    assert (int(found.passes), int(found.accepted)) == (4, 8)


def test_nothing_comes_behind_the_end():
    free = plainly(target())[0].tolist()
    end = next(token for i, token in enumerate(free) if i > 3 and token not in free[:i])
    found = speculate(target(), draft(), end_token=end)
    until = free.index(end)
    assert np.asarray(found.tokens)[0].tolist() == free[:until] + [end] * (12 - until)
    np.testing.assert_array_equal(found.tokens, plainly(target(), end_token=end))
    assert int(found.passes) < int(speculate(target(), draft()).passes)


VOCAB, LENGTH = 4, 3


def other_draft():
    """A model that knows nothing of the target."""
    return build("normalised queries", 1, vocab_size=VOCAB)


def exact_distribution(model, params, prompt, sampling):
    """The probability of every continuation of LENGTH tokens, by the twin."""
    texts = np.array(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    whole = np.concatenate([np.tile(prompt, (len(texts), 1)), texts], axis=1)
    logits = np.asarray(jax.jit(model.apply)({"params": params}, whole), np.float64)
    likely = np.ones(len(texts))
    options = dataclasses.asdict(sampling)
    for i in range(LENGTH):
        at = prompt.shape[1] + i
        seen = (whole[:, :at, None] == np.arange(VOCAB)).any(axis=1)
        drawn = twin.probabilities(logits[:, at - 1], seen, **options)
        likely *= drawn[np.arange(len(texts)), texts[:, i]]
    return likely


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(temperature=1.0),
        SamplingConfig(temperature=1.5, top_k=3, top_p=0.95, min_p=0.1),
        SamplingConfig(temperature=0.9, repetition_penalty=1.6),
    ],
    ids=["plain", "filtered", "penalized"],
)
def test_the_distribution_is_that_of_sampling_without(sampling):
    large, small = target(vocab_size=VOCAB), other_draft()
    prompt = np.array([[2, 0]])
    exact = exact_distribution(*large, prompt, sampling)
    np.testing.assert_allclose(exact.sum(), 1)

    def one(key):
        options = {"key": key, "sampling": sampling, "max_new_tokens": LENGTH, "num_draft": 2}
        return speculate(large, small, prompt, **options)

    found = jax.jit(jax.vmap(one))(jax.random.split(KEY, 10_000))
    numbers = np.asarray(found.tokens)[:, 0] @ VOCAB ** np.arange(LENGTH)[::-1]
    counts = np.bincount(numbers, minlength=VOCAB**LENGTH)
    assert not counts[exact == 0].any()
    # Cells of few expected counts are one, as the statistic asks.
    rare = exact * len(numbers) < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(exact[~rare], exact[rare].sum()) * len(numbers)
    counts, expected = counts[expected > 0], expected[expected > 0]
    assert len(counts) > 8
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    # Some drafts are accepted and some are not: both ways of writing a token are tried.
    share = np.mean(found.accepted) / (2 * np.mean(found.passes))
    assert 0.2 < share < 0.9


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"prompt": np.zeros((2, 3))}, ValueError, "prompt has 2 rows"),
        ({"prompt": np.zeros((1, 0))}, UserError, "the prompt is empty"),
        ({"max_new_tokens": 0}, UserError, "--max-new-tokens is 0"),
        ({"max_new_tokens": 13}, UserError, "context of 16; take --max-new-tokens down by 1"),
        ({"num_draft": 0}, ValueError, "num_draft is 0"),
        ({"num_draft": 16}, ValueError, "num_draft is 16"),
        ({"small": "other"}, ValueError, "draft_model has 4 tokens and model 11"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be(changes, error, message):
    small = other_draft() if changes.pop("small", None) else draft()
    with pytest.raises(error, match=message):
        speculate(target(), small, **changes)
