"""The parallel synthesiser: against its twin, over padding, as it learns, and its config."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compare import assert_close, assert_same, check_parity, float32, random_params

from jaxseq.errors import UserError
from jaxseq.models.duration_tts import DurationTTS, DurationTTSConfig
from jaxseq.ops.guided_attention import diagonality
from jaxseq.ops.monotonic_alignment import forward_sum_loss
from jaxseq.ops.spectral import FrontEnd
from jaxseq.reference import duration_tts as twin
from jaxseq.reference.length_regulator import duration_predictor, whole_durations

DATA = {"vocab_size": 6, "num_speakers": 2}
SMALL = DurationTTSConfig(
    front_end=FrontEnd(num_mels=3),
    encoder_layers=1,
    decoder_layers=2,
    width=8,
    mlp_hidden=10,
    aligner_width=4,
).resolve(**DATA)
TOKENS = np.array([[3, 0, 5], [2, 1, 4], [1, 1, 1]])
TOKEN_LENGTHS = np.array([3, 2, 0])
SPEAKERS = np.array([1, 0, 1])
FRAMES = np.array([5, 3, 0])
MELS = np.random.default_rng(1).normal(size=(3, 5, 3))
TEXT = tuple(map(jnp.asarray, (TOKENS, TOKEN_LENGTHS, SPEAKERS)))
READ = np.arange(3)[None] < TOKEN_LENGTHS[:, None]
HEARD = (np.arange(5)[None] < FRAMES[:, None])[..., None]
MODULE = DurationTTS(SMALL)
PARAMS = random_params(MODULE, *TEXT, jnp.float32(MELS), jnp.asarray(FRAMES))


def predict(module, params, tokens, mels):
    """(what is compared, durations): scores where there are any."""
    y = module.apply({"params": params}, tokens, *TEXT[1:], mels, jnp.asarray(FRAMES))
    soft = jnp.where(HEARD & READ[:, None], y.soft, 0)
    return (y.log_mels, y.log_durations, soft), y.durations


def test_equals_twin() -> None:
    def run(params, mels):
        return predict(MODULE, params, TEXT[0], mels)[0]

    texts = TOKENS, TOKEN_LENGTHS, SPEAKERS
    memory = twin.read(PARAMS, *texts, SMALL)

    def expected(params, mels):
        y, _, _, soft = twin.duration_tts(params, *texts, mels, FRAMES, SMALL)
        # The gradient of the predictor goes no further than its own parameters.
        logs = duration_predictor(params["durations"], memory, TOKEN_LENGTHS)
        return y, logs, np.where(HEARD & READ[:, None], soft, 0)

    check_parity(run, expected, PARAMS, MELS, dtype="float32")


@pytest.mark.parametrize("max_frames", [20, 2])
def test_speaks_like_its_twin(max_frames: int) -> None:
    params = PARAMS | {"durations": jax.tree.map(lambda x: 0.7 * x, PARAMS["durations"])}
    run = jax.jit(
        partial(MODULE.apply, max_frames=max_frames, method="synthesise"),
    )
    spoken = run({"params": float32(params)}, *TEXT)
    memory = twin.read(params, TOKENS, TOKEN_LENGTHS, SPEAKERS, SMALL)
    logs = duration_predictor(params["durations"], memory, TOKEN_LENGTHS)
    durations = whole_durations(logs, TOKEN_LENGTHS, max_frames)
    expected = twin.speak(params, memory, durations, max_frames, SMALL)
    assert_close(spoken.log_mels, expected, "float32")
    np.testing.assert_array_equal(spoken.lengths, np.minimum(durations.sum(1), max_frames))
    np.testing.assert_array_equal(spoken.lengths, spoken.alignments.sum(axis=(1, 2)))
    assert spoken.lengths[0] > 0 == spoken.lengths[2]


def test_what_stands_in_the_padding_changes_nothing() -> None:
    @jax.jit
    def value_and_gradients(params, tokens, mels):
        value, pullback, durations = jax.vjp(
            lambda params, mels: predict(MODULE, params, tokens, mels), params, mels, has_aux=True
        )
        return value, durations, pullback(jax.tree.map(jnp.cos, value))

    args = float32(PARAMS), TEXT[0], jnp.float32(np.where(HEARD, MELS, 0))
    expected = value_and_gradients(*args)
    junk = jnp.asarray(np.where(READ, TOKENS, 99)), jnp.float32(np.where(HEARD, MELS, np.nan))
    assert_same(value_and_gradients(args[0], *junk), expected)
    (log_mels, log_durations, _), durations, _ = expected
    assert not np.where(HEARD, 0, log_mels).any()
    assert not np.where(READ, 0, log_durations).any()
    np.testing.assert_array_equal(durations.sum(axis=1), FRAMES)


# --- Learning ------------------------------------------------------------------------------------


def test_learns_how_long_tokens_last_and_speaks_them() -> None:
    """Token k lasts 2 + k frames and has a bump at a feature of its own."""
    rng = np.random.default_rng(0)
    tokens = np.array([rng.permutation(5)[:3] + 1 for _ in range(8)])
    durations = 2 + tokens
    num_frames = jnp.asarray(durations.sum(axis=1))
    mels = np.zeros((8, 21, 8), np.float32)
    for b in range(8):
        for t, token in enumerate(np.repeat(tokens[b], durations[b])):
            mels[b, t] = 2 * np.exp(-0.5 * (np.arange(8) - 1.3 * token) ** 2) - 0.5
    text = jnp.asarray(tokens), jnp.full(8, 3), jnp.zeros(8, jnp.int32)
    config = dataclasses.replace(
        *(SMALL,), front_end=FrontEnd(num_mels=8), width=32, mlp_hidden=64, decoder_layers=1
    )
    module = DurationTTS(config, deterministic=False)
    optimizer = optax.adam(5e-3)
    valid = (jnp.arange(21)[None] < num_frames[:, None])[..., None]

    def loss(params, key):
        arguments = *text, jnp.asarray(mels), num_frames
        y = module.apply({"params": params}, *arguments, rngs={"dropout": key})
        align = forward_sum_loss(y.soft, num_frames, text[1]).sum()
        errors = jnp.where(valid, (y.log_mels - mels) ** 2, 0).mean(axis=-1).sum()
        lasting = ((y.log_durations - jnp.log1p(y.durations)) ** 2).sum()
        return (align + errors + lasting) / num_frames.sum(), y.durations

    @jax.jit
    def train(key):
        variables = module.init(
            {"params": key, "dropout": key}, *text, jnp.asarray(mels), num_frames
        )
        params = nn.unbox(variables)["params"]

        def update(state, key):
            gradient, found = jax.grad(loss, has_aux=True)(state[0], key)
            updates, optimizer_state = optimizer.update(gradient, state[1])
            return (optax.apply_updates(state[0], updates), optimizer_state), found

        state = params, optimizer.init(params)
        (params, _), found = jax.lax.scan(update, state, jax.random.split(key, 150))
        spoken = DurationTTS(config).apply({"params": params}, *text, 30, method="synthesise")
        return found[-1], spoken

    found, spoken = train(jax.random.key(0))
    assert np.abs(found - durations).mean() < 0.5  # the aligner finds them in the frames
    assert np.abs(spoken.lengths - num_frames).mean() < 2  # the predictor in the text
    assert diagonality(spoken.alignments, spoken.lengths, text[1]).mean() > 0.8
    middles = np.asarray(spoken.alignments).cumsum(axis=1).argmax(axis=1) - 1
    heard = np.asarray(spoken.log_mels)[np.arange(8)[:, None], middles].argmax(-1)
    assert (heard == np.round(1.3 * tokens)).mean() > 0.8


# --- The config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, r"--model\.num-heads 3 does not divide --model\.width 128"),
        ({"width": 6}, r"--model\.width 6 .* odd size of a head"),
        ({"decoder_layers": 0}, r"--model\.decoder-layers is 0"),
        ({"dropout": -0.1}, r"--model\.dropout is -0\.1"),
        ({"vocab_size": 2}, r"--model\.vocab-size 2 is smaller than the data's 6"),
        ({"num_speakers": 1}, r"--model\.num-speakers 1 is smaller than the data's 2"),
        ({"front_end": FrontEnd(floor=0.0)}, r"--model\.front-end: floor is 0\.0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_do_not_fit_are_named(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DurationTTSConfig(**changes).resolve(**DATA)


def test_zeros_follow_the_data_and_the_width() -> None:
    config = DurationTTSConfig(width=12).resolve(**DATA)
    assert (config.vocab_size, config.num_speakers, config.mlp_hidden) == (6, 2, 48)
    assert config.resolve(**DATA) == config
