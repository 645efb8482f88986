"""The recurrent encoder and its heads against their twin; padding and options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_same, check_parity, float32, in_dtype, random_params

from jaxseq.errors import UserError
from jaxseq.models.rnn_encoder import RNNEncoderConfig
from jaxseq.reference import rnn_encoder as reference

SMALL = RNNEncoderConfig(width=6, embedding_width=4, cell="gru").resolve(
    vocab_size=7, context=9, num_labels=3
)
LENGTHS = np.array([5, 2, 0])
rng = np.random.default_rng(0)
TOKENS = rng.integers(0, 7, (3, 5))
TYPES = rng.integers(0, 2, (3, 5))
SEGMENTS = (np.arange(5)[None] < LENGTHS[:, None]).astype(np.int32)


def apply(config: RNNEncoderConfig, head: str, params, tokens=TOKENS, types=TYPES):
    inputs = {"types": jnp.asarray(types), "segments": jnp.asarray(SEGMENTS)}
    return config.build(head).apply({"params": params}, jnp.asarray(tokens), **inputs)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling": "mean", "cell": "lstm"},
        {"bidirectional": False, "num_layers": 2, "cell": "elman"},
    ],
)
def test_label_logits_equal_twin(changes):
    config = dataclasses.replace(SMALL, **changes)
    params = random_params(config.build("classification"), jnp.asarray(TOKENS))
    config = in_dtype(config, "float64")
    check_parity(
        lambda params: apply(config, "classification", params),
        lambda params: reference.label_logits(params, TOKENS, TYPES, LENGTHS, config),
        params,
        dtype="float64",
    )


@pytest.mark.parametrize("head", ["classification", "tagging", "spans"])
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_what_stands_in_the_padding_changes_nothing(head, pooling):
    config = dataclasses.replace(SMALL, pooling=pooling)
    params = float32(random_params(config.build(head), jnp.asarray(TOKENS)))
    outside = SEGMENTS == 0
    shown = outside if head != "classification" else np.zeros((3,), bool)

    @jax.jit
    def value_and_gradient(params, tokens, types):
        def summed(params):
            found = jnp.stack(jax.tree.leaves(apply(config, head, params, tokens, types)))
            kept = jnp.where(
                shown.reshape(shown.shape + (1,) * (found.ndim - 1 - shown.ndim)), 0, found
            )
            return jnp.sum(jnp.cos(kept)), kept

        return jax.value_and_grad(summed, has_aux=True)(params)

    clean = value_and_gradient(params, np.where(outside, 0, TOKENS), np.where(outside, 0, TYPES))
    dirty = value_and_gradient(params, np.where(outside, 99, TOKENS), np.where(outside, -3, TYPES))
    assert_same(dirty, clean)
    assert np.all(np.isfinite(jax.tree.leaves(clean)[0]))


def test_word_dropout_drops_whole_tokens():
    """With nearly all tokens dropped, what is left of two texts is the same."""
    config = dataclasses.replace(SMALL, word_dropout=0.999, dropout=0.0)
    params = float32(random_params(config.build("tagging"), jnp.asarray(TOKENS)))
    module = config.build("tagging", deterministic=False)
    rngs = {"dropout": jax.random.key(0)}
    one, other = (
        module.apply({"params": params}, jnp.asarray(tokens), rngs=rngs)
        for tokens in (TOKENS, (TOKENS + 1) % 7)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 5}, r"--model\.width 5 is odd"),
        ({"num_layers": 0}, r"--model\.num-layers is 0"),
        ({"word_dropout": 1.0}, r"--model\.word-dropout is 1\.0"),
        ({"vocab_size": 3}, r"--model\.vocab-size 3 is smaller"),
    ],
)
def test_options_that_do_not_fit_are_named(changes, message):
    config = dataclasses.replace(RNNEncoderConfig(), **changes)
    with pytest.raises(UserError, match=message):
        config.resolve(vocab_size=7, context=9, num_labels=3)
