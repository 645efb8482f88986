"""Log-probabilities of given texts against one forward pass for every token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same
from small_gpt import CONFIGS, make_params

from jaxseq.decoding.scoring import log_probabilities
from jaxseq.models.gpt import GPT
from jaxseq.models.rnn_lm import RNNLMConfig

TOKENS = np.array([[3, 0, 7, 1, 5], [2, 9, 4, 4, 4], [4, 6, 1, 4, 4]])
LENGTHS, PROMPT_LENGTHS = np.array([5, 2, 3]), np.array([2, 1, 3])


def build(name):
    if name == "rnn":
        module = RNNLMConfig(num_layers=1, width=8).resolve(vocab_size=11, context=0).build()
        return module, module.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return GPT(CONFIGS[name]), make_params(CONFIGS[name])


def score(model, params, tokens=TOKENS, lengths=LENGTHS, prompt_lengths=PROMPT_LENGTHS):
    return log_probabilities(model, params, *map(jnp.asarray, (tokens, lengths, prompt_lengths)))


@pytest.mark.parametrize("name", ["gpt-2", "qwen", "mixture", "rnn"])
def test_equals_the_sum_of_separate_steps(name):
    model, params = build(name)
    read = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
    expected = np.zeros(TOKENS.shape)
    for row, (start, end) in enumerate(zip(PROMPT_LENGTHS, LENGTHS, strict=True)):
        for t in range(start, end):
            before = np.zeros((1, 5), np.int64)
            before[0, :t] = TOKENS[row, :t]
            logits = np.asarray(read(jnp.asarray(before)), np.float64)[0, t - 1]
            probabilities = np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
            expected[row, t] = np.log(probabilities[TOKENS[row, t]])
    each, whole = score(model, params)
    assert_close(each, expected, "float32")
    assert_close(whole, expected.sum(1), "float32")


@pytest.mark.parametrize("name", ["gpt-2", "rnn"])
def test_what_stands_in_the_padding_changes_nothing_and_no_gradient(name):
    model, params = build(name)
    junk = np.where(np.arange(5) < LENGTHS[:, None], TOKENS, -7)
    assert_same(score(model, params, junk), score(model, params))
    one, other = (
        jax.grad(lambda p, t=t: score(model, p, t)[1].sum())(params) for t in (junk, TOKENS)
    )
    assert_same(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": np.array([6, 2, 3])}, "lengths has 6; tokens has 5 columns"),
        ({"prompt_lengths": np.array([1, 0, 1])}, "prompt_lengths has 0"),
        ({"prompt_lengths": np.array([1, 3, 1])}, r"prompt_lengths\[1\] is 3, more than lengths"),
        ({"tokens": np.zeros((3, 9), int)}, "tokens has 9 columns; the model's context is 8"),
    ],
    ids=["length", "no prompt", "prompt beyond the text", "context"],
)
def test_sizes_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        score(GPT(CONFIGS["gpt-2"]), {}, **changes)
