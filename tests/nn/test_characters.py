"""Words out of characters: the same alone and among longer words, 0 where there are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, check_parity, random_params

from jaxseq.nn.characters import CharacterCNN, CharacterLSTM
from jaxseq.reference.characters import character_cnn, character_lstm

WORDS = np.array([[3, 1, 4, 1, 2], [2, 5, 0, 0, 0], [0, 0, 0, 0, 0], [4, 0, 0, 0, 0]])
KINDS = {"cnn": (CharacterCNN, character_cnn), "lstm": (CharacterLSTM, character_lstm)}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_twin(kind):
    layer, twin = KINDS[kind]
    module = layer(num_characters=6, features=4, embedding_width=3)
    params = random_params(module, jnp.asarray(WORDS))

    check_parity(
        lambda params: module.apply({"params": params}, jnp.asarray(WORDS)),
        lambda params: twin(params, WORDS),
        params,
        dtype="float64",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_is_the_same_in_any_room_and_shape(kind):
    layer, _ = KINDS[kind]
    module = layer(num_characters=6, features=4, embedding_width=3)
    params = random_params(module, jnp.asarray(WORDS))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    alone = module.apply({"params": params}, jnp.asarray(WORDS[1:2, :2]))
    among = module.apply({"params": params}, jnp.asarray(WORDS).reshape(2, 2, 5))
    assert among.shape == (2, 2, 4)
    assert_close(among[0, 1], np.asarray(alone[0]), "float32")
    np.testing.assert_array_equal(among[1, 0], 0.0)
