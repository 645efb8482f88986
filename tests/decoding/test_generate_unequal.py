"""Prompts of unequal length, ends of texts and penalties, against loops over each text alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_gpt import CONFIGS, make_params

from jaxseq.decoding.generate import generate
from jaxseq.decoding.progress import start_progress
from jaxseq.decoding.sampling import SamplingConfig, sample_token
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT
from jaxseq.models.rnn_lm import RNNLMConfig

GREEDY = SamplingConfig(temperature=0.0)
WARM = SamplingConfig(temperature=2.0, top_k=8)
PENALIZED = SamplingConfig(temperature=1.5, min_p=0.02, repetition_penalty=5.0)
KEY = jax.random.key(5)
# Behind the lengths stands what no table holds.
JUNK = -1
PROMPTS = np.array([[3, 0, 7, 1, 5], [2, 9, JUNK, JUNK, JUNK], [4, JUNK, JUNK, JUNK, JUNK]])
LENGTHS = np.array([5, 2, 1])


@functools.cache
def gpt(name):
    """(model, parameters, logits of the token behind a text of at most 8)."""
    config, params = CONFIGS[name], make_params(CONFIGS[name])

    @jax.jit
    def read(tokens):
        return GPT(config).apply({"params": params}, tokens)

    def logits(text):
        window = np.zeros((1, config.context), np.int32)
        window[0, : len(text)] = text
        return np.asarray(read(jnp.asarray(window)))[0, len(text) - 1]

    return GPT(config), params, logits


@functools.cache
def rnn():
    config = RNNLMConfig(cell="gru", num_layers=2, width=8, residual=True, layer_norm=True)
    module = config.resolve(vocab_size=11, context=0).build()
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda x: 3 * x, params)
    read = jax.jit(lambda tokens: module.apply({"params": params}, tokens))

    def logits(text):
        padded = np.zeros((1, 32), np.int32)
        padded[0, : len(text)] = text
        return np.asarray(read(jnp.asarray(padded)))[0, len(text) - 1]

    return module, params, logits


@functools.partial(jax.jit, static_argnums=3)
def draw(logits, seen, i, sampling):
    """What each of three rows would draw from the same logits."""
    rows = jnp.tile(logits, (3, 1)), jnp.tile(seen, (3, 1))
    return sample_token(jax.random.fold_in(KEY, i), *rows, **dataclasses.asdict(sampling))


def alone(logits, prompt, count, sampling, *, row=0, context=8, end_token=None):
    """The documented loop for one text, which draws as row `row` of a batch."""
    window, text, written = list(prompt), list(prompt), []
    for i in range(count):
        if len(window) > context:
            window = window[-max(1, context // 2) :]
        token = int(draw(logits(window), np.isin(np.arange(11), text), i, sampling)[row])
        written.append(token)
        window.append(token)
        text.append(token)
        if token == end_token:
            written += [token] * (count - len(written))
            break
    return written


def together(model, params, prompts, count, sampling, lengths=None, **keywords):
    if lengths is not None:
        keywords["prompt_lengths"] = jnp.asarray(lengths)
    options = {"max_new_tokens": count, "sampling": sampling, "key": KEY, **keywords}
    return np.asarray(generate(model, params, jnp.asarray(prompts, jnp.int32), **options))


@pytest.mark.parametrize(
    ("name", "count", "sampling"),
    [
        ("gpt-2", 18, WARM),  # outgrows the context of 8 at three different times
        ("llama", 18, WARM),
        ("qwen", 18, GREEDY),
        ("llama", 4, PENALIZED),  # does not
    ],
)
def test_each_row_is_as_it_would_be_alone(name, count, sampling):
    model, params, logits = gpt(name)
    found = together(model, params, PROMPTS, count, sampling, LENGTHS)
    for row, length in enumerate(LENGTHS):
        expected = alone(logits, PROMPTS[row, :length], count, sampling, row=row)
        np.testing.assert_array_equal(found[row], expected, err_msg=f"row {row}")
    assert len(np.unique(found)) > 3


@pytest.mark.parametrize("sampling", [GREEDY, PENALIZED], ids=["greedy", "penalized"])
def test_a_recurrent_model_too(sampling):
    model, params, logits = rnn()
    found = together(model, params, PROMPTS, 6, sampling, LENGTHS)
    for row, length in enumerate(LENGTHS):
        expected = alone(logits, PROMPTS[row, :length], 6, sampling, row=row, context=32)
        np.testing.assert_array_equal(found[row], expected)


@pytest.mark.parametrize("count", [6, 7, 10])
def test_windows_that_open_near_the_end(count):
    """The first and the second row outgrow the context one after the other."""
    model, params, logits = gpt("gpt-2")
    prompts, lengths = np.array([[3, 0, 7, 1, 5], [2, 9, 4, 10, JUNK]]), [5, 4]
    found = together(model, params, prompts, count, WARM, lengths)
    for row, length in enumerate(lengths):
        expected = alone(logits, prompts[row, :length], count, WARM, row=row)
        np.testing.assert_array_equal(found[row], expected, err_msg=f"row {row}")


def test_draws_do_not_depend_on_the_other_rows():
    model, params, _ = gpt("llama")
    found = together(model, params, PROMPTS, 12, WARM, LENGTHS)
    others = PROMPTS.copy()
    others[[0, 2], 0] = [6, 8]
    again = together(model, params, others, 12, WARM, LENGTHS)
    np.testing.assert_array_equal(found[1], again[1])
    assert (found[0] != again[0]).any()


def test_only_what_counts_is_seen_and_only_what_is_asked_for_is_kept():
    prompt, valid = jnp.array([[3, 4, JUNK], [0, 2, 2]]), jnp.array([[True, False, False]] * 2)
    progress = start_progress(prompt, valid, 5, PENALIZED, None)
    assert progress.ended is None
    np.testing.assert_array_equal(progress.seen, np.eye(5, dtype=bool)[[3, 0]])
    assert start_progress(prompt, valid, 5, GREEDY, None) == (None, None)


def test_equal_lengths_are_the_plain_case_and_columns_behind_all_are_not_read(caplog):
    model, params, _ = gpt("llama")
    plain = together(model, params, PROMPTS[:, :1], 12, WARM)
    with jax.log_compiles():
        found = together(model, params, PROMPTS, 12, WARM, [1, 1, 1])
    np.testing.assert_array_equal(found, plain)
    assert not [r for r in caplog.records if "generate_with_cache" in r.getMessage()]


@pytest.mark.parametrize("name", ["gpt", "rnn"])
def test_rows_that_have_ended_write_the_end_and_the_work_ends_with_the_last(name):
    model, params, logits = gpt("llama") if name == "gpt" else rnn()
    context = 8 if name == "gpt" else 32
    rows = [PROMPTS[row, :length] for row, length in enumerate(LENGTHS)]
    free = [alone(logits, row, 18, WARM, row=i, context=context) for i, row in enumerate(rows)]
    # A token that every row comes to, and not all at once.
    ends = [
        token
        for token in range(11)
        if all(token in row for row in free) and len({row.index(token) for row in free}) > 1
    ]
    end = min(ends, key=lambda token: max(row.index(token) for row in free))
    steps = []
    found = together(
        model, params, PROMPTS, 18, WARM, LENGTHS, end_token=end, on_tokens=steps.append
    )
    for written, row in zip(found, free, strict=True):
        until = row.index(end)
        np.testing.assert_array_equal(written, row[:until] + [end] * (18 - until))
    assert len(steps) == 1 + max(row.index(end) for row in free) < 18
    np.testing.assert_array_equal(np.stack(steps, axis=1), found[:, : len(steps)])


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([6, 1, 1], ValueError, "prompt_lengths has 6; prompt holds 5 tokens"),
        ([5, 0, 1], UserError, "the prompt is empty"),
    ],
)
def test_lengths_that_cannot_be(lengths, error, message):
    model, _, _ = gpt("llama")
    with pytest.raises(error, match=message):
        together(model, {}, PROMPTS, 3, GREEDY, lengths)
