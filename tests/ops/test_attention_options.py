"""Every option of attention on every backend of CPUs, against the twin and against each other."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import BIASES, bias_of_twin, draw, on_device, op_bias
from compare import assert_close, assert_same, central_difference
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from jaxseq.ops import chunked_attention
from jaxseq.ops.attention import attention, self_attention_of
from jaxseq.ops.position_bias import ALiBi
from jaxseq.reference import attention as reference

BACKENDS = ("dense", "chunked")
# batch, queries, keys, heads, key/value heads: no length a multiple of its chunk.
SHAPES = [(2, 5, 5, 4, 2), (2, 3, 7, 2, 1), (1, 7, 4, 2, 2)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunked_attention, "QUERY_CHUNK", 2)
    monkeypatch.setattr(chunked_attention, "KEY_CHUNK", 3)


@functools.cache
def evaluate(bias: str | None, causal: bool, soft_cap: float | None) -> Any:
    """Both backends' outputs, and the gradients of a weighted sum of each, in one program."""

    def run(arrays, cotangent, options):
        def function(backend, query, key, value, parameters):
            more = {"bias": op_bias(bias, parameters), "causal": causal, "soft_cap": soft_cap}
            return attention(query, key, value, **options, **more, backend=backend)

        results = {}
        for backend in BACKENDS:
            y, pull = jax.vjp(functools.partial(function, backend), *arrays)
            results[backend] = y, pull(cotangent)
        return results

    return jax.jit(run)


@st.composite
def draw_case(draws: st.DrawFn) -> tuple[tuple, dict[str, Any], dict[str, Any]]:
    """(shape, options that are fixed when the op is traced, which of the others there are)."""
    static = {
        "bias": draws(st.sampled_from(BIASES)),
        "causal": draws(st.booleans()),
        "soft_cap": draws(st.sampled_from([None, 1.5])),
    }
    given_ = {name: draws(st.booleans()) for name in ("mask", "segments", "window", "query_start")}
    return draws(st.sampled_from(SHAPES)), static, given_


def draw_options(seed: int, shape: tuple, given_: dict[str, bool]) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    batch, queries, keys = shape[:3]
    options: dict[str, Any] = {}
    if given_["mask"]:
        rows = rng.choice([1, batch]), rng.choice([1, queries])
        options["mask"] = rng.random((*rows, keys)) < rng.choice([0.0, 0.5, 0.9])
    if given_["segments"]:
        options["query_segments"] = np.sort(rng.integers(0, 3, (batch, queries), np.int32), axis=1)
        options["key_segments"] = np.sort(rng.integers(0, 3, (batch, keys), np.int32), axis=1)
    if given_["window"]:
        options["window"] = int(rng.integers(1, 5))
    if given_["query_start"]:
        options["query_start"] = int(rng.integers(-2, keys + 2))
    return options


# Every example compiles: nothing is shrunk, and the failing one is small as it stands.
@settings(max_examples=7, phases=[Phase.generate])
@given(draw_case())
def test_any_combination_equals_twin(case: tuple) -> None:
    shape, static, given_ = case
    for seed in range(3):
        options = draw_options(seed, shape, given_)
        arrays = draw(seed, *shape, static["bias"])
        cotangent = np.random.default_rng(seed).normal(size=arrays[0].shape)
        with jax.enable_x64(True):
            results = evaluate(**static)(*jax.tree.map(jnp.asarray, (arrays, cotangent, options)))

        def twin(query, key, value, parameters, static=static, options=options):
            more = {**static, "bias": bias_of_twin(static["bias"], parameters)}
            return reference.attention(query, key, value, **options, **more)

        rng = np.random.default_rng(seed + 1)
        direction = [rng.normal(size=a.shape) / np.sqrt(a.size) for a in arrays]
        slope = central_difference(
            lambda step, a=arrays, d=direction, c=cotangent, f=twin: float(
                np.sum(c * f(*(x + step * y for x, y in zip(a, d, strict=True))))
            )
        )
        for backend, (y, gradient) in results.items():
            assert_close(y, twin(*arrays), "float64", f"{backend}: ")
            along = sum(np.sum(np.asarray(g) * d) for g, d in zip(gradient, direction, strict=True))
            np.testing.assert_allclose(along, slope, rtol=0, atol=1e-8, err_msg=backend)
        assert_close(results["chunked"], results["dense"], "float64")


# --- Who may look at whom, told by gradients that are exactly zero -------------------------------

SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2, 0]], np.int32)
FAR = 100
SEEN_BY = {
    "causal": ({"causal": True}, lambda t, s: s <= t),
    "causal window": ({"causal": True, "window": 3}, lambda t, s: t - 3 < s <= t),
    "window below 1 is 1": ({"causal": True, "window": -5}, lambda t, s: t == s),
    "later start": ({"causal": True, "query_start": 2}, lambda t, s: s <= t + 2),
    "start before the keys": ({"causal": True, "query_start": -3}, lambda t, s: s <= t - 3),
    "window": ({"window": 2}, lambda t, s: abs(t - s) < 2),
    "window, later start": ({"window": 2, "query_start": 3}, lambda t, s: abs(t + 3 - s) < 2),
    "packed": ({"segments": SEGMENTS}, lambda t, s: SEGMENTS[0, t] == SEGMENTS[0, s] != 0),
}


@functools.partial(jax.jit, static_argnames="causal")
def sensitivity(query, key, value, slopes, segments, window, query_start, causal):
    """The derivative of each query's output by each key and each value."""

    def outputs(key, value, backend):
        options = {
            "query_segments": segments,
            "key_segments": segments,
            "window": window,
            "query_start": query_start,
            "causal": causal,
            "bias": ALiBi(slopes),
        }
        return attention(query, key, value, **options, backend=backend)[0].sum((1, 2))

    return {
        b: jax.jacrev(functools.partial(outputs, backend=b), (0, 1))(key, value) for b in BACKENDS
    }


@pytest.mark.parametrize("case", SEEN_BY)
def test_gradient_is_zero_exactly_where_a_query_may_not_look(case: str) -> None:
    options, sees = SEEN_BY[case]
    arrays = [jnp.asarray(x, jnp.float32) for x in draw(0, 1, 8, 8, 2, 1, "ALiBi")]
    segments = jnp.asarray(options["segments"]) if "segments" in options else None
    numbers = jnp.asarray(options.get("window", FAR)), jnp.asarray(options.get("query_start", 0))
    slopes = sensitivity(*arrays, segments, *numbers, options.get("causal", False))

    allowed = np.array([[bool(sees(t, s)) for s in range(8)] for t in range(8)])
    alone = allowed & (allowed.sum(1, keepdims=True) == 1)
    for backend, derivatives in slopes.items():
        by_key, by_value = (np.abs(by)[:, 0].max((2, 3)) for by in derivatives)
        np.testing.assert_array_equal(by_value != 0, allowed, backend)
        # The only key has weight 1 whatever it is: p (g - sum p g), where sums may round.
        assert by_key[alone].max(initial=0) < 1e-6, backend
        np.testing.assert_array_equal((by_key != 0)[~alone], allowed[~alone], backend)


# --- Padding -------------------------------------------------------------------------------------

PADDING = {
    "query_start": ({"causal": True, "query_start": np.array(1)}, [], [5, 6]),
    "queries before the keys": ({"causal": True, "query_start": -2}, [0, 1], [2, 3, 4, 5, 6]),
    "keys before the window": ({"causal": True, "window": 2}, [], [0, 1]),
    "keys out of reach": ({"window": 2, "query_start": np.array(-3)}, [0, 1], [2, 3, 4, 5, 6]),
    "segments": (
        {
            "query_segments": np.array([[1, 9, 2, 0]]),
            "key_segments": np.array([[1, 1, 2, 2, 2, 0, 0]]),
        },
        [1, 3],
        [5, 6],
    ),
    "mask": ({"mask": np.arange(7)[None, None] < 4}, [], [4, 5, 6]),
}


@pytest.mark.parametrize("case", PADDING)
def test_padding_gives_and_takes_exactly_zero(case: str) -> None:
    options, queries, keys = PADDING[case]
    options = {n: o.astype(np.int32) if n.endswith("s") else o for n, o in options.items()}
    arrays = draw(0, 1, 4, 7, 2, 1, "ALiBi")

    @jax.jit
    def run(arrays, cotangent):
        results = {}
        for backend in BACKENDS:
            y, pull = jax.vjp(
                lambda q, k, v, slopes, b=backend: attention(
                    q, k, v, **on_device(options), bias=ALiBi(slopes), soft_cap=2.0, backend=b
                ),
                *arrays,
            )
            results[backend] = y, pull(cotangent)
        return results

    cotangent = jnp.asarray(np.random.default_rng(2).normal(size=arrays[0].shape), jnp.float32)
    clean = run([jnp.asarray(a, jnp.float32) for a in arrays], cotangent)
    for y, (query, key, value, _) in clean.values():
        assert not np.any(y[:, queries])
        assert not np.any(query[:, queries])
        assert not np.any(key[:, keys])
        assert not np.any(value[:, keys])
        others = [s for s in range(7) if s not in keys]
        assert np.all(np.any(np.asarray(value[:, others]) != 0, axis=(2, 3)))
    for junk in (np.nan, np.inf):
        spoiled = [jnp.asarray(a, jnp.float32) for a in arrays]
        spoiled[0] = spoiled[0].at[:, np.array(queries, int)].set(junk)
        for i in (1, 2):
            spoiled[i] = spoiled[i].at[:, np.array(keys, int)].set(junk)
        assert_same(run(spoiled, cotangent), clean, f"{junk} in the padding: ")


# --- The bare form, and what is refused ----------------------------------------------------------


def test_bare_self_attention_equals_its_equation() -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 3))
    scores = np.exp(np.einsum("bid,bjd->bij", x, x) / np.sqrt(3))
    expected = scores @ x / scores.sum(-1, keepdims=True)
    with jax.enable_x64(True):
        assert_close(self_attention_of(jnp.asarray(x)), expected, "float64")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "a window of 0 keys holds nothing"),
        ({"soft_cap": 0.0}, "soft_cap must be positive"),
        ({"bias": ALiBi(jnp.ones(3))}, "a bias for 3 heads with 2 query heads"),
    ],
)
def test_bad_options_raise(options: dict[str, Any], message: str) -> None:
    query, key, value, _ = (jnp.asarray(x, jnp.float32) for x in draw(0, 1, 2, 2, 2, 2, None))
    with pytest.raises(ValueError, match=message):
        attention(query, key, value, **options)
