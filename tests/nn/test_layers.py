"""The small layers against their twins: linear, norms, embedding, MLP."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, check_parity, random_params

from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.mlp import MLP
from jaxseq.nn.normalization import LayerNorm, RMSNorm
from jaxseq.reference.embedding import attend, embedding
from jaxseq.reference.linear import linear
from jaxseq.reference.mlp import mlp
from jaxseq.reference.normalization import layer_norm, rms_norm

BFLOAT16 = jnp.dtype("bfloat16")
X = np.random.default_rng(0).normal(size=(2, 3, 6))

LAYERS = {
    "linear": (Linear(4, ("embed", "mlp")), lambda params, x: linear(x, **params)),
    "linear without bias": (
        Linear(4, ("embed", "mlp"), use_bias=False),
        lambda params, x: linear(x, **params),
    ),
    "layer norm": (LayerNorm(), lambda params, x: layer_norm(x, **params)),
    "layer norm without bias": (
        LayerNorm(use_bias=False, epsilon=0.1),
        lambda params, x: layer_norm(x, **params, epsilon=0.1),
    ),
    "rms norm": (RMSNorm(epsilon=0.1), lambda params, x: rms_norm(x, **params, epsilon=0.1)),
    "gelu": (MLP(10), mlp),
    "swiglu": (
        MLP(10, activation="swiglu", use_bias=False),
        lambda params, x: mlp(params, x, activation="swiglu"),
    ),
}


def apply(layer: nn.Module):
    return lambda params, x: layer.apply({"params": params}, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_equals_twin(name: str, dtype: str) -> None:
    layer, twin = LAYERS[name]
    check_parity(apply(layer), twin, random_params(layer, jnp.asarray(X)), X, dtype=dtype)


@pytest.mark.parametrize("name", ["linear", "gelu", "swiglu"])
def test_bfloat16_operands_equal_twin(name: str) -> None:
    layer, twin = LAYERS[name]
    low = layer.clone(dtype=BFLOAT16)
    params = random_params(layer, jnp.asarray(X))
    check_parity(apply(low), twin, params, X, dtype="float32", compute_dtype="bfloat16")


TOKENS = np.array([[3, 0, 3], [1, 4, 2]], np.int32)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_embedding_equals_twin(dtype: str) -> None:
    layer = Embedding(5, 6)
    params = random_params(layer, jnp.asarray(TOKENS))
    check_parity(
        lambda params: layer.apply({"params": params}, jnp.asarray(TOKENS)),
        lambda params: embedding(params, TOKENS),
        params,
        dtype=dtype,
    )


@pytest.mark.parametrize(
    ("dtype", "compute_dtype"), [("float64", None), ("float32", None), ("float32", "bfloat16")]
)
def test_logits_against_the_table_equal_twin(dtype: str, compute_dtype: str | None) -> None:
    layer = Embedding(5, 6, dtype=compute_dtype and jnp.dtype(compute_dtype))
    check_parity(
        lambda params, x: layer.apply({"params": params}, x, method="attend"),
        attend,
        random_params(layer, jnp.asarray(TOKENS)),
        X,
        dtype=dtype,
        compute_dtype=compute_dtype,
    )


def test_a_number_outside_the_table_is_seen() -> None:
    layer = Embedding(5, 6)
    params = random_params(layer, jnp.asarray(TOKENS))
    tokens = np.array([[0, 5], [4, -1]], np.int32)
    y = layer.apply({"params": jax.tree.map(jnp.asarray, params)}, jnp.asarray(tokens))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(embedding(params, tokens)))


def test_weights_start_at_their_stated_scale() -> None:
    x = jnp.zeros((1, 1, 200))
    params = nn.unbox(jax.jit(MLP(300, output_init_scale=0.005).init)(jax.random.key(0), x))
    params = params["params"]
    np.testing.assert_allclose(params["in"]["kernel"].std(), 0.02, rtol=0.02)
    np.testing.assert_allclose(params["out"]["kernel"].std(), 0.005, rtol=0.02)
    assert not np.any(params["in"]["bias"])
    params = nn.unbox(LayerNorm().init(jax.random.key(0), x))["params"]
    np.testing.assert_array_equal(params["scale"], 1)
    np.testing.assert_array_equal(params["bias"], 0)
