"""Which backend is chosen, what each refuses, and that library kernels are held to the contract."""

import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseq.data.corpus import TextData
from jaxseq.models.gpt import GPTConfig
from jaxseq.ops import attention_backends, chunked_attention, splash
from jaxseq.ops.attention import attention
from jaxseq.ops.attention_scores import Options
from jaxseq.ops.position_bias import ALiBi
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.program import build_program

BF16 = jnp.dtype("bfloat16")


def options(**changes: Any) -> Options:
    """The options of a plain causal attention in bfloat16, with changes."""
    plain = dict.fromkeys(
        ["mask", "query_segments", "key_segments", "window", "query_start", "bias", "soft_cap"]
    )
    more = {"causal": True, "scale": 1.0, "dropout_rate": 0.0, "dropout_key": None, "dtype": BF16}
    return Options(**{**plain, **more, **changes})


def shapes(queries: int = 128, keys: int = 128, size: int = 128) -> tuple[jax.Array, jax.Array]:
    return jnp.zeros((1, queries, 2, size)), jnp.zeros((1, keys, 2, size))


SEGMENTS = {"query_segments": jnp.ones((1, 128), int), "key_segments": jnp.ones((1, 128), int)}
BIAS = {"bias": ALiBi(jnp.ones(2))}
DROPOUT = {"dropout_rate": 0.1, "dropout_key": jax.random.key(0)}
F32 = {"dtype": jnp.dtype("float32")}
# Changes to the options, to the shapes, and what is chosen on TPUs and NVIDIA GPUs.
CHOICES = [
    ({}, {}, "splash", "cudnn"),
    ({"causal": False}, {}, "splash", "cudnn"),
    (SEGMENTS, {}, "splash", "cudnn"),
    ({"window": 9}, {}, "splash", "cudnn"),
    ({"window": jnp.asarray(9)}, {}, None, "cudnn"),
    ({"mask": jnp.ones((1, 1, 128), bool)}, {}, None, "cudnn"),
    ({"soft_cap": 2.0}, {}, "splash", None),
    (F32, {}, "splash", None),
    ({"dtype": jnp.dtype("float64")}, {}, None, None),
    (BIAS, {}, None, None),
    (DROPOUT, {}, None, None),
    ({}, {"size": 64}, "splash", "cudnn"),
    ({}, {"size": 32}, None, "cudnn"),
    ({}, {"size": 12}, None, None),
    ({}, {"size": 256}, "splash", None),
    ({}, {"queries": 100, "keys": 100}, None, "cudnn"),
    ({}, {"queries": 128, "keys": 256}, "splash", "cudnn"),
    ({}, {"queries": 256, "keys": 128}, None, "cudnn"),
    ({}, {"queries": 1, "keys": 128}, None, None),
    ({}, {"queries": 0, "keys": 128}, None, None),
    ({"query_start": 128}, {"keys": 512}, "splash", "cudnn"),
    ({"query_start": jnp.asarray(128)}, {"keys": 512}, None, "cudnn"),
    ({"query_start": 128, "window": 1}, {}, None, "cudnn"),
]


@pytest.mark.parametrize(("changes", "lengths", "tpu", "cuda"), CHOICES)
def test_auto_takes_the_kernel_that_can(monkeypatch, changes, lengths, tpu, cuda) -> None:
    monkeypatch.setattr(attention_backends, "has_cudnn", lambda: True)
    chosen = attention_backends.choose(*shapes(**lengths), options(**changes))
    assert chosen == {
        **({"tpu": tpu} if tpu else {}),
        **({"cuda": cuda} if cuda else {}),
        "default": "dense",
    }


@pytest.mark.parametrize(
    ("changes", "cuda"), [({}, "cudnn"), ({"mask": jnp.ones((1, 1, 8192), bool)}, None)]
)
def test_long_attention_is_chunked(monkeypatch, changes, cuda) -> None:
    monkeypatch.setattr(attention_backends, "has_cudnn", lambda: True)
    chosen = attention_backends.choose(*shapes(8192, 8192, 8), options(**changes))
    assert chosen == {**({"cuda": cuda} if cuda else {}), "default": "chunked"}


def test_without_a_gpu_cudnn_is_not_chosen() -> None:
    assert not attention_backends.has_cudnn()
    assert "cuda" not in attention_backends.choose(*shapes(), options())


REFUSALS = [
    ("cudnn", BIAS | {"dtype": BF16}, {}, "backend 'cudnn' cannot do bias"),
    ("cudnn", {"soft_cap": 2.0, "dtype": BF16}, {}, "backend 'cudnn' cannot do soft_cap"),
    ("cudnn", DROPOUT | {"dtype": BF16}, {}, "backend 'cudnn' cannot do dropout"),
    ("cudnn", {}, {}, "backend 'cudnn' cannot do dtype float32"),
    ("splash", BIAS, {}, "backend 'splash' cannot do bias"),
    ("splash", {"mask": jnp.ones((1, 1, 128), bool)}, {}, "backend 'splash' cannot do mask"),
    ("splash", {"window": jnp.asarray(3)}, {}, "cannot do a window that is an array"),
    ("splash", {"query_start": jnp.asarray(3)}, {}, "cannot do a query_start that is an array"),
    ("splash", {}, {"size": 32}, "backend 'splash' cannot do a head size of 32"),
    ("splash", {}, {"queries": 100}, "backend 'splash' cannot do lengths 100 and 128"),
    ("flash", {}, {}, "backend 'flash' is none of auto, dense, chunked, ring, cudnn, splash"),
]


@pytest.mark.parametrize(("backend", "changes", "lengths", "message"), REFUSALS)
def test_a_backend_that_cannot_raises(backend, changes, lengths, message) -> None:
    query, key = shapes(**lengths)
    raw = attention.__wrapped__ if backend == "flash" else attention  # else the annotation raises
    with pytest.raises(ValueError, match=message):
        raw(query, key, key, backend=backend, **changes)


# --- cuDNN, in whose place the same function runs without it -------------------------------------

MASKED = {
    "mask": jnp.asarray(np.random.default_rng(1).random((2, 8, 8)) < 0.3),
    "query_segments": jnp.asarray(np.repeat([[1, 2, 0]], [3, 3, 2], axis=1).repeat(2, 0)),
    "key_segments": jnp.asarray(np.repeat([[1, 2, 0]], [4, 2, 2], axis=1).repeat(2, 0)),
}
CUDNN = {
    "plain": {},
    "causal window": {"causal": True, "window": 3},
    "masked": MASKED,
    "window both ways": {"window": 2},
    "traced": {"causal": True, "window": jnp.asarray(3), "query_start": jnp.asarray(-2)},
}


@pytest.mark.parametrize("case", CUDNN)
def test_cudnn_is_held_to_the_contract(monkeypatch, case: str) -> None:
    real, asked = jax.nn.dot_product_attention, []

    def without_cudnn(*arrays, implementation, **keywords):
        asked.append((implementation, keywords.get("mask") is not None))
        return real(*arrays, implementation="xla", **keywords)

    monkeypatch.setattr(jax.nn, "dot_product_attention", without_cudnn)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, 8, n, 8)), jnp.float32) for n in (4, 2, 2)]

    @functools.partial(jax.jit, static_argnums=1)
    def run(arrays, backend):
        more = {"dtype": BF16, "backend": backend, **CUDNN[case]}
        y, pull = jax.vjp(lambda *a: attention(*a, **more), *arrays)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    clean, dense = run(arrays, "cudnn"), run(arrays, "dense")
    assert asked == [("cudnn", case not in ("plain", "causal window"))]
    assert_close(clean, dense, "bfloat16")
    if case == "masked":
        empty = ~np.any(np.asarray(dense[0]), axis=(2, 3))
        assert empty.any()
        assert not np.any(np.asarray(clean[0])[empty])
        spoiled = [x.at[:, -2:].set(jnp.nan) for x in arrays]
        assert_same(run(spoiled, "cudnn"), clean, "NaN in the padding: ")


# --- Splash --------------------------------------------------------------------------------------


def packed(batch: int) -> dict[str, jax.Array]:
    segments = jnp.asarray(np.repeat([[1, 2, 0]], [60, 60, 8], axis=1).repeat(batch, 0))
    return {"query_segments": segments, "key_segments": segments}


@pytest.fixture
def arrays() -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(2, 128, n, 96)), jnp.float32) for n in (4, 2, 2)]


def step(arrays: list[jax.Array], backend: str) -> tuple:
    more = {"causal": True, "window": 100, "soft_cap": 3.0, "backend": backend}
    y, pull = jax.vjp(lambda *a: attention(*a, **packed(len(arrays[0])), **more), *arrays)
    return y, pull(jnp.cos(y))


def test_auto_is_splash_in_a_program_for_tpus_alone(arrays) -> None:
    traced = jax.jit(functools.partial(step, backend="auto")).trace(arrays)
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" not in traced.lower(lowering_platforms=("cpu",)).as_text()


def test_chunks_on_every_device_s_own_rows_and_heads_equal_dense(monkeypatch, arrays) -> None:
    """Whether a chunk is visible is each device's own affair: nothing at all is exchanged."""
    monkeypatch.setattr(chunked_attention, "QUERY_CHUNK", 32)
    monkeypatch.setattr(chunked_attention, "KEY_CHUNK", 32)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), (AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data", None, "tensor"))
    sharded = jax.jit(functools.partial(step, backend="chunked"), in_shardings=sharding)
    with jax.set_mesh(mesh):
        compiled = sharded.lower(arrays).compile()
    for exchange in ("all-gather", "all-reduce", "collective-permute", "all-to-all"):
        assert exchange not in compiled.as_text()
    expected = jax.jit(functools.partial(step, backend="dense"))(arrays)
    for found, same in zip(*map(jax.tree.leaves, (compiled(arrays), expected)), strict=True):
        assert_close(found, same, "float32")


def test_splash_on_every_device_s_own_rows_and_heads_equals_dense(monkeypatch, arrays) -> None:
    monkeypatch.setattr(splash, "Kernel", functools.partial(splash.Kernel, interpret=True))
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), (AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data", None, "tensor"))
    sharded = jax.jit(functools.partial(step, backend="splash"), in_shardings=sharding)
    with jax.set_mesh(mesh):
        compiled = sharded.lower(arrays).compile()
    assert "all-gather" not in compiled.as_text()
    expected = jax.jit(functools.partial(step, backend="dense"))(arrays)
    assert_close(compiled(jax.device_put(arrays, sharding)), expected, "float32")
    spoiled = [x.at[:, -8:].set(jnp.nan) for x in arrays]
    assert_close(compiled(jax.device_put(spoiled, sharding)), expected, "float32")


@pytest.mark.parametrize(
    ("shape", "rows", "heads"),
    [((8, 2), "data", "tensor"), ((6, 2), None, "tensor"), ((8, 3), "data", None)],
)
def test_splash_divides_what_divides_evenly(shape, rows, heads) -> None:
    batch, kv_heads = shape
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), (AxisType.Auto,) * 2)
    arrays = [jax.ShapeDtypeStruct((batch, 128, kv_heads, 128), jnp.float32)] * 3
    with jax.set_mesh(mesh):
        jaxpr = jax.make_jaxpr(functools.partial(attention, backend="splash"))(*arrays)
    (local,) = [e for e in jax.tree.leaves(jaxpr.eqns) if e.primitive.name == "shard_map"]
    *tables, query, key, value = local.params["in_specs"]
    assert (query, key, value) == (PartitionSpec(rows, heads),) * 3
    assert set(tables) == {PartitionSpec()}


@pytest.mark.parametrize("axes", [(), ("data", "tensor")])
def test_splash_maps_over_a_leading_axis(arrays, axes) -> None:
    mapped = [jnp.stack([x, x]) for x in arrays]
    run = jax.jit(jax.vmap(lambda *a: step(list(a), "splash")))
    with jax.set_mesh(jax.make_mesh((1,) * len(axes), axes, (AxisType.Auto,) * len(axes))):
        traced = run.trace(*mapped)
    assert [x.shape for x in traced.out_info[1]] == [x.shape for x in mapped]
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


# --- Splash, compiled for TPUs that are not here -------------------------------------------------


@pytest.fixture
def pod(monkeypatch) -> Any:
    """Eight chips of a pod."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu, from the tpu extra")
    from jax.experimental import topologies

    # Else libtpu asks the cloud which machine this is, and one process keeps it from all others.
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    return topologies.get_topology_desc("v5e:2x4", platform="tpu").devices


def test_splash_compiles_ahead_of_time_for_a_slice_of_a_pod(pod, arrays) -> None:
    layout = MeshConfig(data=4, tensor=2).build(4, pod)
    sharding = NamedSharding(layout.mesh, PartitionSpec("data", None, "tensor"))
    four = [jax.ShapeDtypeStruct((4, *x.shape[1:]), x.dtype, sharding=sharding) for x in arrays]
    with layout.use():
        lowered = jax.jit(functools.partial(step, backend="auto")).lower(four)
    text = lowered.compile().as_text()
    assert "tpu_custom_call" in text
    assert "all-gather" not in text


def test_where_time_is_divided_chunks_are_gathered_before_the_loops(pod, monkeypatch) -> None:
    """On CPUs, XLA moves what is gathered at each step out of the loops by itself."""
    monkeypatch.setattr(chunked_attention, "QUERY_CHUNK", 128)
    monkeypatch.setattr(chunked_attention, "KEY_CHUNK", 128)
    layout = MeshConfig(data=2, context=4).build(2, pod)
    sharding = NamedSharding(layout.mesh, PartitionSpec("data", "context"))
    arrays = [jax.ShapeDtypeStruct((2, 512, n, 64), BF16, sharding=sharding) for n in (2, 1, 1)]

    def step(arrays: list[jax.Array]) -> tuple:
        y, pull = jax.vjp(lambda *a: attention(*a, backend="chunked"), *arrays)
        return y, pull(y)

    with layout.use(), jax.default_matmul_precision("default"):
        text = jax.jit(step).lower(arrays).compile().as_text()
    assert text is not None
    gathering = [part for part in text.split("\n\n") if "all-gather" in part]
    assert [part.lstrip()[:5] for part in gathering] == ["ENTRY"]


def test_a_training_step_compiles_ahead_of_time_for_a_slice_of_a_pod(pod) -> None:
    llama = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "use_bias": False}
    sizes = {"num_layers": 2, "width": 256, "num_heads": 2}
    config = GPTConfig(**sizes, **llama, tie_embeddings=False, dtype="bfloat16")
    model = config.resolve(vocab_size=512, context=2048)
    experiment = Experiment(LanguageModel(), model, TextData(batch_size=4), Optimizer())
    layout = MeshConfig(fsdp=4, tensor=2).build(4, pod)
    program = build_program(experiment, layout)
    batch = {
        name: jax.ShapeDtypeStruct((4, 2048), dtype, sharding=layout.batch)
        for name, dtype in [("inputs", "int32"), ("targets", "int32"), ("mask", "bool")]
    }
    # The kernel in bfloat16 has no more than the default precision.
    with layout.use(), jax.default_matmul_precision("default"):
        compiled = program.train_step.lower(program.like, batch).compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text is not None
    assert memory is not None
    assert "tpu_custom_call" in text
    # Parameters and averages are divided, and given back in place.
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.like))
    assert memory.argument_size_in_bytes < whole / 4
    assert memory.alias_size_in_bytes > whole / 8
    assert memory.temp_size_in_bytes > 0
