"""Where the text that a language model writes ends."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.data.subword_training import train_subwords
from jaxseq.data.tokenizers import CharTokenizer
from jaxseq.decoding.generate import generate
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPTConfig
from jaxseq.tasks.language_model import LanguageModel

TASK = LanguageModel()
SAMPLING = SamplingConfig(temperature=1.0)
CHARACTERS = CharTokenizer.train("abcdef")


def build(tokenizer):
    config = GPTConfig(num_layers=1, width=8, num_heads=2)
    config = config.resolve(vocab_size=tokenizer.vocab_size, context=64)
    return config, nn.unbox(TASK.init(config, jax.random.key(0)))


def write(tokenizer, **keywords):
    shown = []
    TASK.write(*build(tokenizer), tokenizer, "a", 40, SAMPLING, 3, shown.append, **keywords)
    return shown


def test_a_stop_string_ends_the_text_before_it():
    free = "".join(write(CHARACTERS))
    assert len(free) == 41
    stop = free[20:23]
    pieces = write(CHARACTERS, stop=("never", stop))
    assert "".join(pieces) == free[: 1 + free[1:].index(stop)]
    # The rest was never drawn.
    assert len(pieces) <= 1 + free[1:].index(stop) + len(stop)


def test_what_only_looked_like_a_stop_is_shown():
    free = "".join(write(CHARACTERS))
    assert "".join(write(CHARACTERS, stop=(free[-2:] + "!", free[20:22] + "!"))) == free


def test_a_document_ends_at_its_end_token():
    tokenizer = train_subwords("bpe", ["abc"], 12, special_tokens=("</s>",))
    end = tokenizer.special("end")
    config, params = build(tokenizer)
    prompt = jnp.asarray(tokenizer.encode("a"))[None]
    options = {"max_new_tokens": 40, "sampling": SAMPLING, "key": jax.random.key(3)}
    free = np.asarray(generate(config.build(), params, prompt, **options))[0].tolist()
    assert end in free
    assert "".join(write(tokenizer)) == "a" + tokenizer.decode(free[: free.index(end)])


def test_an_empty_stop_is_a_mistake_before_anything_is_shown():
    shown = []
    with pytest.raises(UserError, match="--stop holds an empty string"):
        TASK.write(*build(CHARACTERS), CHARACTERS, "a", 4, SAMPLING, 3, shown.append, stop=("",))
    assert shown == []
