"""Models that may copy: both against their twins, step by step, over padding, and as they write."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, float32, in_dtype, random_params

from jaxseq.decoding.cache import layer_by_layer
from jaxseq.decoding.transduce import translate
from jaxseq.errors import UserError
from jaxseq.models.encoder_decoder import EncoderDecoderConfig
from jaxseq.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxseq.ops.copying import mixture_cross_entropy, mixture_log_probs
from jaxseq.reference.encoder_decoder import encoder_decoder
from jaxseq.reference.rnn_seq2seq import rnn_seq2seq

SIZES = {"source_vocab_size": 6, "target_vocab_size": 6}
CONFIGS = {
    "recurrent": RNNSeq2SeqConfig(width=8, cell="gru", input_feeding=True, copy=True),
    "transformer": EncoderDecoderConfig(
        width=8, num_heads=2, mlp_hidden=12, encoder_layers=1, decoder_layers=1, copy=True
    ),
}
CONFIGS = {name: config.resolve(**SIZES) for name, config in CONFIGS.items()}
UNKNOWN = 2
# Words 6 and on are not in the vocabulary: the model reads 2 in their place.
COPIES = np.array([[3, 7, 5, 7], [6, 4, 0, 0], [0, 0, 0, 0]], np.int32)
SOURCE_LENGTHS = np.array([4, 2, 0], np.int32)
SOURCE = np.where(COPIES < 6, COPIES, UNKNOWN).astype(np.int32)
INPUTS = np.array([[0, 2, 3], [0, 4, 2], [0, 5, 5]], np.int32)
TARGETS = np.array([[7, 3, 1], [4, 6, 1], [5, 1, 1]], np.int32)
TARGET_LENGTHS = np.array([3, 3, 2], np.int32)
ARRAYS = tuple(map(jnp.asarray, (SOURCE, SOURCE_LENGTHS, INPUTS, TARGET_LENGTHS)))
VALID = np.arange(3)[None] < TARGET_LENGTHS[:, None]


@functools.cache
def params_of(name: str) -> dict[str, Any]:
    return random_params(CONFIGS[name].build(), *ARRAYS)


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_twin(name: str) -> None:
    config = in_dtype(CONFIGS[name], "float64")

    def valid(mixture, weights, where):
        logits, gate = mixture
        return (
            where(VALID[..., None], logits, 0),
            where(VALID, gate, 0),
            where(VALID[..., None], weights, 0),
        )

    def run(params):
        return valid(*config.build().apply({"params": params}, *ARRAYS), jnp.where)

    def twin(params):
        if name == "recurrent":
            found = rnn_seq2seq(params, SOURCE, SOURCE_LENGTHS, INPUTS, config)
        else:
            found = encoder_decoder(params, SOURCE, SOURCE_LENGTHS, INPUTS, TARGET_LENGTHS, config)
        return valid(*found, np.where)

    check_parity(run, twin, params_of(name), dtype="float64")


@pytest.mark.parametrize("name", CONFIGS)
def test_without_copying_a_model_has_the_parameters_that_it_had(name: str) -> None:
    plain = dataclasses.replace(CONFIGS[name], copy=False).build()
    shapes = jax.eval_shape(lambda: plain.init(jax.random.key(0), *ARRAYS))["params"]
    added = {"gate"} if name == "recurrent" else {"gate", "pointer_query", "pointer_key"}
    assert set(params_of(name)) - set(shapes) == added
    params = float32(params_of(name))
    scores, _ = jax.eval_shape(lambda: plain.apply({"params": params}, *ARRAYS))
    assert scores.shape == (3, 3, 6)


@pytest.mark.parametrize("name", CONFIGS)
def test_step_by_step_equals_the_whole(name: str) -> None:
    module, params = CONFIGS[name].build(), float32(params_of(name))
    lengths = jnp.array([3, 3, 3])
    whole = jax.jit(module.apply)({"params": params}, *ARRAYS[:3], lengths)
    if name == "transformer":
        module, params = layer_by_layer(module, params)

    @jax.jit
    def steps(inputs):
        run = functools.partial(module.apply, {"params": params})
        encoded = run(*ARRAYS[:2], method="encode")
        carry, found = run(encoded, 3, method="start"), []
        for t in range(3):
            mixture, weights, carry = run(inputs[:, t], carry, encoded, method="decode_step")
            found.append((mixture, weights))
        return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *found)

    assert_close(steps(ARRAYS[2]), whole, "float32")


@pytest.mark.parametrize("name", CONFIGS)
def test_what_stands_in_the_padding_changes_neither_the_loss_nor_its_gradient(name: str) -> None:
    module, params = CONFIGS[name].build(), float32(params_of(name))

    @jax.jit
    def both(source, copies, inputs, targets):
        def loss(params):
            lengths = jnp.asarray(SOURCE_LENGTHS), jnp.asarray(TARGET_LENGTHS)
            found = module.apply({"params": params}, source, lengths[0], inputs, lengths[1])
            return mixture_cross_entropy(*found, copies, targets, jnp.asarray(VALID))[0]

        return jax.value_and_grad(loss)(params)

    expected = both(SOURCE, COPIES, INPUTS, TARGETS)
    inside = np.arange(4)[None] < SOURCE_LENGTHS[:, None]
    for junk in (-1, 10_000):
        sources = (np.where(inside, x, junk).astype(np.int32) for x in (SOURCE, COPIES))
        targets = (np.where(VALID, x, junk).astype(np.int32) for x in (INPUTS, TARGETS))
        assert_same(both(*sources, *targets), expected)


@pytest.mark.parametrize(("name", "beam_size"), [("recurrent", 1), ("transformer", 3)])
def test_what_is_written_may_be_copied_and_the_score_is_its_log_probability(
    name: str, beam_size: int
) -> None:
    module, params = CONFIGS[name].build(), float32(params_of(name))
    gate = params["gate"]
    params = params | {"gate": {"kernel": 0 * gate["kernel"], "bias": 0 * gate["bias"] - 4}}
    tokens, lengths, scores, looks = translate(
        module, params, *ARRAYS[:2],
        beam_size=beam_size, max_length=4, start_token=0, end_token=1,
        copies=jnp.asarray(COPIES), unknown_token=UNKNOWN, no_repeat=2,
    )  # fmt: skip
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    assert (tokens[:2] >= 6).any()  # which no gate but a nearly shut one would do
    inputs = np.concatenate([np.zeros((3, 1), int), np.where(tokens < 6, tokens, 2)[:, :-1]], 1)
    found = jax.jit(module.apply)(
        {"params": params}, *ARRAYS[:2], jnp.asarray(inputs, jnp.int32), jnp.asarray(lengths + 1)
    )
    log_probs = jax.jit(mixture_log_probs, static_argnums=3)(*found, jnp.asarray(COPIES), 10)
    log_probs = np.asarray(log_probs)
    for row, length in enumerate(lengths):
        steps = np.arange(min(length + 1, 4))
        total = log_probs[row, steps, tokens[row, steps]].sum()
        np.testing.assert_allclose(scores[row], total, rtol=1e-4)
        pairs = list(zip([0, *tokens[row]], tokens[row, :length].tolist(), strict=False))
        assert len(set(pairs)) == len(pairs)
    written = np.arange(4)[None] < np.minimum(lengths + 1, 4)[:, None]
    sees = np.array([True, True, False])[:, None]
    np.testing.assert_allclose(looks.sum(-1), written & sees, atol=1e-6)


def test_options_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match=r"--model\.copy copies .* --model\.attention is none"):
        RNNSeq2SeqConfig(attention="none", copy=True).resolve(**SIZES)
    module, params = CONFIGS["recurrent"].build(), float32(params_of("recurrent"))
    options = {"beam_size": 1, "max_length": 2, "start_token": 0, "end_token": 1}
    with pytest.raises(ValueError, match="needs the argument `copies`"):
        translate(module, params, *ARRAYS[:2], **options)
