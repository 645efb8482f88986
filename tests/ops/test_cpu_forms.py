"""The forms that CPUs get against the plain forms that every other platform gets."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close

from jaxseq.ops import linear as linear_op
from jaxseq.ops.linear import linear
from jaxseq.ops.softmax_attention import Rule, _attend, _attend_gradient


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("queries", "has_padding"), [(64, False), (300, False), (300, True)])
def test_attention_in_blocks_equals_one_block(dtype: str, queries: int, has_padding: bool) -> None:
    # 300 queries make blocks of 128, 128 and 44.
    shape = (2, queries, 2, 2, 8)
    query, doutput = draw(*shape), draw(*shape[::-1]).T
    key, value = draw(2, queries, 2, 8), draw(8, 2, queries, 2).T
    visible = jnp.tril(jnp.ones((1, queries, queries), bool))
    if has_padding:
        visible = visible & (jnp.arange(queries) >= 3)[None, None, :]
    rule = Rule(0.3, jnp.dtype(dtype), lower_triangular=True, has_padding=has_padding)

    @partial(jax.jit, static_argnums=0)
    def both(on_cpu: bool) -> tuple:
        kept = _attend(query, key, value, visible, rule=rule, on_cpu=on_cpu)
        gradient = _attend_gradient(*kept, visible, doutput, rule=rule, on_cpu=on_cpu)
        return kept[3], gradient

    assert_close(both(True), both(False), dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 40), (40, 24)])
def test_kernel_gradient_equals_plain_form(dtype: str, inputs: int, outputs: int) -> None:
    x, dy = draw(3, 5, inputs).astype(dtype), draw(3, 5, outputs).astype(dtype)
    wide = jnp.dtype("float32")
    fast = jax.jit(partial(linear_op._kernel_gradient_on_cpu, wide=wide))(x, dy)
    assert_close(fast, linear_op._over_all(wide, x, dy), "float32")


@pytest.mark.parametrize("transposed", [False, True])
def test_bfloat16_gradient_of_a_transposed_table_runs(transposed: bool) -> None:
    # XLA has no bfloat16 CPU kernel for a product with both transposes folded into it.
    table = draw(65, 128) if transposed else draw(128, 65)

    @jax.jit
    def gradient(table: jax.Array, x: jax.Array) -> jax.Array:
        def loss(table: jax.Array) -> jax.Array:
            kernel = table.T if transposed else table
            return jnp.square(linear(x, kernel, dtype=jnp.dtype("bfloat16"))).sum()

        return jax.grad(loss)(table)

    x = draw(12, 64, 128)
    plain = jax.grad(lambda t: jnp.square(x @ (t.T if transposed else t)).sum())(table)
    assert_close(gradient(table, x), plain, "bfloat16")


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_platforms_get_no_cpu_form(platform: str) -> None:
    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return linear(x, kernel).sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(draw(4, 8, 16), draw(16, 32))
    text = step.lower(lowering_platforms=(platform,)).as_text()
    assert "dot_general" in text
    assert "LayoutConstraint" not in text
