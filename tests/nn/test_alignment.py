"""The alignment layer of every kind against its twin; all steps at once are the same steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, random_params

from jaxseq.nn.alignment import SEQUENTIAL, Alignment
from jaxseq.reference.alignment import alignment_step

KINDS = ("none", "additive", "concat", "dot", "general", "location", "coverage")
BATCH, QUERIES, PLACES, SIZE = 3, 3, 4, 6
LENGTHS = np.array([4, 2, 0])
rng = np.random.default_rng(0)
QUERY = rng.normal(size=(BATCH, QUERIES, SIZE))
MEMORY = rng.normal(size=(BATCH, PLACES, SIZE))


def make(kind: str) -> Alignment:
    return Alignment(kind, SIZE, location_width=3, location_channels=2)


def steps(layer: Alignment, query, memory):
    """Contexts, weights and the last past of one query after the other."""
    projected = layer.project(memory, jnp.asarray(LENGTHS))
    past = jnp.zeros(memory.shape[:2], memory.dtype)
    contexts, weights = [], []
    for t in range(query.shape[1]):
        context, weight, past = layer.step(query[:, t], projected, past)
        contexts.append(context)
        weights.append(weight)
    return jnp.stack(contexts, 1), jnp.stack(weights, 1), past


def twin(params, query, memory, *, kind: str):
    past = np.zeros(memory.shape[:2])
    contexts, weights = [], []
    for t in range(query.shape[1]):
        context, weight, past = alignment_step(
            params, query[:, t], memory, LENGTHS, past, kind=kind
        )
        contexts.append(context)
        weights.append(weight)
    return np.stack(contexts, 1), np.stack(weights, 1), past


def params_of(layer: Alignment):
    if layer.kind in ("none", "dot"):
        return {}
    return random_params(layer, jnp.asarray(QUERY), jnp.asarray(MEMORY), method=steps)


@pytest.mark.parametrize(
    ("kind", "dtype", "compute_dtype"),
    [
        *[(kind, "float64", None) for kind in KINDS],
        ("location", "float32", None),
        ("general", "float32", "bfloat16"),
        ("location", "float32", "bfloat16"),
        ("coverage", "float32", "bfloat16"),
    ],
)
def test_equals_twin(kind: str, dtype: str, compute_dtype: str | None) -> None:
    layer = make(kind).clone(dtype=compute_dtype and jnp.dtype(compute_dtype))
    check_parity(
        lambda params, query, memory: layer.apply({"params": params}, query, memory, method=steps),
        functools.partial(twin, kind=kind),
        params_of(layer),
        QUERY,
        MEMORY,
        dtype=dtype,
        compute_dtype=compute_dtype,
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SEQUENTIAL])
def test_all_queries_at_once_equal_one_after_the_other(kind: str) -> None:
    layer = make(kind)
    variables = {"params": jax.tree.map(jnp.float32, params_of(layer))}

    @jax.jit
    def both(query, memory):
        at_once = layer.apply(
            variables,
            *(query, memory),
            method=lambda layer, query, memory: layer(
                query, layer.project(memory, jnp.asarray(LENGTHS))
            ),
        )
        return at_once, layer.apply(variables, query, memory, method=steps)[:2]

    at_once, stepped = both(jnp.float32(QUERY), jnp.float32(MEMORY))
    assert_close(at_once, stepped, "float32")


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_padding_changes_nothing(kind: str) -> None:
    layer = make(kind)
    variables = {"params": jax.tree.map(jnp.float32, params_of(layer))}

    @jax.jit
    def value_and_gradients(query, memory):
        def outputs(variables, query, memory):
            return layer.apply(variables, query, memory, method=steps)

        value, pullback = jax.vjp(outputs, variables, query, memory)
        return value, pullback(jax.tree.map(jnp.cos, value))

    visible = (np.arange(PLACES)[None] < LENGTHS[:, None])[..., None]
    query = jnp.float32(QUERY)
    expected = value_and_gradients(query, jnp.float32(np.where(visible, MEMORY, 0)))
    for junk in (np.nan, -np.inf):
        assert_same(
            value_and_gradients(query, jnp.float32(np.where(visible, MEMORY, junk))), expected
        )
    (contexts, weights, past), (_, dquery, dmemory) = expected
    looks = (LENGTHS[:, None] > 0) & (kind != "none")
    np.testing.assert_allclose(weights.sum(-1), np.repeat(looks, QUERIES, 1), rtol=1e-5)
    np.testing.assert_allclose(past, weights.sum(1), rtol=1e-5)
    # The last row has nothing to see.
    for x in (contexts[2], weights[2], dquery[2], dmemory[2], dmemory[~visible[..., 0]]):
        assert not np.any(x)


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_the_past_changes_the_weights_of_a_sequential_kind(kind: str) -> None:
    layer = make(kind)
    variables = {"params": jax.tree.map(jnp.float32, params_of(layer))}
    query = jnp.float32(np.repeat(QUERY[:, :1], QUERIES, 1))
    _, weights, _ = layer.apply(variables, query, jnp.float32(MEMORY), method=steps)
    assert np.abs(np.diff(weights[0], axis=0)).max() > 1e-3


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_a_sequential_kind_refuses_all_queries_at_once(kind: str) -> None:
    layer = make(kind)
    variables = {"params": jax.tree.map(jnp.float32, params_of(layer))}
    with pytest.raises(ValueError, match=f"kind '{kind}' .* step"):
        layer.apply(
            variables,
            jnp.float32(QUERY),
            jnp.float32(MEMORY),
            method=lambda layer, query, memory: layer(query, layer.project(memory)),
        )


def test_sizes_that_cannot_be_multiplied_are_named() -> None:
    with pytest.raises(ValueError, match=r"kind 'dot' multiplies queries of size 5 .* size 6"):
        make("dot").apply({}, jnp.float32(QUERY[..., :5]), jnp.float32(MEMORY), method=steps)
