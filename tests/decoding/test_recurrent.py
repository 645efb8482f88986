"""Generation by carried state equals generation by reading the whole text anew for every token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.decoding.generate import generate
from jaxseq.decoding.sampling import SamplingConfig, sample_token
from jaxseq.errors import UserError
from jaxseq.models.rnn_lm import RNNLMConfig

PROMPT = jnp.array([[3, 1, 4], [1, 5, 2]])


def build(cell="gru"):
    config = RNNLMConfig(cell=cell, num_layers=2, width=8, residual=True, layer_norm=True)
    module = config.resolve(vocab_size=7, context=0).build()
    params = jax.jit(module.init)(jax.random.key(0), PROMPT)["params"]
    # Logits of order 1: the tokens then differ from draw to draw.
    return module, jax.tree.map(lambda x: 3 * x, params)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_equals_reading_the_whole_text_for_every_token(temperature):
    module, params = build()
    key, sampling = jax.random.key(5), SamplingConfig(temperature=temperature, top_k=5)
    found = generate(module, params, PROMPT, max_new_tokens=6, sampling=sampling, key=key)
    read = jax.jit(lambda text: module.apply({"params": params}, text))
    text = PROMPT
    for i in range(6):
        # What follows does not matter, and one program reads texts of all lengths.
        logits = read(jnp.pad(text, ((0, 0), (0, 6 - i))))[:, text.shape[1] - 1]
        drawn = sample_token(
            jax.random.fold_in(key, i), logits, temperature=temperature, top_k=5, top_p=1.0
        )
        text = jnp.concatenate([text, drawn[:, None]], axis=1)
    np.testing.assert_array_equal(found, text[:, 3:])
    assert len(np.unique(found)) > 1


def test_tokens_arrive_as_they_are_drawn_and_an_exception_stops_the_writing():
    module, params = build()
    arguments = {"max_new_tokens": 5, "sampling": SamplingConfig(), "key": jax.random.key(0)}
    seen = []
    found = generate(module, params, PROMPT, **arguments, on_tokens=seen.append)
    np.testing.assert_array_equal(np.stack(seen, axis=1), found)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(module, params, PROMPT, **arguments, on_tokens=stop)


def test_a_prompt_may_be_of_any_length_but_empty():
    module, params = build()
    arguments = {"max_new_tokens": 1, "sampling": SamplingConfig(), "key": jax.random.key(0)}
    assert generate(module, params, PROMPT[:, :1], **arguments).shape == (2, 1)
    with pytest.raises(UserError, match="the prompt is empty"):
        generate(module, params, PROMPT[:, :0], **arguments)
