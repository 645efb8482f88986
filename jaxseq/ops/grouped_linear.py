"""Products of rows with one matrix for each group of them, as a mixture of experts needs."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is fixed when the products are traced; `slots` as in `grouped_linear`."""

    slots: int
    dtype: jnp.dtype
    wide: jnp.dtype


def grouped_linear(
    x: Float[Array, "R D"],
    kernel: Float[Array, "E D F"],
    sizes: Int[Array, "G"],
    *,
    slots: int = 0,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "R F"]:
    """y_r = x_r W_e for the group g that row r is in; 0, and 0 gradient, for a row in none.

    The first sizes[0] rows are of group 0, the next sizes[1] of group 1, and so on, and e = g. If
    `slots` is not 0, group g begins at row `slots` g, and G / E groups in a row share a matrix:
    e = g // (G / E). Operands of the product, and of the two products of its gradient, are cast to
    `dtype` (None keeps x's), products are summed in float32 or wider, and y has x's dtype.
    """
    return _product(
        x, kernel, sizes, Rule(slots, jnp.dtype(dtype or x.dtype), accumulator(x.dtype))
    )


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _product(x: Array, kernel: Array, sizes: Array, rule: Rule) -> Array:
    """With a gradient rule because the derived one multiplies float32 by `dtype`.

    dx_r = dy_r W_e^T        dW_e = sum over the rows of group e of x_r^T dy_r
    """
    return _product_forward(x, kernel, sizes, rule)[0]


def _product_forward(x: Array, kernel: Array, sizes: Array, rule: Rule) -> tuple[Array, tuple]:
    low = x.astype(rule.dtype)
    y = lax.platform_dependent(
        *(low, kernel, sizes),
        cpu=partial(_rows_on_cpu, rule, "RD,DF->RF"),
        default=partial(_rows, rule, "RD,DF->RF"),
    )
    return y.astype(x.dtype), (low, kernel, sizes)


def _product_backward(rule: Rule, saved: tuple, dy: Array) -> tuple[Array, Array, None]:
    x, kernel, sizes = saved
    low = dy.astype(rule.dtype)
    dx = lax.platform_dependent(
        *(low, kernel, sizes),
        cpu=partial(_rows_on_cpu, rule, "RF,DF->RD"),
        default=partial(_rows, rule, "RF,DF->RD"),
    )
    dkernel = lax.platform_dependent(
        *(x, low, sizes),
        cpu=partial(_kernels_on_cpu, rule, len(kernel)),
        default=partial(_kernels, rule, len(kernel)),
    )
    return dx.astype(dy.dtype), dkernel.astype(kernel.dtype), None


_product.defvjp(_product_forward, _product_backward)


def _rows(rule: Rule, equation: str, x: Array, kernel: Array, sizes: Array) -> Array:
    kernel = kernel.astype(x.dtype)
    if rule.slots:
        x = x.reshape(len(kernel), -1, x.shape[1])
        by_expert = "E" + equation.replace(",", ",E").replace("->", "->E")
        y = jnp.einsum(by_expert, x, kernel, preferred_element_type=rule.wide)
        y = y.reshape(-1, y.shape[2])
    else:
        kernel = kernel if equation.endswith("F") else kernel.swapaxes(1, 2)
        y = lax.ragged_dot(x, kernel, sizes, preferred_element_type=rule.wide)
    return jnp.where(_in_a_group(rule, len(y), sizes), y, 0)


OVER_ROWS = lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())),
    lhs_ragged_dimensions=(0,),
    rhs_group_dimensions=(),
)


def _kernels(rule: Rule, count: int, x: Array, dy: Array, sizes: Array) -> Array:
    there = _in_a_group(rule, len(x), sizes)
    x, dy = jnp.where(there, x, 0), jnp.where(there, dy, 0)
    if rule.slots:
        x, dy = (z.reshape(count, -1, z.shape[1]) for z in (x, dy))
        return jnp.einsum("ERD,ERF->EDF", x, dy, preferred_element_type=rule.wide)
    return lax.ragged_dot_general(x, dy, sizes, OVER_ROWS, preferred_element_type=rule.wide)


def _in_a_group(rule: Rule, rows: int, sizes: Array) -> Array:
    row = jnp.arange(rows)
    if rule.slots:
        return (row % rule.slots < jnp.repeat(sizes, rule.slots))[:, None]
    return (row < jnp.sum(sizes))[:, None]


# --- On CPUs -------------------------------------------------------------------------------------
#
# There `ragged_dot` multiplies every row by every expert's matrix, and a product over slots does
# the empty ones too. Here a loop goes over blocks of rows of one expert, as many as there are.


def _rows_on_cpu(rule: Rule, equation: str, x: Array, kernel: Array, sizes: Array) -> Array:
    blocks = _Blocks(rule, len(x), sizes)
    width = kernel.shape[2 if equation.endswith("F") else 1]

    def step(i: Array, y: Array) -> Array:
        group, start, own = blocks.at(i)
        rows = lax.dynamic_slice_in_dim(x, start, blocks.size)
        # Cast here, in the copy of the slice, so that experts without a row cost nothing.
        matrix = kernel[group // (len(sizes) // len(kernel))].astype(x.dtype)
        product = jnp.einsum(equation, rows, matrix, preferred_element_type=rule.wide)
        before = lax.dynamic_slice_in_dim(y, start, blocks.size)
        return lax.dynamic_update_slice_in_dim(y, jnp.where(own, product, before), start, 0)

    begin = jnp.zeros_like(x, rule.wide, shape=(len(x), width))
    return lax.fori_loop(0, blocks.count, step, begin)


def _kernels_on_cpu(rule: Rule, count: int, x: Array, dy: Array, sizes: Array) -> Array:
    blocks = _Blocks(rule, len(x), sizes)

    def step(i: Array, dkernel: Array) -> Array:
        group, start, own = blocks.at(i)
        rows = jnp.where(own, lax.dynamic_slice_in_dim(x, start, blocks.size), 0)
        drows = jnp.where(own, lax.dynamic_slice_in_dim(dy, start, blocks.size), 0)
        gain = jnp.einsum("RD,RF->DF", rows, drows, preferred_element_type=rule.wide)
        return dkernel.at[group // (len(sizes) // count)].add(gain)

    begin = jnp.zeros_like(x, rule.wide, shape=(count, x.shape[1], dy.shape[1]))
    return lax.fori_loop(0, blocks.count, step, begin)


class _Blocks:
    """Groups cut into blocks of `size` rows, of which the last of a group may have fewer."""

    def __init__(self, rule: Rule, rows: int, sizes: Array) -> None:
        # Large enough for a fast product, small enough that last blocks waste little.
        self.rows, self.size = rows, min(rows, max(8, min(256, rows // (4 * len(sizes)))))
        self.starts = jnp.cumsum(sizes, dtype=jnp.int32) - sizes
        if rule.slots:
            self.starts = rule.slots * jnp.arange(len(sizes), dtype=jnp.int32)
        self.ends = self.starts + sizes
        numbers = -(-sizes // max(self.size, 1))
        self.last = jnp.cumsum(numbers, dtype=jnp.int32)
        self.first = self.last - numbers
        self.count = self.last[-1]

    def at(self, i: Array) -> tuple[Array, Array, Array]:
        """(group of block i, its first row, which of its rows are its own)."""
        group = jnp.sum(self.last <= i, dtype=jnp.int32)
        begin = self.starts[group] + (i - self.first[group]) * self.size
        start = jnp.minimum(begin, self.rows - self.size)
        rows = start + jnp.arange(self.size, dtype=jnp.int32)
        own = (rows >= begin) & (rows < self.ends[group])
        return group, start, own[:, None]
