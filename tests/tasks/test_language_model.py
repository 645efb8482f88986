"""What a batch means: the loss is the model's, the metrics are their formulas."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, float32, random_params

from jaxseq.data.corpus import TextData
from jaxseq.data.packing import Windows
from jaxseq.data.tokenizers import CharTokenizer
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT, GPTConfig
from jaxseq.models.rnn_lm import RNNLMConfig
from jaxseq.tasks.language_model import LanguageModel

TASK = LanguageModel()
TOKENIZER = CharTokenizer.train("abcdefg\u00e9 ")
DATA = TextData(context=6)
MODEL = TASK.resolve(GPTConfig(num_layers=1, width=8, num_heads=2, dropout=0.5), DATA, TOKENIZER)


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(partial(TASK.init, MODEL))(jax.random.key(0)))


loss_of = jax.jit(partial(TASK.loss, MODEL))


def windows(texts, *, separate):
    documents = [TOKENIZER.encode(text) for text in texts]
    cut = Windows(documents, 6, separate=separate)
    rows = [cut[i] for i in range(len(cut))]
    return {name: jnp.asarray([row[name] for row in rows]) for name in rows[0]}


def test_the_loss_is_minus_the_log_probability_of_each_next_token(params):
    batch = windows(["abc def g\u00e9 cab"], separate=False)
    loss_sum, weight = loss_of(params, batch)
    logits = np.asarray(jax.jit(GPT(MODEL).apply)({"params": params}, batch["inputs"]), np.float64)
    expected = 0.0
    for b, t in zip(*np.nonzero(batch["mask"]), strict=True):
        row = logits[b, t]
        expected -= row[batch["targets"][b, t]] - np.log(np.exp(row).sum())
    assert weight == batch["mask"].sum() == 14 - 1
    assert float(loss_sum) == pytest.approx(expected, rel=1e-5)


def test_packed_documents_cost_what_they_cost_alone(params):
    """Attention, positions and targets stay inside each document."""
    texts = ["abc", "de f", "ga"]
    packed = loss_of(params, windows(texts, separate=True))
    alone = np.zeros(2)
    for text in texts:
        ids = jnp.asarray(TOKENIZER.encode(text))[None]
        mask = jnp.ones((1, len(text) - 1), bool)
        batch = {"inputs": ids[:, :-1], "targets": ids[:, 1:], "mask": mask}
        alone += np.array(loss_of(params, batch))
    assert alone[1] == 2 + 3 + 1
    np.testing.assert_allclose(packed, alone, rtol=1e-5)


def test_dropout_is_on_where_a_key_is_given(params):
    batch = windows(["abc def g\u00e9 cab"], separate=False)
    plain, first, again, other = (
        float(loss_of(params, batch, key)[0])
        for key in (None, jax.random.key(1), jax.random.key(1), jax.random.key(2))
    )
    assert first == again
    assert len({plain, first, other}) == 3


def test_the_evaluator_sums_losses_tokens_and_the_bytes_they_spell(params):
    batch = windows(["abc def g\u00e9 cab"], separate=False)
    found = TASK.evaluator(MODEL, TOKENIZER)(params, batch)
    loss, tokens = loss_of(params, batch)
    # Every character but the first is a target, and \u00e9 is two bytes.
    assert {name: float(rows.sum()) for name, rows in found.items()} == {
        "loss": pytest.approx(float(loss), rel=1e-6),
        "tokens": float(tokens),
        "bytes": len("bc def g\u00e9 cab".encode()),
    }


IN_CHUNKS = {
    "tied": GPTConfig(num_layers=1, width=8, num_heads=2, final_soft_cap=1.0),
    "untied": GPTConfig(num_layers=1, width=8, num_heads=2, tie_embeddings=False),
    "recurrent": RNNLMConfig(num_layers=1, width=8, tie_embeddings=False),
}


@pytest.mark.parametrize("name", IN_CHUNKS)
def test_a_loss_in_chunks_is_the_loss(name):
    whole, chunks = TASK, LanguageModel(loss_chunk=2)
    model = chunks.resolve(IN_CHUNKS[name], DATA, TOKENIZER)
    params = float32(random_params(model.build(), jnp.zeros((1, 1), jnp.int32)))
    if name == "untied":
        up = jnp.linspace(-1.0, 1.0, 20).reshape(2, 10)
        adapter = {"lora_down": jnp.ones((8, 2)), "lora_up": up, "lora_scale": jnp.float32(0.5)}
        params["output"] |= adapter
    batch = windows(["abc def g\u00e9 cab"], separate=False)
    found = [
        jax.jit(jax.value_and_grad(partial(task.loss, model), has_aux=True))(params, batch)
        for task in (chunks, whole)
    ]
    assert_close(*found, "float32")
    if name == "recurrent":
        rows = [task.evaluator(model, TOKENIZER)(params, batch) for task in (chunks, whole)]
        assert_close(*rows, "float32")


def test_a_loss_in_chunks_needs_hidden_states():
    class Opaque:
        separates_documents = True

        def resolve(self, **_):
            return self

        def build(self, deterministic=True):
            return nn.Dense(3)

    with pytest.raises(UserError, match=r"--task.loss-chunk .* Opaque"):
        LanguageModel(loss_chunk=2).resolve(Opaque(), DATA, TOKENIZER)
    with pytest.raises(UserError, match=r"--task.loss-chunk is -1"):
        LanguageModel(loss_chunk=-1).resolve(GPTConfig(), DATA, TOKENIZER)


def test_packed_documents_need_a_model_that_keeps_them_apart():
    packed = TextData(context=6, separate_documents=True)
    TASK.resolve(GPTConfig(num_layers=1, width=8, num_heads=2), packed, TOKENIZER)
    with pytest.raises(UserError, match=r"--data.separate-documents"):
        TASK.resolve(RNNLMConfig(), packed, TOKENIZER)


def test_metrics_are_their_formulas():
    found = TASK.metrics({"loss": 20.0, "tokens": 10.0, "bytes": 12.0})
    assert found == {
        "loss": 2.0,
        "perplexity": pytest.approx(math.e**2),
        "bits_per_byte": pytest.approx(20 / math.log(2) / 12),
        "tokens": 10.0,
    }
    assert math.isfinite(TASK.metrics({"loss": 1e6, "tokens": 10.0, "bytes": 12.0})["perplexity"])


def test_text_is_shown_as_it_comes_and_the_prompt_first(params):
    shown = []
    sampling = SamplingConfig(temperature=0.0)
    TASK.write(MODEL, params, TOKENIZER, "ab", 5, sampling, 0, shown.append)
    assert shown[0].startswith("ab")
    assert len("".join(shown)) == 7
    assert len(shown) >= 5


def test_a_prompt_that_cannot_be_encoded_is_named_and_nothing_shown(params):
    shown = []
    with pytest.raises(UserError, match="never saw: 'z', '!'"):
        TASK.write(MODEL, params, TOKENIZER, "az!", 5, SamplingConfig(), 0, shown.append)
    assert shown == []
