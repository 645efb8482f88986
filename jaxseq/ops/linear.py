"""The affine map, with product operands in the compute dtype and sums in float32."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from jaxseq.ops.precision import accumulator
from jaxseq.parallel.rules import is_divided
from jaxseq.typing import Array, Float


def linear(
    x: Float[Array, "... D"],
    kernel: Float[Array, "D F"],
    bias: Float[Array, "F"] | None = None,
    *,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "... F"]:
    """y = x W + b over the last axis of x.

    Operands of the product, and of the two products of its gradient, are cast to `dtype` (the
    compute dtype; None keeps x's), products are summed in float32 or wider, and y has x's dtype.
    """
    y = _product(x, kernel, jnp.dtype(dtype or x.dtype))
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)
    return y


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, dtype: jnp.dtype) -> Array:
    """x W, with a gradient rule because the derived one multiplies float32 by `dtype`.

    dx = dy W^T        dW = sum over positions of x_t^T dy_t
    """
    return _product_forward(x, kernel, dtype)[0]


def _product_forward(x: Array, kernel: Array, dtype: jnp.dtype) -> tuple[Array, tuple]:
    low = x.astype(dtype)
    y = jnp.matmul(low, kernel.astype(dtype), preferred_element_type=accumulator(x.dtype))
    return y.astype(x.dtype), (low, kernel)


def _product_backward(dtype: jnp.dtype, saved: tuple, dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    low, wide = dy.astype(dtype), accumulator(dy.dtype)
    dx = jnp.einsum("...F,DF->...D", low, kernel.astype(dtype), preferred_element_type=wide)
    dkernel = lax.platform_dependent(
        x, low, cpu=partial(_kernel_gradient_on_cpu, wide=wide), default=partial(_over_all, wide)
    )
    return dx.astype(dy.dtype), dkernel.astype(kernel.dtype)


_product.defvjp(_product_forward, _product_backward)


def _over_all(wide: jnp.dtype, x: Array, dy: Array) -> Array:
    return jnp.einsum("...D,...F->DF", x, dy, preferred_element_type=wide)


# --- On CPUs -------------------------------------------------------------------------------------


def _kernel_gradient_on_cpu(x: Array, dy: Array, *, wide: jnp.dtype) -> Array:
    """x^T dy as a product of row-major operands, the only one whose kernels are fast there.

    XLA's CPU matmuls run 1.5 to 2 times faster on an operand transposed in memory beforehand; we
    transpose the narrower one. The barrier keeps XLA from folding the transposes back into the
    product, for which it has no bfloat16 kernel at all and raises as the program runs.

    Among several devices XLA would gather all operands whose layout is asked for.
    """
    if is_divided():
        return _over_all(wide, x.astype(wide), dy.astype(wide))
    x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    if x.shape[1] <= dy.shape[1]:
        return lax.optimization_barrier(_row_major_product(x, dy, wide))
    return lax.optimization_barrier(_row_major_product(dy, x, wide)).T


def _row_major_product(a: Array, b: Array, wide: jnp.dtype) -> Array:
    @jax.custom_batching.custom_vmap
    def product(a: Array, b: Array) -> Array:
        transposed = with_layout_constraint(a.T, Layout((0, 1)))
        return jnp.matmul(transposed, b, preferred_element_type=wide)

    @product.def_vmap
    def one_by_one(size: int, batched: list[bool], a: Array, b: Array) -> tuple[Array, bool]:
        # For a product of three axes, XLA ends the process over the layout that we ask for.
        arrays = (
            x if is_batched else jnp.broadcast_to(x[None], (size, *x.shape))
            for x, is_batched in zip((a, b), batched, strict=True)
        )
        return lax.map(lambda pair: product(*pair), tuple(arrays)), True

    return product(a, b)
