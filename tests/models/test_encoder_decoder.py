"""Encoder-decoder Transformers against their twin; cached decoding; padding."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, check_parity, float32, in_dtype, random_params

from jaxseq.errors import UserError
from jaxseq.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from jaxseq.nn.transformer import unstack
from jaxseq.reference.encoder_decoder import encoder_decoder

SMALL = EncoderDecoderConfig(width=8, num_heads=2, mlp_hidden=12, context=9)
CONFIGS = {
    "2017": SMALL,
    "t5": dataclasses.replace(
        SMALL,
        positions="relative",
        relative_buckets=8,
        relative_distance=6,
        norm="rms",
        norm_position="pre",
        activation="geglu",
        head_size=3,
        use_bias=False,
        scale_embeddings=False,
        scale_attention=False,
        share_embeddings=True,
        scale_logits=True,
    ),
    "bart": dataclasses.replace(
        SMALL,
        positions="learned",
        activation="gelu_exact",
        embedding_norm=True,
        output_bias=True,
        scale_embeddings=False,
        share_embeddings=True,
        decoder_layers=1,
    ),
    "untied": dataclasses.replace(SMALL, tie_embeddings=False, norm_position="pre"),
}
CONFIGS = {
    name: config.resolve(source_vocab_size=11, target_vocab_size=11)
    for name, config in CONFIGS.items()
}
SOURCE = np.array([[3, 0, 7, 1, 5], [2, 2, 9, 0, 4]], np.int32)
SOURCE_LENGTHS = np.array([5, 3], np.int32)
INPUTS = np.array([[0, 4, 6, 8], [0, 10, 2, 1]], np.int32)
TARGET_LENGTHS = np.array([4, 2], np.int32)
ARRAYS = tuple(map(jnp.asarray, (SOURCE, SOURCE_LENGTHS, INPUTS, TARGET_LENGTHS)))
VALID = (np.arange(4)[None] < TARGET_LENGTHS[:, None])[..., None]


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_twin(name: str) -> None:
    config = in_dtype(CONFIGS[name], "float64")
    module = EncoderDecoder(config)

    def run(params):
        return jnp.where(VALID, module.apply({"params": params}, *ARRAYS)[0], 0)

    def twin(params):
        arrays = (SOURCE, SOURCE_LENGTHS, INPUTS, TARGET_LENGTHS)
        return VALID * encoder_decoder(params, *arrays, config)

    params = random_params(EncoderDecoder(CONFIGS[name]), *ARRAYS)
    check_parity(run, twin, params, dtype="float64")


@pytest.mark.parametrize("name", CONFIGS)
def test_step_by_step_equals_the_whole(name: str) -> None:
    module = EncoderDecoder(CONFIGS[name])
    params = float32(random_params(module, *ARRAYS))
    lengths = jnp.array([4, 4])
    whole, _ = jax.jit(module.apply)({"params": params}, *ARRAYS[:3], lengths)

    def apart(tree: dict) -> dict:
        return {f"layer_{i}": layer for i, layer in enumerate(unstack(tree))}

    layered = {"params": params | {side: apart(params[side]) for side in ("encoder", "decoder")}}
    module = module.clone(scan_layers=False)
    encoded = jax.jit(partial(module.apply, method="encode"))(layered, *ARRAYS[:2])
    carry = module.apply(layered, encoded, 4, method="start")

    @jax.jit
    def step(tokens, carry):
        return module.apply(layered, tokens, carry, encoded, method="decode_step")

    for t in range(4):
        logits, _, carry = step(ARRAYS[2][:, t], carry)
        assert_close(logits, whole[:, t], "float32", f"step {t}")
    np.testing.assert_array_equal(carry.length, [4, 4])


def test_padding_changes_nothing() -> None:
    module = EncoderDecoder(CONFIGS["t5"])
    params = {"params": float32(random_params(module, *ARRAYS))}
    source = jnp.where(jnp.arange(5)[None] < SOURCE_LENGTHS[:, None], ARRAYS[0], 10**7)
    inputs = jnp.where(VALID[..., 0], ARRAYS[2], 10**7)
    apply = jax.jit(module.apply)
    one, _ = apply(params, *ARRAYS)
    other, _ = apply(params, source, ARRAYS[1], inputs, ARRAYS[3])
    np.testing.assert_array_equal(np.where(VALID, one, 0), np.where(VALID, other, 0))


def test_a_target_never_sees_what_follows() -> None:
    module = EncoderDecoder(CONFIGS["2017"])
    params = {"params": float32(random_params(module, *ARRAYS))}
    lengths = jnp.array([4, 4])
    later = ARRAYS[2].at[:, 2:].set(5)
    apply = jax.jit(module.apply)
    one, _ = apply(params, *ARRAYS[:3], lengths)
    other, _ = apply(params, *ARRAYS[:2], later, lengths)
    np.testing.assert_array_equal(one[:, :2], other[:, :2])
    assert np.any(one[:, 2] != other[:, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share_embeddings": True}, r"--model\.share-embeddings needs one vocabulary"),
        ({"decoder_layers": 0}, r"--model\.decoder-layers is 0"),
        ({"width": 9, "num_heads": 3}, r"even --model\.width, not 9"),
        ({"source_vocab_size": 2}, r"--model\.source-vocab-size 2 is smaller"),
    ],
)
def test_what_does_not_fit_names_the_option(changes: dict, message: str) -> None:
    config = dataclasses.replace(EncoderDecoderConfig(), **changes)
    with pytest.raises(UserError, match=message):
        config.resolve(source_vocab_size=7, target_vocab_size=9)
