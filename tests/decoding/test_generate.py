import dataclasses
import functools
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import in_dtype
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from small_gpt import CONFIGS, SMALL, TOKENS, make_params

from jaxseq.decoding import streaming
from jaxseq.decoding.generate import generate
from jaxseq.decoding.sampling import SamplingConfig, sample_token
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT

GREEDY = SamplingConfig(temperature=0.0)
WARM = SamplingConfig(temperature=2.0, top_k=8, top_p=0.95)
KEY = jax.random.key(5)


def naive(config, params, prompt, max_new_tokens, sampling, key=KEY):
    """The documented loop, with a full forward pass for every token."""
    forward = jax.jit(lambda tokens: GPT(config).apply({"params": params}, tokens))
    window, written = prompt, []
    for i in range(max_new_tokens):
        if window.shape[1] > config.context:
            window = window[:, -max(1, config.context // 2) :]
        # Padded to one shape; what stands behind a token does not change its logits.
        padded = np.pad(window, ((0, 0), (0, config.context - window.shape[1])))
        logits = forward(jnp.asarray(padded))[:, window.shape[1] - 1]
        options = dataclasses.asdict(sampling)
        token = np.asarray(sample_token(jax.random.fold_in(key, i), logits, **options))[:, None]
        window, written = np.concatenate([window, token], axis=1), [*written, token]
    return np.concatenate(written, axis=1)


def ours(config, params, prompt, max_new_tokens, sampling, key=KEY, **keywords):
    keywords |= {"max_new_tokens": max_new_tokens, "sampling": sampling, "key": key}
    return np.asarray(generate(GPT(config), params, jnp.asarray(prompt), **keywords))


@pytest.mark.parametrize(
    ("name", "sampling"),
    [("gpt-2", GREEDY), ("normalised queries", GREEDY), *((name, WARM) for name in CONFIGS)],
)
def test_equals_naive_loop_within_and_beyond_the_context(name, sampling):
    config, params = CONFIGS[name], make_params(CONFIGS[name])
    expected = naive(config, params, TOKENS, 20, sampling)
    assert len(np.unique(expected)) > 3, "a text to tell right from wrong"
    np.testing.assert_array_equal(ours(config, params, TOKENS, 20, sampling), expected)


@pytest.mark.parametrize(
    ("context", "length", "max_new_tokens"),
    [(8, 1, 8), (8, 8, 1), (8, 8, 2), (8, 5, 4), (8, 5, 5), (7, 2, 12), (1, 1, 5)],
)
def test_equals_naive_loop_at_every_edge_of_the_window(context, length, max_new_tokens):
    config = dataclasses.replace(SMALL, context=context)
    params = make_params(config)
    prompt = np.tile(TOKENS, 2)[:, :length]
    expected = naive(config, params, prompt, max_new_tokens, WARM)
    assert expected.shape == (2, max_new_tokens)
    np.testing.assert_array_equal(ours(config, params, prompt, max_new_tokens, WARM), expected)


def test_the_first_tokens_do_not_depend_on_how_many_follow():
    params = make_params(SMALL)
    short, long = (ours(SMALL, params, TOKENS, n, WARM) for n in (3, 20))
    np.testing.assert_array_equal(short, long[:, :3])


def test_rows_do_not_see_each_other():
    params = make_params(SMALL)
    both = ours(SMALL, params, TOKENS, 20, GREEDY)
    for row in range(2):
        alone = ours(SMALL, params, TOKENS[row : row + 1], 20, GREEDY)
        np.testing.assert_array_equal(alone[0], both[row])


def test_rows_draw_their_own_tokens():
    same = np.repeat(TOKENS[:1], 2, axis=0)
    first, second = ours(SMALL, make_params(SMALL), same, 20, WARM)
    assert (first != second).any()


def test_bfloat16_follows_the_bfloat16_model():
    """Each greedy token is the likeliest by the full forward pass, or as good as that."""
    config = in_dtype(SMALL, "bfloat16")
    params = make_params(SMALL)
    written = ours(config, params, TOKENS[:, :2], 6, GREEDY)
    text = np.concatenate([TOKENS[:, :2], written], axis=1)
    logits = np.asarray(jax.jit(GPT(config).apply)({"params": params}, text))[:, 1:-1]
    chosen = np.take_along_axis(logits, written[:, :, None], axis=-1)[..., 0]
    assert np.all(chosen >= logits.max(-1) - 2e-2 * np.abs(logits).max())


def test_boxed_and_replicated_parameters():
    """As training hands them out: boxed in their axis names, or on all devices."""
    expected = ours(SMALL, make_params(SMALL), TOKENS, 20, WARM)
    model = GPT(SMALL)
    boxes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(TOKENS))["params"]
    boxed = jax.tree.unflatten(jax.tree.structure(boxes), jax.tree.leaves(make_params(SMALL)))
    np.testing.assert_array_equal(ours(SMALL, boxed, TOKENS, 20, WARM), expected)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params, prompt = jax.device_put((make_params(SMALL), TOKENS), everywhere)
    for keywords in ({}, {"on_tokens": lambda tokens: None}):
        actual = ours(SMALL, params, prompt, 20, WARM, **keywords)
        np.testing.assert_array_equal(actual, expected)


def test_streams_the_tokens_it_returns():
    received, threads = [], set()

    def on_tokens(tokens):
        received.append(tokens)
        threads.add(threading.current_thread())

    params = make_params(SMALL)
    written = ours(SMALL, params, TOKENS, 20, WARM, on_tokens=on_tokens)
    np.testing.assert_array_equal(np.stack(received, axis=1), written)
    np.testing.assert_array_equal(written, ours(SMALL, params, TOKENS, 20, WARM))
    assert threads == {threading.current_thread()}


def test_streams_while_it_writes():
    """The first token comes long before the last is drawn."""
    times = [time.perf_counter()]
    stream = functools.partial(ours, SMALL, make_params(SMALL), TOKENS, 2000, GREEDY)
    stream(on_tokens=lambda tokens: None)
    times = [time.perf_counter()]
    stream(on_tokens=lambda tokens: times.append(time.perf_counter()))
    assert times[1] - times[0] < 0.5 * (times[-1] - times[0])


class Enough(Exception):
    pass


def raise_enough():
    raise Enough


def interrupt_soon():
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (raise_enough, Enough),
        (functools.partial(signal.raise_signal, signal.SIGINT), KeyboardInterrupt),
        (interrupt_soon, KeyboardInterrupt),
    ],
    ids=["error", "Ctrl-C while printing", "Ctrl-C while waiting"],
)
def test_an_exception_stops_the_program_and_arrives_as_it_is(action, error):
    received = []

    def on_tokens(tokens):
        received.append(tokens)
        if len(received) == 3:
            action()

    params = make_params(SMALL)
    with pytest.raises(error) as raised:
        ours(SMALL, params, TOKENS, 10_000_000, GREEDY, on_tokens=on_tokens)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert not streaming._open_streams
    expected = ours(SMALL, params, TOKENS, 3, GREEDY)
    np.testing.assert_array_equal(np.stack(received[:3], axis=1), expected)


def test_a_second_stream_compiles_nothing(caplog):
    stream = functools.partial(ours, SMALL, make_params(SMALL), TOKENS, 20, WARM)
    stream(on_tokens=lambda tokens: None)
    with jax.log_compiles():
        stream(on_tokens=lambda tokens: None)
    assert not [r for r in caplog.records if "Compiling" in r.getMessage()]


@pytest.mark.parametrize(
    ("length", "max_new_tokens", "message"),
    [
        (0, 5, "the prompt is empty; --prompt must give at least one token"),
        (
            10,
            5,
            "the prompt is 10 tokens long and the model's context 8; shorten --prompt by 2 tokens",
        ),
        (5, 0, "--max-new-tokens is 0; it must be at least 1"),
        (5, -3, "--max-new-tokens is -3; it must be at least 1"),
    ],
)
def test_bad_input(length, max_new_tokens, message):
    prompt = np.tile(TOKENS, 2)[:, :length]
    with pytest.raises(UserError) as raised:
        ours(SMALL, {}, prompt, max_new_tokens, GREEDY)
    assert str(raised.value) == message
