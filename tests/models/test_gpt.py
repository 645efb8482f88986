"""GPT against its twin, and what has to hold of any causal language model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, in_dtype, random_params
from small_gpt import CONFIGS, SMALL, TOKENS, make_params

from jaxseq.models.gpt import GPT, GPTConfig
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.reference.gpt import gpt


def check(config: GPTConfig, dtype: str, compute_dtype: str | None = None, **arrays) -> None:
    model = GPT(in_dtype(config, compute_dtype or dtype))
    where = {name: jnp.asarray(array) for name, array in arrays.items()}
    check_parity(
        lambda params: model.apply({"params": params}, jnp.asarray(TOKENS), **where),
        lambda params: gpt(params, TOKENS, config, **arrays),
        random_params(GPT(config), jnp.asarray(TOKENS)),
        dtype=dtype,
        compute_dtype=compute_dtype,
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_twin(name: str) -> None:
    check(CONFIGS[name], "float64")


@pytest.mark.parametrize("name", ["gpt-2", "llama"])
def test_float32_equals_twin(name: str) -> None:
    check(CONFIGS[name], "float32")


@pytest.mark.parametrize("name", ["gpt-2", "llama"])
def test_bfloat16_operands_equal_twin(name: str) -> None:
    check(CONFIGS[name], "float32", "bfloat16")


def test_packed_rows_equal_twin() -> None:
    check(
        CONFIGS["llama"],
        "float64",
        segments=np.array([[1, 1, 1, 2, 2], [1, 1, 2, 2, 2]], np.int32),
        positions=np.array([[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]], np.int32),
    )


@pytest.mark.parametrize("name", ["gpt-2", "llama"])
def test_no_token_sees_a_later_one(name: str) -> None:
    # All tokens of the row differ, so that a row of the table is one place in the sequence; the
    # output matrix is not the table, which every logit would depend on.
    config = dataclasses.replace(CONFIGS[name], tie_embeddings=False)
    params = make_params(config)
    tokens = jnp.array([[4, 0, 7, 1, 5, 9]])
    length = tokens.shape[1]
    weights = jax.random.normal(jax.random.key(0), (length, config.vocab_size))

    @jax.jit
    @jax.jacrev
    def sensitivity(table):
        moved = params | {"embedding": {"table": table}}
        return jnp.sum(GPT(config).apply({"params": moved}, tokens)[0] * weights, axis=-1)

    by_place = np.asarray(sensitivity(params["embedding"]["table"]))[:, np.asarray(tokens[0])]
    touched = np.any(by_place != 0, axis=-1)
    np.testing.assert_array_equal(touched, np.tri(length, dtype=bool))


VARIANTS = {
    "unrolled": {"unroll_layers": 2},
    "rematerialised": {"remat": "full"},
    "rematerialised but for matmuls": {"remat": "dots"},
    "with matmuls in the host's memory": {"remat": "offload"},
}


def loss_and_gradient(config: GPTConfig, params, dtype: str):
    model = GPT(in_dtype(config, dtype))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        logits = model.apply({"params": params}, jnp.asarray(TOKENS))
        return softmax_cross_entropy(logits, jnp.asarray(TOKENS), jnp.ones(TOKENS.shape, bool))[0]

    return loss(params)


def test_scanned_is_unrolled_is_rematerialised() -> None:
    with jax.enable_x64(True):
        params = make_params(SMALL, "float64")
        scanned = loss_and_gradient(SMALL, params, "float64")
        for name, changes in VARIANTS.items():
            variant = dataclasses.replace(SMALL, **changes)
            assert_close(loss_and_gradient(variant, params, "float64"), scanned, "float64", name)


def test_variants_share_parameters() -> None:
    shapes = jax.tree.map(np.shape, random_params(GPT(SMALL), jnp.asarray(TOKENS)))
    for changes in VARIANTS.values():
        variant = GPT(dataclasses.replace(SMALL, **changes))
        assert jax.tree.map(np.shape, random_params(variant, jnp.asarray(TOKENS))) == shapes


def test_dropout_follows_its_key() -> None:
    config = dataclasses.replace(SMALL, dropout=0.3)
    params = make_params(config)

    @jax.jit
    def run(seed):
        model = GPT(config, deterministic=False)
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, jnp.asarray(TOKENS), rngs=rngs)

    np.testing.assert_array_equal(run(0), run(0))
    assert np.any(run(0) != run(1))


def test_dropout_is_off_when_deterministic() -> None:
    params = make_params(SMALL)
    dropping = GPT(dataclasses.replace(SMALL, dropout=0.3))
    plain = jax.jit(GPT(SMALL).apply)({"params": params}, TOKENS)
    assert_same(jax.jit(dropping.apply)({"params": params}, TOKENS), plain)
