"""The recogniser of speech: against its twin, over padding, label by label, and as it hears."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, float32, in_dtype, random_params

from jaxseq.config import from_tree, to_tree
from jaxseq.decoding.cache import layer_by_layer
from jaxseq.errors import UserError
from jaxseq.models.speech_recognizer import SpeechRecognizer, SpeechRecognizerConfig
from jaxseq.nn.speech_features import SpecAugment
from jaxseq.ops.spectral import FrontEnd
from jaxseq.reference import spectral
from jaxseq.reference.speech_recognizer import speech_recognizer

FRONT_END = FrontEnd(rate=100, window=10, hop=4, fft_size=16, num_mels=3)
SAMPLES = np.random.default_rng(0).normal(size=(3, 70)) / 4
LENGTHS = np.array([70, 33, 0], np.int32)
TARGETS = jnp.array([[0, 2, 1], [0, 1, 0], [0, 0, 0]])
TARGET_LENGTHS = jnp.array([3, 2, 1])
SMALL = SpeechRecognizerConfig(
    front_end=FRONT_END, width=8, num_heads=2, kernel=3, num_layers=2, left_chunks=1
).resolve(vocab_size=4)

CONFIGS = {
    "bilstm": dataclasses.replace(SMALL, num_layers=1, deltas=True, decoder="attention"),
    "lstm": dataclasses.replace(SMALL, encoder="lstm", chunk=2, normalise="running"),
    "chunks": dataclasses.replace(SMALL, encoder="conformer", chunk=2, normalise="running"),
    "short chunks": dataclasses.replace(
        SMALL, encoder="conformer", subsampling=2, chunk=2, left_chunks=0, normalise="none"
    ),
}


def inputs(config: SpeechRecognizerConfig) -> tuple:
    """What a call of the model is given."""
    speech = jnp.asarray(SAMPLES), jnp.asarray(LENGTHS)
    return (*speech, TARGETS, TARGET_LENGTHS) if config.decoder == "attention" else speech


@functools.cache
def parameters(name: str) -> dict[str, Any]:
    return random_params(CONFIGS[name].build(), *inputs(CONFIGS[name]))


@functools.cache
def compiled(name: str) -> Any:
    """The model of a config as (samples, lengths, [targets, lengths]) -> Recognized."""
    variables = {"params": float32(parameters(name))}
    return jax.jit(functools.partial(CONFIGS[name].build().apply, variables))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("bilstm", "float64"), ("lstm", "float32"), ("chunks", "float32")],
)
def test_equals_twin(name: str, dtype: str) -> None:
    config, params = CONFIGS[name], parameters(name)
    module = SpeechRecognizer(in_dtype(config, dtype))
    given = inputs(config)
    targets = tuple(map(np.asarray, given[2:]))
    # What float32 makes of the waveform's samples is what the twin hears too.
    samples = SAMPLES.astype(dtype)
    mels = spectral.log_mel(samples.astype(np.float64), LENGTHS, FRONT_END)
    frames = np.where(LENGTHS > 0, 1 + LENGTHS // FRONT_END.hop, 0)

    def ours(params):
        found = module.apply({"params": params}, jnp.asarray(samples), *given[1:])
        return (found.logits,) if targets == () else (found.logits, found.target_logits)

    check_parity(
        ours,
        lambda params: speech_recognizer(params, mels, frames, config, *targets),
        params,
        dtype=dtype,
    )


@pytest.mark.parametrize("name", ["bilstm", "chunks"])
def test_padding_cannot_matter(name: str) -> None:
    config, params = CONFIGS[name], float32(parameters(name))
    module, valid = config.build(), np.arange(70)[None] < LENGTHS[:, None]

    @jax.jit
    def compute(samples):
        def loss(params, samples):
            found = module.apply({"params": params}, samples, *inputs(config)[1:])
            return sum((x**2).sum() for x in jax.tree.leaves(found)), found

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, samples)

    clean = compute(jnp.where(valid, jnp.float32(SAMPLES), 0))
    assert_same(compute(jnp.where(valid, jnp.float32(SAMPLES), jnp.nan)), clean)
    (_, found), _ = clean
    np.testing.assert_array_equal(
        found.lengths, -(-(1 + LENGTHS // 4) // config.subsampling) * (LENGTHS > 0)
    )
    behind = np.arange(found.logits.shape[1])[None] >= found.lengths[:, None]
    assert not np.asarray(found.logits)[behind].any()


# --- As it hears ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "chunks", "short chunks"])
def test_a_stream_gives_what_the_whole_gives(name: str) -> None:
    # Rows that end in a chunk, at its end, just behind it, and with less than a window.
    config = CONFIGS[name]
    size = config.stream_samples
    lengths = np.array([2 * size + 1, size, size + 3, 2, 0, 2 * size - 1, 3 * size])
    samples = np.random.default_rng(1).normal(size=(7, 4 * size)) / 4
    samples = jnp.float32(np.where(np.arange(4 * size)[None] < lengths[:, None], samples, np.nan))
    whole = compiled(name)(samples, jnp.asarray(lengths))

    variables, module = {"params": float32(parameters(name))}, config.build()
    step = jax.jit(functools.partial(module.apply, variables, method="stream_step"))
    carry, parts = module.apply(variables, 7, method="stream_start"), []
    for i in range(4):
        # What is said of a row that has ended is not heard.
        left = jnp.where(lengths < i * size, size, np.clip(lengths - i * size, 0, size))
        found, carry = step(samples[:, i * size : (i + 1) * size], carry, left)
        parts.append(found)
    np.testing.assert_array_equal(sum(part.lengths for part in parts), whole.lengths)
    logits = jnp.concatenate([part.logits for part in parts], axis=1)
    # The whole has a frame more: that of a row that would end with the last chunk.
    assert_close(logits, whole.logits[:, :-1], "float32")


def test_streams_are_asked_for_with_a_chunk_of_the_right_size() -> None:
    module = CONFIGS["lstm"].build()
    variables = {"params": float32(parameters("lstm"))}
    carry = module.apply(variables, 1, method="stream_start")
    with pytest.raises(ValueError, match="samples: a chunk has 32 of them, not 31"):
        module.apply(variables, jnp.zeros((1, 31)), carry, method="stream_step")
    with pytest.raises(ValueError, match="chunk: without one"):
        CONFIGS["bilstm"].build().apply({"params": {}}, 1, method="stream_start")


# --- Label by label ------------------------------------------------------------------------------


def test_label_by_label_equals_all_at_once() -> None:
    module, params = CONFIGS["bilstm"].build(), float32(parameters("bilstm"))
    speech = jnp.float32(SAMPLES), jnp.asarray(LENGTHS)
    forced = compiled("bilstm")(*speech, TARGETS, jnp.full(3, 3))
    writer, apart = layer_by_layer(module, params)

    @jax.jit
    def write(samples, lengths):
        run = functools.partial(writer.apply, {"params": apart})
        encoded = run(samples, lengths, method="encode")
        carry, found = run(encoded, 3, method="start"), []
        for n in range(3):
            logits, _, carry = run(TARGETS[:, n], carry, encoded, method="decode_step")
            found.append(logits)
        return jnp.stack(found, axis=1)

    assert_close(write(*speech), forced.target_logits, "float32")


def test_ctc_alone_needs_no_targets() -> None:
    config = CONFIGS["bilstm"]
    speech = jnp.float32(SAMPLES), jnp.asarray(LENGTHS)
    # Parameters are all made, and a call for CTC alone leaves the decoder out.
    shapes = jax.eval_shape(config.build().init, jax.random.key(0), *speech)
    named = {path for path, _ in jax.tree_util.tree_leaves_with_path(nn.unbox(shapes["params"]))}
    drawn = jax.tree_util.tree_leaves_with_path(parameters("bilstm"))
    assert named == {path for path, _ in drawn}
    found = jax.eval_shape(lambda: dataclasses.asdict(compiled("bilstm")(*speech)))
    assert found["target_logits"] is None
    with pytest.raises(ValueError, match="target_inputs: the model has no decoder"):
        compiled("lstm")(*inputs(config))


# --- In training ---------------------------------------------------------------------------------


def test_spec_augment_hides_in_training_alone() -> None:
    masks = SpecAugment(time_masks=1, time_width=6, mel_masks=1, mel_width=2)
    config = dataclasses.replace(CONFIGS["lstm"], spec_augment=masks, dropout=0.0)
    speech = jnp.float32(SAMPLES), jnp.asarray(LENGTHS)
    variables = {"params": float32(parameters("lstm"))}
    silent = jax.jit(functools.partial(config.build().apply, variables))(*speech)
    assert_same(silent, compiled("lstm")(*speech))

    @jax.jit
    def train(key):
        return config.build(deterministic=False).apply(variables, *speech, rngs={"dropout": key})

    one, same, other = map(train, map(jax.random.key, (0, 0, 1)))
    assert_same(one, same)
    assert not np.array_equal(one.logits, other.logits)
    np.testing.assert_array_equal(one.lengths, other.lengths)


# --- The config ----------------------------------------------------------------------------------


def test_a_config_is_kept_as_json() -> None:
    assert from_tree(to_tree(CONFIGS["chunks"])) == CONFIGS["chunks"]
    assert SMALL.vocab_size == 4
    assert dataclasses.replace(SMALL, chunk=5, subsampling=2).stream_samples == 40


STREAM = {"encoder": "lstm", "chunk": 2, "normalise": "running"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, r"--model\.num-layers is 0; it must be at least 1"),
        ({"kernel": 0}, r"--model\.kernel is 0"),
        ({"decoder_layers": 0}, r"--model\.decoder-layers is 0"),
        ({"dropout": 1.0}, r"--model\.dropout is 1\.0"),
        ({"vocab_size": 3}, r"--model\.vocab-size 3 is smaller .* 4"),
        ({"width": 9}, r"--model\.width 9 is odd .* make it even"),
        ({"encoder": "conformer", "num_heads": 3}, r"--model\.num-heads 3 does not divide"),
        ({"decoder": "attention", "width": 6, "num_heads": 2}, r"heads of an odd size"),
        ({"chunk": -1}, r"--model\.chunk is -1; it must be at least 0"),
        ({"left_chunks": -1}, r"--model\.left-chunks is -1"),
        (
            {"spec_augment": SpecAugment(mel_width=-2)},
            r"--model\.spec-augment: mel_width is -2; it",
        ),
        ({"front_end": FrontEnd(hop=0)}, r"--model\.front-end: hop is 0"),
        ({"chunk": 2}, r"--model\.chunk 2 .* --model\.encoder bilstm hears backwards"),
        (STREAM | {"deltas": True}, r"--model\.deltas looks ahead"),
        (STREAM | {"normalise": "utterance"}, r"--model\.normalise utterance needs all"),
        (
            STREAM | {"front_end": FrontEnd(hop=20)},
            r"--model\.front-end\.window 200, above 160 samples",
        ),
        (STREAM | {"chunk": 1}, r"--model\.front-end\.window 200 is longer than a chunk"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_do_not_fit_are_named(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SpeechRecognizerConfig(**changes).resolve(vocab_size=4)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_needs_a_label() -> None:
    with pytest.raises(UserError, match="a label beside the blank"):
        SpeechRecognizerConfig().resolve(vocab_size=1)
