"""The recurrent language model: causal, the same in one piece and in many, for every cell."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close

from jaxseq.errors import UserError
from jaxseq.models.rnn_lm import RNNLMConfig
from jaxseq.nn.recurrent import CellName

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 9)))


def build(cell, **fields):
    config = RNNLMConfig(cell=cell, num_layers=2, width=8, **fields)
    module = config.resolve(vocab_size=7, context=0).build()
    return module, module.init(jax.random.key(0), TOKENS)["params"]


@pytest.mark.parametrize("cell", get_args(CellName))
def test_read_in_pieces_and_token_by_token_equals_the_whole(cell):
    """Truncated backpropagation and decoding carry the state exactly."""
    module, params = build(cell, residual=True, layer_norm=True, mlp_hidden=12)

    @jax.jit
    def both(params):
        whole = module.apply({"params": params}, TOKENS)
        carry, pieces = module.zero_carry(2), []
        for start, stop in ((0, 4), (4, 5), (5, 6), (6, 9)):
            piece = TOKENS[:, start:stop]
            logits, carry = module.apply({"params": params}, piece, carry, method="read")
            pieces.append(logits)
        return whole, jnp.concatenate(pieces, axis=1)

    whole, pieces = both(params)
    assert whole.shape == (2, 9, 7)
    assert_close(pieces, np.asarray(whole), "float32")


@pytest.mark.parametrize("cell", ["gru", "rglru"])
def test_no_logit_sees_a_later_token(cell):
    module, params = build(cell, tie_embeddings=False)
    changed = TOKENS.at[:, 5].set((TOKENS[:, 5] + 1) % 7)
    read = jax.jit(lambda tokens: module.apply({"params": params}, tokens))
    before, after = read(TOKENS), read(changed)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.all(np.any(before[:, 5:] != after[:, 5:], axis=-1))


def test_a_tied_model_has_no_output_matrix():
    assert "output" not in build("gru")[1]
    assert "output" in build("gru", tie_embeddings=False)[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_layers": 0}, "--model.num-layers is 0"),
        ({"width": 0}, "--model.width is 0"),
        ({"mlp_hidden": -1}, "--model.mlp-hidden is -1"),
        ({"dropout": 1.0}, "--model.dropout is 1.0"),
        ({"variational_dropout": -0.1}, "--model.variational-dropout"),
        ({"vocab_size": 3}, "--model.vocab-size 3 is smaller"),
    ],
)
def test_options_out_of_range_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        RNNLMConfig(**fields).resolve(vocab_size=7, context=0)
