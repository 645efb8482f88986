"""The recurrent synthesiser: against its twin, on its own frames, over padding, as it learns."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compare import assert_close, assert_same, check_parity, float32, in_dtype, random_params

from jaxseq.errors import UserError
from jaxseq.models.attention_tts import AttentionTTS, AttentionTTSConfig
from jaxseq.ops.guided_attention import diagonality, guided_attention_loss
from jaxseq.ops.spectral import FrontEnd
from jaxseq.reference.attention_tts import attention_tts, speak_row

DATA = {"vocab_size": 6, "num_speakers": 2}
SMALL = AttentionTTSConfig(
    front_end=FrontEnd(num_mels=3),
    width=6,
    encoder_convolutions=1,
    prenet_width=4,
    attention_width=4,
    location_width=3,
    location_channels=2,
    postnet_layers=1,
    kernel=3,
).resolve(**DATA)
THREE = dataclasses.replace(
    SMALL, frames_per_step=3, decoder_layers=2, encoder_convolutions=2, postnet_layers=2
)
TOKENS = np.array([[3, 0, 5, 1], [2, 2, 4, 0], [1, 1, 1, 1]])
TOKEN_LENGTHS = np.array([4, 2, 0])
SPEAKERS = np.array([1, 0, 1])
FRAMES = np.array([5, 4, 2])
MELS = np.random.default_rng(1).normal(size=(3, 5, 3))
TEXT = tuple(map(jnp.asarray, (TOKENS, TOKEN_LENGTHS, SPEAKERS)))
HEARD = (np.arange(5)[None] < FRAMES[:, None])[..., None]


def make(config: AttentionTTSConfig, seed: int = 0) -> tuple[AttentionTTS, dict[str, Any]]:
    module = AttentionTTS(config)
    return module, random_params(module, *TEXT, jnp.float32(MELS), jnp.asarray(FRAMES), seed=seed)


@partial(jax.jit, static_argnums=(0, 2))
def speak(module: AttentionTTS, params, max_frames: int, key: int = 0):
    rngs = {"dropout": jax.random.key(key)}
    variables = {"params": params}
    return module.apply(variables, *TEXT, max_frames, rngs=rngs, method="synthesise")


def test_equals_twin() -> None:
    _, params = make(THREE)
    module = AttentionTTS(in_dtype(THREE, "float64"))

    def run(params, mels):
        y = module.apply({"params": params}, *TEXT, mels, jnp.asarray(FRAMES))
        return y.before, y.after, y.stop_logits, y.alignments

    def twin(params, mels):
        return attention_tts(params, TOKENS, TOKEN_LENGTHS, SPEAKERS, mels, FRAMES, THREE)

    check_parity(run, twin, params, MELS, dtype="float64")


@pytest.mark.parametrize(("config", "seed"), [(SMALL, 2), (THREE, 4)])
def test_speaks_like_its_twin_and_ends_where_it_stops(config, seed: int) -> None:
    module, params = make(config, seed)
    params["frames"]["bias"][3::4] -= 0.6
    spoken = speak(module, float32(params), 8)
    ends = set()
    for b, length in enumerate(TOKEN_LENGTHS):
        _, after, stops, alignment = speak_row(
            params, TOKENS[b, :length], int(SPEAKERS[b]), 8 if length else 0, config
        )
        count = len(after)
        assert spoken.lengths[b] == count
        assert_close(spoken.log_mels[b, :count], after, "float32")
        assert_close(spoken.alignments[b, :count, :length], alignment, "float32")
        assert not np.any(spoken.log_mels[b, count:])
        assert not np.any(spoken.alignments[b, count:])
        ends.add((count, bool(count and stops[-1] > 0)))
    # One row stops by itself, one goes on for as long as there is room, one has nothing to say.
    assert {(0, False), (8, False)} < ends
    assert len(ends) == 3


def test_its_own_frames_as_true_ones_give_the_same() -> None:
    module, params = make(THREE)
    params["postnet_output"] = jax.tree.map(np.zeros_like, params["postnet_output"])
    spoken = speak(module, float32(params), 8)
    told = jax.jit(module.apply)(
        {"params": float32(params)}, *TEXT, spoken.log_mels, spoken.lengths
    )
    assert_close(told.before, spoken.log_mels, "float32")
    assert_close(told.alignments, spoken.alignments, "float32")
    for stops, length in zip(np.asarray(told.stop_logits), spoken.lengths, strict=True):
        assert (stops[: max(0, length - 1)] <= 0).all()


def test_what_stands_in_the_padding_changes_nothing() -> None:
    module, params = make(SMALL)

    @jax.jit
    def value_and_gradients(params, tokens, mels):
        def outputs(params, mels):
            return module.apply({"params": params}, tokens, *TEXT[1:], mels, jnp.asarray(FRAMES))

        value, pullback = jax.vjp(outputs, params, mels)
        return value, pullback(jax.tree.map(jnp.cos, value))

    read = np.arange(4)[None] < TOKEN_LENGTHS[:, None]
    args = float32(params), TEXT[0], jnp.float32(np.where(HEARD, MELS, 0))
    expected = value_and_gradients(*args)
    junk = jnp.asarray(np.where(read, TOKENS, 99)), jnp.float32(np.where(HEARD, MELS, np.nan))
    assert_same(value_and_gradients(args[0], *junk), expected)
    for y in jax.tree.leaves(expected[0]):
        y = np.asarray(y).reshape(3, 5, -1)
        assert not np.where(HEARD, 0, y).any()


def test_dropout_in_synthesis_is_a_choice() -> None:
    module, params = make(SMALL)
    params = float32(params)
    drops = AttentionTTS(dataclasses.replace(SMALL, synthesis_dropout=True))
    assert_same(speak(module, params, 8, 1), speak(module, params, 8, 2))
    one, other = (np.asarray(speak(drops, params, 8, key).log_mels) for key in (1, 2))
    assert np.abs(one - other).max() > 1e-3
    assert (np.abs(np.diff(one[0], axis=0)).max(axis=-1) > 1e-3).any()


# --- Learning ------------------------------------------------------------------------------------


def tones(durations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texts of random tokens, and frames with a bump at each token's own feature."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 6, durations.shape)
    num_frames = durations.sum(axis=1)
    mels = np.zeros((len(tokens), num_frames.max(), 8))
    for b in range(len(tokens)):
        for t, token in enumerate(np.repeat(tokens[b], durations[b])):
            mels[b, t] = 2 * np.exp(-0.5 * (np.arange(8) - 1.3 * token) ** 2) - 0.5
    return tokens, mels, num_frames


def test_learns_to_speak_and_to_stop() -> None:
    durations = np.random.default_rng(1).integers(3, 6, (8, 3))
    tokens, mels, num_frames = tones(durations)
    text = jnp.asarray(tokens), jnp.full(8, 3), jnp.zeros(8, jnp.int32)
    mels, num_frames = jnp.float32(mels), jnp.asarray(num_frames)
    config = dataclasses.replace(
        SMALL, front_end=FrontEnd(num_mels=8), width=32, prenet_width=16, attention_width=16
    )
    module = AttentionTTS(config, deterministic=False)
    valid = (jnp.arange(mels.shape[1])[None] < num_frames[:, None]).astype(jnp.float32)
    ends = (jnp.arange(mels.shape[1])[None] == num_frames[:, None] - 1).astype(jnp.float32)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))

    def loss(params, key):
        y = module.apply({"params": params}, *text, mels, num_frames, rngs={"dropout": key})
        errors = (y.before - mels) ** 2 + (y.after - mels) ** 2
        guided, frames = guided_attention_loss(y.alignments, num_frames, text[1])
        stops = optax.sigmoid_binary_cross_entropy(y.stop_logits, ends) * (1 + 4 * ends)
        total = (valid[..., None] * errors).sum() / 8 + (valid * stops).sum() + guided
        return total / frames

    @jax.jit
    def train(key):
        params = nn.unbox(module.init({"params": key, "dropout": key}, *text, mels, num_frames))

        def update(state, key):
            value, gradient = jax.value_and_grad(loss)(state[0], key)
            updates, optimizer_state = optimizer.update(gradient, state[1])
            return (optax.apply_updates(state[0], updates), optimizer_state), value

        state = params["params"], optimizer.init(params["params"])
        (params, _), losses = jax.lax.scan(update, state, jax.random.split(key, 150))
        spoken = AttentionTTS(config).apply({"params": params}, *text, 40, method="synthesise")
        return losses, spoken

    losses, spoken = train(jax.random.key(0))
    assert losses[-1] < 0.3 * losses[0]
    # Spoken from the text alone, of about the right length and along the diagonal.
    assert np.abs(spoken.lengths - num_frames).mean() < 2
    assert diagonality(spoken.alignments, spoken.lengths, text[1]).mean() > 0.9
    middles = np.cumsum(durations, axis=1) - durations // 2 - 1
    heard = np.asarray(spoken.log_mels)[np.arange(8)[:, None], middles].argmax(-1)
    said = np.asarray(mels)[np.arange(8)[:, None], middles].argmax(-1)
    assert (heard == said).mean() > 0.8


# --- The config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 9}, r"--model\.width 9 is odd"),
        ({"frames_per_step": 0}, r"--model\.frames-per-step is 0"),
        ({"prenet_dropout": 1.0}, r"--model\.prenet-dropout is 1\.0"),
        ({"vocab_size": 2}, r"--model\.vocab-size 2 is smaller than the data's 6"),
        ({"num_speakers": 1}, r"--model\.num-speakers 1 is smaller than the data's 2"),
        ({"front_end": FrontEnd(hop=900)}, r"--model\.front-end: hop is 900"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_do_not_fit_are_named(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AttentionTTSConfig(**changes).resolve(**DATA)
