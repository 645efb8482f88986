"""Layers divided over stages compute what they compute in a row."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, float32, random_params
from jax import lax

from jaxseq.errors import UserError
from jaxseq.nn.attention import AttentionConfig, KVCache
from jaxseq.nn.experts import Experts
from jaxseq.nn.pipeline import pipeline
from jaxseq.nn.transformer import BlockCache, BlockConfig, StackInputs, stack
from jaxseq.ops.position_bias import RelativeBias
from jaxseq.ops.positions import Rotary
from jaxseq.parallel.mesh import MeshConfig

B, T, S, D = 8, 5, 3, 8
RNG = np.random.default_rng(0)


# --- The schedule --------------------------------------------------------------------------------


def unit(x, own, rows, shared, number):
    """A layer without a value at 0, where no row of any batch is."""
    factor = rows["factor"][:, None, None]
    y = jnp.tanh(x * own["scale"][None, None] + shared["bias"][None, None] * factor)
    sums = {"seen": jnp.sum(rows["name"] * number), "total": jnp.sum(y * factor)}
    return y / jnp.linalg.norm(y, axis=-1, keepdims=True), sums


def one_by_one(layer, layers, x, rows, shared, *, microbatches):
    """The definition of `pipeline`."""
    every = [
        jax.tree.map(lambda a, m=m: a[m::microbatches], (x, rows)) for m in range(microbatches)
    ]
    results = [
        lax.scan(lambda x, own, rows=rows, m=m: layer(x, own, rows, shared, m), x, layers)
        for m, (x, rows) in enumerate(every)
    ]
    y = jnp.stack([y for y, _ in results], axis=1).reshape(x.shape)
    return y, jax.tree.map(lambda *sums: sum(sums), *(sums for _, sums in results))


@pytest.mark.parametrize(
    ("stages", "microbatches", "rounds", "num_layers"),
    [(4, 2, 1, 8), (2, 4, 6, 24)],
)
def test_every_schedule(stages: int, microbatches: int, rounds: int, num_layers: int) -> None:
    layers = {"scale": RNG.normal(size=(num_layers, D))}
    rows = {"factor": RNG.normal(size=B), "name": np.arange(B) + 1.0}
    arguments = layers, RNG.normal(size=(B, 2, D)), rows, {"bias": RNG.normal(size=D)}
    weights = RNG.normal(size=(B, 2, D)), RNG.normal(size=num_layers)

    @partial(jax.jit, static_argnums=0)
    def value_and_gradient(run, arguments):
        def weighted(arguments):
            y, sums = run(unit, *arguments, microbatches=microbatches)
            return jnp.sum(weights[0] * y) + jnp.sum(weights[1] * sums["total"]), (y, sums)

        return jax.value_and_grad(weighted, has_aux=True)(arguments)

    with jax.enable_x64(True):
        arguments = jax.tree.map(jnp.asarray, arguments)
        expected = value_and_gradient(one_by_one, arguments)
        with MeshConfig(stage=stages).build(B, jax.devices()[:stages]).use():
            actual = value_and_gradient(partial(pipeline, rounds=rounds), arguments)
    assert_close(actual, expected, "float64")


@pytest.mark.parametrize(
    ("config", "rounds", "num_layers", "message"),
    [
        ({"stage": 4, "data": 2}, 1, 6, "6 layers .--model.num-layers. .* --mesh.stage 4"),
        ({"stage": 2, "data": 4}, 3, 8, "--mesh.stage 2 x --mesh.interleave 3"),
        ({"stage": 4, "data": 2}, 2, 8, "--mesh.interleave 2 needs .* multiple of --mesh.stage 4"),
        (
            {"stage": 2, "data": 4},
            1,
            4,
            r"8 rows .* \(--data.batch-size\) over 4 devices .* --mesh.microbatches 6; 24 rows",
        ),
    ],
)
def test_what_does_not_divide_is_said(config, rounds, num_layers, message) -> None:
    layers, rows, x = {"scale": jnp.ones((num_layers, D))}, {}, jnp.ones((B, 1, D))
    microbatches = 6 if config["data"] == 4 else 2
    with MeshConfig(**config).build(B).use(), pytest.raises(UserError, match=message):
        pipeline(unit, layers, x, rows, {}, microbatches=microbatches, rounds=rounds)


# --- Stacks of blocks ----------------------------------------------------------------------------


def attention(**fields) -> AttentionConfig:
    return AttentionConfig(num_heads=2, num_kv_heads=2, head_size=4, **fields)


SEGMENTS = np.repeat([[1, 1, 2, 2, 2], [1, 2, 2, 0, 0]], 4, axis=0).astype(np.int32)
POSITIONS = np.arange(T, dtype=np.int32)[None]
WINDOWS = np.array([2, 2**30, 2, 2**30, 2, 2**30], np.int32)
KNOWN = np.arange(S)[None] < np.array([3, 1, 2, 3, 3, 1, 2, 3])[:, None]

# Mesh, micro-batches, the block, and how its layers are computed.
CASES = {
    "packed, windows, remat": (
        {"stage": 2, "data": 2, "tensor": 2, "interleave": 3, "microbatches": 4},
        # Chunked attention branches on segments and windows: stages go different ways.
        BlockConfig(attention(rotary=Rotary(), backend="chunked"), mlp_hidden=16),
        {"num_layers": 6, "remat": "dots"},
    ),
    "memory, bias, post-norm": (
        {"stage": 4, "fsdp": 2, "microbatches": 2},
        BlockConfig(attention(), mlp_hidden=16, cross_attention=True, norm_position="post"),
        {"num_layers": 4},
    ),
    "experts": (
        {"stage": 2, "expert": 2, "data": 2},
        BlockConfig(attention(causal=False), mlp_hidden=16, experts=Experts(count=2)),
        {"num_layers": 2},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_stack_equals_the_unpipelined(case: str) -> None:
    sizes, config, fields = CASES[case]
    layout = MeshConfig(**sizes).build(B)
    windows = jnp.asarray(WINDOWS) if "windows" in case else None
    extra = {"x": RNG.normal(size=(B, T, D))}
    if config.cross_attention:
        extra |= {"memory": RNG.normal(size=(B, S, D)), "table": RNG.normal(size=(B, 2))}

    def inputs(extra) -> StackInputs:
        if not config.cross_attention:
            positions = jnp.broadcast_to(POSITIONS, (B, T))
            return StackInputs(positions, jnp.asarray(SEGMENTS))
        memory = jnp.where(KNOWN[..., None], extra["memory"], jnp.nan)
        bias = RelativeBias(extra["table"], bidirectional=False)
        known = jnp.asarray(KNOWN)
        return StackInputs(jnp.asarray(POSITIONS), bias=bias, memory=memory, memory_mask=known)

    def weighted(params, extra):
        where = None, windows, inputs(extra)
        blocks = stack(config, **fields)
        (y, _), sown = blocks.apply({"params": params}, extra["x"], *where, mutable=["losses"])
        y = jnp.where((inputs(extra).segments == 0)[..., None], 0, y) if windows is not None else y
        losses = jax.tree.map(lambda each: each * jnp.arange(1, len(each) + 1), sown)
        return jnp.sum(y**3) + sum(each.sum() for each in jax.tree.leaves(losses)), (y, sown)

    with jax.enable_x64(True):
        extra = jax.tree.map(jnp.asarray, extra)
        blocks, where = stack(config, **fields), (None, windows, inputs(extra))
        params = jax.tree.map(jnp.asarray, random_params(blocks, extra["x"], *where))
        run = jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True)
        expected = jax.jit(run)(params, extra)
        boxed = jax.eval_shape(lambda: blocks.init(jax.random.key(0), extra["x"], *where))
        homes = layout.parameters(boxed["params"]), layout.replicated
        with layout.use():
            compiled = (
                jax.jit(
                    lambda params, extra: run(params, extra),
                    in_shardings=homes,
                    out_shardings=(None, homes),
                )
                .lower(params, extra)
                .compile()
            )
            actual = compiled(*jax.device_put((params, extra), homes))
    assert_close(actual, expected, "float64")

    # What travels between stages is rows; no device ever has all layers (6 is no other size here).
    text = compiled.as_text()
    assert "collective-permute" in text
    if fields["num_layers"] == 6:
        assert re.search(r"f64\[3,", text)
        assert not re.search(r"f64\[6[,\]]", text)


def test_dropout_is_of_the_layer_and_the_micro_batch() -> None:
    config = BlockConfig(attention(), mlp_hidden=8, dropout_rate=0.5)
    x, where = jnp.ones((4, 1, D)), (None, None, StackInputs(jnp.zeros((1, 1), jnp.int32)))
    params = float32(random_params(stack(config, 4), x, *where))
    # Each layer adds a constant alone: 0 or 2 after dropout.
    params = jax.tree.map(jnp.zeros_like, params)
    params["mlp"]["out"]["bias"] += 1.0

    with MeshConfig(stage=2, microbatches=4).build(4, jax.devices()[:2]).use():
        blocks = stack(config, 4, deterministic=False)
        rngs = {"dropout": jax.random.key(0)}
        y, _ = jax.jit(lambda: blocks.apply({"params": params}, x, *where, rngs=rngs))()
    assert len({row.tobytes() for row in np.asarray(y)}) == 4
    assert {2.0, 4.0, 6.0} < set(np.unique(y - x).tolist()) <= {0.0, 2.0, 4.0, 6.0, 8.0}


def test_parameters_and_caches_are_those_of_the_scanned_stack() -> None:
    config = BlockConfig(attention(), mlp_hidden=8, cross_attention=True)
    x, memory = jnp.ones((2, T, D)), jnp.ones((2, S, D))
    inputs = StackInputs(
        jnp.asarray(POSITIONS), None, memory=memory, memory_mask=memory[..., 0] > 0
    )

    def shapes():
        own, seen = (jnp.zeros((4, 2, length, 2, 4)) for length in (T, S))
        cache = BlockCache(KVCache(own, own), KVCache(seen, seen))
        blocks = stack(config, 4)
        variables = blocks.init(jax.random.key(0), x, None, None, inputs)
        later = inputs.replace(cache_length=jnp.int32(0), memory=None)
        written, _ = blocks.apply(variables, x, cache, None, later, mutable=["losses"])
        _, weights = blocks.apply(variables, x, None, None, inputs, mutable=["intermediates"])
        return variables, jax.tree.leaves(written), weights

    expected = jax.eval_shape(shapes)
    with MeshConfig(stage=4, data=2).build(8).use():
        actual = jax.eval_shape(lambda: shapes())
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    assert jax.tree.leaves(actual) == jax.tree.leaves(expected)
