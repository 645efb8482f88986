"""BERT and its heads against their twin; packing and padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, check_parity, float32, in_dtype, random_params

from jaxseq.errors import UserError
from jaxseq.models.bert import Bert, BertConfig
from jaxseq.reference import bert as reference

CONFIG = BertConfig(num_layers=2, width=8, num_heads=2, mlp_hidden=12, norm_epsilon=1e-6).resolve(
    vocab_size=11, context=6, num_labels=3
)
TOKENS = np.array([[3, 0, 7, 1, 5], [2, 2, 9, 0, 4]], np.int32)
TYPES = np.array([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]], np.int32)
SEGMENTS = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
MASKED = np.array([[1, 4], [2, 0]], np.int32)
INPUTS = {"types": jnp.asarray(TYPES), "segments": jnp.asarray(SEGMENTS)}
VALID = SEGMENTS[..., None] != 0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_hidden_states_equal_twin(dtype: str) -> None:
    module = Bert(in_dtype(CONFIG, dtype))

    def run(params):
        hidden = module.apply({"params": params}, jnp.asarray(TOKENS), **INPUTS)
        return jnp.where(VALID, hidden, 0)

    def twin(params):
        return VALID * reference.bert(params, TOKENS, CONFIG, TYPES, SEGMENTS)

    check_parity(run, twin, random_params(Bert(CONFIG), jnp.asarray(TOKENS)), dtype=dtype)


@pytest.mark.parametrize("head", ["pretraining", "classification", "tagging", "spans"])
def test_heads_equal_twin(head: str) -> None:
    module = in_dtype(CONFIG, "float64").build(head)
    more = (jnp.asarray(MASKED),) if head == "pretraining" else ()
    tokens = jnp.asarray(TOKENS)

    def run(params):
        found = module.apply({"params": params}, tokens, *more, **INPUTS)
        if head in ("tagging", "spans"):  # the padding's own logits mean nothing
            found = jax.tree.map(
                lambda x: jnp.where(VALID.reshape(2, 5, *(1,) * (x.ndim - 2)), x, 0), found
            )
        return found

    def twin(params):
        inputs = {"types": TYPES, "segments": SEGMENTS}
        if head == "pretraining":
            return reference.pretraining(params, TOKENS, MASKED, CONFIG, **inputs)
        pooled = head == "classification"
        logits = reference.labels(params, TOKENS, CONFIG, pooled=pooled, **inputs)
        if head == "classification":
            return logits
        logits = VALID * logits
        return (logits[..., 0], logits[..., 1]) if head == "spans" else logits

    check_parity(run, twin, random_params(CONFIG.build(head), tokens, *more), dtype="float64")


def test_heads_share_the_encoder_s_parameters() -> None:
    def shapes(head: str, *more) -> dict:
        tokens = jnp.asarray(TOKENS)
        return jax.tree.map(np.shape, random_params(CONFIG.build(head), tokens, *more))

    pretraining = shapes("pretraining", jnp.asarray(MASKED))["encoder"]
    assert shapes("classification")["encoder"] == pretraining
    without_pooler = {name: tree for name, tree in pretraining.items() if name != "pooler"}
    assert shapes("tagging")["encoder"] == without_pooler == shapes("spans")["encoder"]


def test_packed_texts_equal_separate_ones() -> None:
    module = Bert(CONFIG)
    tokens = jnp.asarray(TOKENS)
    params = {"params": float32(random_params(module, tokens))}
    apply = jax.jit(module.apply)
    packed = apply(
        params,
        tokens[:1],
        segments=jnp.array([[1, 1, 2, 2, 2]]),
        positions=jnp.array([[0, 1, 0, 1, 2]]),
    )
    with jax.default_matmul_precision("highest"):
        first = apply(params, tokens[:1, :2])
        second = apply(params, tokens[:1, 2:])
    assert_close(packed, jnp.concatenate([first, second], axis=1), "float32")


def test_padding_changes_nothing() -> None:
    module = CONFIG.build("classification")
    params = {"params": float32(random_params(module, jnp.asarray(TOKENS)))}
    junk = np.where(SEGMENTS == 0, 10_000_000, TOKENS)
    apply = jax.jit(module.apply)
    one = apply(params, jnp.asarray(TOKENS), **INPUTS)
    other = apply(params, jnp.asarray(junk), **INPUTS)
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all()


def test_bert_base_has_the_published_size_and_hidden_state() -> None:
    config = BertConfig(num_layers=12, width=768, num_heads=12).resolve(
        vocab_size=30522, context=512
    )
    module = Bert(config)
    tokens = jnp.array([[2023, 2003, 2019, 2742, 6251, 1012]])
    hidden, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), tokens))
    assert hidden.shape == (1, 6, 768)
    pooler = 768 * 768 + 768
    assert sum(x.size for x in jax.tree.leaves(variables)) + pooler == 109_482_240


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, r"--model\.num-heads 3 does not divide --model\.width 128"),
        ({"num_types": 0}, r"--model\.num-types is 0"),
        ({"context": 4}, r"--model\.context 4 is shorter than the data's longest input of 64"),
        ({"vocab_size": 5}, r"--model\.vocab-size 5 is smaller"),
        ({"dropout": 1.0}, r"--model\.dropout is 1.0"),
    ],
)
def test_what_does_not_fit_names_the_option(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(BertConfig(), **changes).resolve(vocab_size=65, context=64)
