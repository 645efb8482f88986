"""The loss in chunks: against its twin, on meshes, with junk in padding; what memory it needs."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity

from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.vocabulary_loss import (
    OutputMap,
    linear_cross_entropy,
    linear_cross_entropy_by_row,
)
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.reference import vocabulary_loss as reference

B, T, D, V = 8, 6, 4, 8


MESHES = [
    MeshConfig(data=2, fsdp=2, tensor=2),
    MeshConfig(data=2, context=2, tensor=2),
    MeshConfig(data=1, fsdp=2, expert=2, context=2),
]


def draw(batch=B, seed=0):
    rng = np.random.default_rng(seed)
    hidden, kernel, bias = (rng.normal(size=s) for s in ((batch, T, D), (D, V), (V,)))
    return hidden, kernel, bias, rng.integers(0, V, (batch, T), np.int32), rng.random((batch, T))


def loss(hidden, kernel, bias, targets, mask, *, chunk=4, soft_cap=1.5, dtype=None):
    output = OutputMap(kernel, bias, soft_cap, dtype)
    return linear_cross_entropy(hidden, output, targets, mask, chunk=chunk)


VALUE_AND_GRADIENTS = jax.jit(
    jax.value_and_grad(loss, (0, 1, 2), has_aux=True),
    static_argnames=("chunk", "soft_cap", "dtype"),
)


@pytest.mark.parametrize(
    ("dtype", "chunk", "soft_cap", "with_bias"),
    [
        *((dtype, 4, 1.5, True) for dtype in DTYPES),
        ("float32", 1, None, False),
        ("float32", 100, 1.5, False),
    ],
)
def test_equals_twin(dtype, chunk, soft_cap, with_bias):
    hidden, kernel, bias, targets, odds = draw(batch=2)
    mask = odds < 0.7

    def ours(hidden, kernel, bias=None):
        arrays = jnp.asarray(targets), jnp.asarray(mask)
        return loss(hidden, kernel, bias, *arrays, chunk=chunk, soft_cap=soft_cap)

    def twin(hidden, kernel, bias=None):
        return reference.linear_cross_entropy(
            hidden, kernel, bias, targets, mask, soft_cap=soft_cap
        )

    arguments = (hidden, kernel, bias) if with_bias else (hidden, kernel)
    check_parity(ours, twin, *arguments, dtype=dtype)


@pytest.mark.parametrize("chunk", [4, 6])
def test_a_row_costs_what_it_costs_alone(chunk):
    hidden, kernel, bias, targets, odds = draw(batch=2)
    mask = odds < [[0.7], [0.0]]
    output = OutputMap(jnp.float32(kernel), jnp.float32(bias))
    arrays = jnp.float32(hidden), output, jnp.asarray(targets), jnp.asarray(mask)
    losses, weights = linear_cross_entropy_by_row(*arrays, chunk=chunk)
    total, weight = linear_cross_entropy(*arrays, chunk=chunk)
    assert_close((losses[0], weights[0]), (total, weight), "float32")
    assert (losses[1], weights[1]) == (0, 0)


def test_padding_cannot_matter():
    hidden, kernel, bias, targets, odds = draw(batch=2)
    hidden, mask = np.float32(hidden), odds < 0.6
    parameters = jnp.float32(kernel), jnp.float32(bias)
    clean = VALUE_AND_GRADIENTS(hidden, *parameters, targets, mask)
    assert np.all(np.any(np.asarray(clean[1][0])[mask] != 0, axis=-1))
    for junk, target in ((np.nan, V), (np.inf, -1)):
        hidden[~mask], targets[~mask] = junk, target
        assert_same(VALUE_AND_GRADIENTS(hidden, *parameters, targets, mask), clean)
    nothing = VALUE_AND_GRADIENTS(hidden, *parameters, targets, np.zeros_like(mask))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(nothing))


@pytest.mark.parametrize("target", [V, -1])
def test_a_valid_target_outside_the_vocabulary_is_seen(target):
    hidden, kernel, bias, targets, _ = draw(batch=2)
    targets[0, 1] = target
    parameters = jnp.float32(kernel), jnp.float32(bias)
    mask = np.ones((2, T), bool)
    (total, _), _ = VALUE_AND_GRADIENTS(jnp.float32(hidden), *parameters, targets, mask)
    assert np.isnan(total)


def test_a_chunk_below_one_is_named():
    hidden, kernel, bias, targets, odds = draw(batch=2)
    arrays = *map(jnp.float32, (hidden, kernel, bias)), jnp.asarray(targets), jnp.asarray(odds < 1)
    with pytest.raises(ValueError, match="chunk is 0"):
        loss(*arrays, chunk=0)


def test_low_products_are_summed_in_high():
    """Operands that bfloat16 holds exactly; their sums it would not hold."""
    hidden, kernel, bias, targets, odds = draw(batch=2)
    arrays = [jnp.asarray(x, jnp.bfloat16).astype(jnp.float32) for x in (hidden, kernel, bias)]
    low = VALUE_AND_GRADIENTS(*arrays, targets, odds < 0.7, chunk=T, dtype="bfloat16")
    high = VALUE_AND_GRADIENTS(*arrays, targets, odds < 0.7)
    assert {leaf.dtype for leaf in jax.tree.leaves(low)} == {jnp.dtype("float32")}
    assert_close(low[0], high[0], "float32")
    assert_close(low[1], high[1], "bfloat16")  # the slopes are rounded, as operands
    for sums in low[1]:
        assert np.mean((sums.astype(jnp.bfloat16) == sums)[sums != 0]) < 0.5


@pytest.mark.parametrize("mesh", MESHES, ids=lambda mesh: f"{mesh}".partition("(")[2])
def test_a_mesh_changes_nothing(mesh):
    hidden, kernel, bias, targets, odds = draw()
    arrays = *map(jnp.float32, (hidden, kernel, bias)), targets, odds < 0.7
    alone = VALUE_AND_GRADIENTS(*arrays, chunk=2)
    with mesh.build(B).use():
        assert_close(VALUE_AND_GRADIENTS(*arrays, chunk=2), alone, "float32")


def test_devices_talk_once_and_not_for_every_chunk():
    """Rows and times divided: within the loop over chunks there is no collective."""
    hidden, kernel, bias, targets, odds = draw()
    arrays = *map(jnp.float32, (hidden, kernel, bias)), targets, odds < 0.7
    with MeshConfig(data=2, fsdp=2, context=2).build(B).use():
        text = VALUE_AND_GRADIENTS.lower(*arrays, chunk=1).compile().as_text()
    bodies = re.findall(r" while\(.*body=(%[\w.-]+)", text)
    assert bodies
    assert "all-reduce" in text
    for body in bodies:
        computation = text[text.index(f"\n{body} (") :].partition("\n}")[0]
        assert "all-reduce" not in computation
        assert "all-gather" not in computation


def test_the_logits_never_exist():
    """The memory of a chunk of the logits, and the gradients: not that of all."""
    batch, time, width, vocab = 4, 128, 8, 4096
    shapes = [(batch, time, width), (width, vocab), (vocab,)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    targets = jax.ShapeDtypeStruct((batch, time), jnp.int32)
    mask = jax.ShapeDtypeStruct((batch, time), jnp.bool)

    def whole(hidden, kernel, bias, targets, mask, *, chunk):
        logits = hidden @ kernel + jnp.broadcast_to(bias, (batch, time, vocab))
        return softmax_cross_entropy(logits, targets, mask)

    def temporary_bytes(function, chunk):
        step = jax.jit(jax.value_and_grad(partial(function, chunk=chunk), (0, 1, 2), has_aux=True))
        compiled = step.lower(*arrays, targets, mask).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = batch * time * vocab * 4
    assert temporary_bytes(whole, 0) >= logits
    assert temporary_bytes(loss, 4) < logits / 4
