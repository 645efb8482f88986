"""Ring attention against attention on one device: values, gradients, what is sent and kept."""

import functools
import operator
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import draw
from compare import assert_close, assert_same
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseq.ops import attention_chunks, chunked_attention, ring_attention
from jaxseq.ops.attention import attention
from jaxseq.ops.attention_scores import visibility
from jaxseq.ops.position_bias import ALiBi

ROWS, TIME = 4, 40


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    # Of pieces of 4, 5 or 10 these are two or more, and the last one is filled up.
    monkeypatch.setattr(chunked_attention, "QUERY_CHUNK", 3)
    monkeypatch.setattr(chunked_attention, "KEY_CHUNK", 4)


def mesh_of(**sizes: int) -> Mesh:
    axis_types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=axis_types)


def arrays_of(keys: int = TIME, dtype: str = "float32") -> list[jax.Array]:
    """Queries, keys, values, and a gradient of the output."""
    arrays = [*draw(0, ROWS, TIME, keys, 4, 2, None)[:3], draw(1, ROWS, TIME, keys, 4, 2, None)[0]]
    return [jnp.asarray(x, dtype) for x in arrays]


def packed() -> dict[str, jax.Array]:
    """Two documents in each row, and padding, elsewhere in every row."""
    lengths = [(15, 20, 5), (3, 30, 7), (36, 1, 3), (20, 20, 0)]
    segments = jnp.asarray([np.repeat([1, 2, 0], row) for row in lengths])
    return {"query_segments": segments, "key_segments": segments}


def step(arrays: list[jax.Array], marks: dict[str, Any], **options: Any) -> tuple:
    """The output and the gradients."""
    y, pull = jax.vjp(lambda *a: attention(*a, **marks, **options), *arrays[:3])
    return y, pull(arrays[3])


def on_mesh(mesh: Mesh, arrays: list[jax.Array], marks: dict[str, Any], **options: Any) -> Any:
    """`step` compiled for a mesh that divides rows and time beforehand."""
    rows = tuple(axis for axis in mesh.axis_names if axis in ("data", "fsdp")) or None
    sharding = NamedSharding(mesh, PartitionSpec(rows, "context"))
    with jax.set_mesh(mesh):
        jitted = jax.jit(functools.partial(step, **options), in_shardings=(sharding, None))
        return jitted.lower(arrays, marks).compile()


@functools.partial(jax.jit, static_argnames=("soft_cap", "scale"))
def expected(arrays: list[jax.Array], visible: jax.Array, **options: Any) -> tuple:
    """`step` on one device, with all that decides who sees whom in one mask."""
    return step(arrays, {"mask": visible}, **options, backend="dense")


MASK = jnp.asarray(np.random.default_rng(1).random((1, 1, 16)) < 0.6)
BF16 = {"dtype": jnp.dtype("bfloat16")}
# Options, what is traced beside the arrays, the number of keys, the mesh, and the tolerance.
CASES = {
    "causal": ({"causal": True}, {}, TIME, {"context": 5}, "float32"),
    "packed": (
        *({"causal": True, "soft_cap": 2.0}, packed(), TIME),
        *({"data": 2, "fsdp": 1, "context": 2, "tensor": 2}, "float64"),
    ),
    "both ways": ({"window": 5, **BF16}, {}, TIME, {"fsdp": 2, "context": 4}, "bfloat16"),
    "short window": ({"causal": True, "window": 12}, {}, TIME, {"context": 4}, "float32"),
    "traced window": (
        *({"causal": True}, {"window": jnp.asarray(33)}, TIME),
        *({"data": 1, "context": 2, "tensor": 4}, "float32"),
    ),
    "memory": ({"scale": 0.3}, {"mask": MASK}, 16, {"data": 2, "context": 4}, "float32"),
}


@functools.cache
def compiled_case(case: str) -> tuple[Any, list[jax.Array]]:
    options, marks, keys, mesh, dtype = CASES[case]
    with jax.enable_x64(dtype == "float64"):
        arrays = arrays_of(keys, "float64" if dtype == "float64" else "float32")
        return on_mesh(mesh_of(**mesh), arrays, marks, **options), arrays


@pytest.mark.parametrize("case", CASES)
def test_ring_equals_one_device_and_nothing_is_ever_whole(case: str) -> None:
    options, marks, keys, _, dtype = CASES[case]
    compiled, arrays = compiled_case(case)
    conditions = {"mask": None, "query_segments": None, "key_segments": None, "window": None}
    conditions |= {name: options[name] for name in ("window",) if name in options} | marks
    visible = visibility(
        *(TIME, keys, keys - TIME), **conditions, causal=options.get("causal", False)
    )
    same = {name: options[name] for name in ("soft_cap", "scale") if name in options}
    with jax.enable_x64(dtype == "float64"):
        assert_close(compiled(arrays, marks), expected(arrays, visible, **same), dtype)
    text = compiled.as_text()
    assert "collective-permute" in text
    assert not re.search(rf"\[([0-9]+,)*({TIME}|{keys})(,[0-9]+)*\]", text)


def test_padding_matters_to_nothing() -> None:
    compiled, arrays = compiled_case("packed")
    marks = packed()
    padding = (marks["query_segments"] == 0)[:, :, None, None]
    with jax.enable_x64(True):
        clean = compiled(arrays, marks)
        assert not any(np.any(np.where(padding, x, 0)) for x in jax.tree.leaves(clean))
        for junk in (np.nan, np.inf):
            spoiled = [jnp.where(padding, junk, x) for x in arrays[:3]] + arrays[3:]
            assert_same(compiled(spoiled, marks), clean, f"{junk} in the padding: ")


def test_inside_a_pipeline_s_stage() -> None:
    mesh, two = mesh_of(stage=2, data=2, context=2), [jnp.stack([x, 2 * x]) for x in arrays_of()]

    @jax.jit
    def stages(arrays: list[jax.Array]) -> tuple:
        def stage(*arrays: jax.Array) -> jax.Array:
            return attention(*(x[0] for x in arrays), causal=True)[None]

        spec = PartitionSpec("stage")
        run = jax.shard_map(stage, in_specs=(spec,) * 3, out_specs=spec, axis_names={"stage"})
        y, pull = jax.vjp(run, *arrays[:3])
        return y, pull(arrays[3])

    with jax.set_mesh(mesh):
        actual = stages(two)
    causal = jnp.tril(jnp.ones((1, TIME, TIME), bool))
    for i in range(2):
        one = jax.tree.map(operator.itemgetter(i), (actual, two))
        assert_close(one[0], expected(one[1], causal), "float32")


@pytest.mark.parametrize(
    ("rows", "heads", "kv_heads", "places"),
    [(4, 4, 2, ("data", "tensor")), (3, 4, 1, (None, "tensor")), (4, 3, 3, ("data", None))],
)
def test_rows_and_heads_stay_divided(monkeypatch, rows, heads, kv_heads, places) -> None:
    """Where two devices divide the query heads, they have one key/value head each at least."""
    real, asked = jax.shard_map, []
    monkeypatch.setattr(jax, "shard_map", lambda f, **how: asked.append(how) or real(f, **how))
    arrays = [jax.ShapeDtypeStruct((rows, 8, n, 4), jnp.float32) for n in (heads, kv_heads)]
    with jax.set_mesh(mesh_of(data=2, context=2, tensor=2)):
        assert jax.eval_shape(attention, *arrays, arrays[1]).shape == arrays[0].shape
    on_rows, on_heads = places
    assert asked[0]["in_specs"][:3] == (PartitionSpec(on_rows, ("context",), on_heads),) * 3


def test_every_device_does_the_same_work_and_no_hidden_pair(monkeypatch) -> None:
    """In place of o, each query gives its device and the chunks of keys that it looked at."""

    def count(i, q_i, k, v, bias, where, rule, sums):
        visited = attention_chunks._over_keys(
            *(i, k.shape[0], where, rule, lambda j, visible, n: n + 1, jnp.zeros_like(q_i))
        )
        device = 100 * jax.lax.axis_index("context") * (sums.largest == 0)
        return sums._replace(
            largest=jnp.ones_like(sums.largest), mixed=sums.mixed + visited + device[..., None]
        )

    monkeypatch.setattr(ring_attention, "attend", count)
    monkeypatch.setattr(ring_attention, "nothing_seen", nothing_at_zero)
    monkeypatch.setattr(chunked_attention, "QUERY_CHUNK", TIME)
    monkeypatch.setattr(chunked_attention, "KEY_CHUNK", TIME)
    with jax.set_mesh(mesh_of(context=4)):
        output = jax.jit(functools.partial(attention, causal=True))(*arrays_of()[:3])
    pieces = np.asarray(output)[0, ::5, 0, 0]
    assert (pieces % 100).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (pieces // 100).tolist() == [0, 1, 2, 3, 3, 2, 1, 0]


def nothing_at_zero(q: jax.Array, wide: jnp.dtype) -> attention_chunks.Sums:
    zero = jnp.zeros_like(q[..., 0])
    return attention_chunks.Sums(zero, zero, jnp.zeros_like(q))


def test_memory_is_linear_in_each_device_s_stretch(monkeypatch) -> None:
    monkeypatch.setattr(chunked_attention, "QUERY_CHUNK", 256)
    monkeypatch.setattr(chunked_attention, "KEY_CHUNK", 256)
    length, heads, size, devices = 32768, 4, 64, 8
    array = jax.ShapeDtypeStruct((1, length, heads, size), jnp.float32)
    compiled = on_mesh(mesh_of(context=devices), [array] * 4, {}, causal=True)
    stretch = heads * (length // devices) * size * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 32 * stretch
    assert 32 * stretch < heads * (length // devices) ** 2 * 4


# --- What a ring cannot do -----------------------------------------------------------------------

REFUSALS = [
    ({"bias": ALiBi(jnp.ones(4))}, {}, "bias"),
    ({"dropout_rate": 0.1, "dropout_key": jax.random.key(0)}, {}, "dropout"),
    ({"mask": jnp.ones((1, TIME, TIME), bool)}, {}, "a mask that differs from query to query"),
    ({"causal": True, "query_start": 3}, {}, "queries do not stand beside their keys"),
    ({"window": 3}, {"keys": 16}, "queries do not stand beside their keys"),
    ({}, {"keys": 6}, "lengths 40 and 6: no mesh axis of the rule 'time' divides both"),
    ({}, {"keys": 0}, "length 0"),
]


@pytest.mark.parametrize(("options", "sizes", "message"), REFUSALS)
def test_a_ring_that_cannot_raises_and_auto_does_without(options, sizes, message) -> None:
    arrays = arrays_of(**sizes)
    with jax.set_mesh(mesh_of(context=4)):
        run = functools.partial(attention, **options)
        with pytest.raises(ValueError, match=f"backend 'ring' cannot do .*{message}"):
            jax.eval_shape(functools.partial(run, backend="ring"), *arrays[:3])
        assert jax.eval_shape(run, *arrays[:3]).shape == arrays[0].shape


def test_without_a_mesh_that_divides_time_there_is_no_ring() -> None:
    query, key, value, _ = arrays_of()
    for mesh, causal in (({"data": 4, "context": 1}, False), ({"context": 8}, True)):
        # 40 steps are 8 stretches, but not 16 pieces.
        query, key, value = (x[:, : 40 - 16 * causal] for x in (query, key, value))
        with jax.set_mesh(mesh_of(**mesh)), pytest.raises(ValueError, match="backend 'ring'"):
            attention(query, key, value, causal=causal, backend="ring")


@pytest.mark.parametrize("backend", ["dense", "chunked"])
def test_keys_and_values_are_gathered_for_the_others(backend: str) -> None:
    arrays, causal = arrays_of(), jnp.tril(jnp.ones((1, TIME, TIME), bool))
    compiled = on_mesh(mesh_of(context=4), arrays, {}, causal=True, backend=backend)
    assert_close(compiled(arrays, {}), expected(arrays, causal), "float32")
    assert re.search(rf"\[{ROWS},{TIME},2,4\]\S* all-gather", compiled.as_text())
