"""The affine map with operands of 8 bits, as qwix computes it.

    Q(a) = round(a / s) s       s = max |a| / largest number of the format, of each row by itself

    y = Q(x) Q(W) + b           a row is what a sum runs over: a position of x, a column of W
    dx = Q(dy) Q(W^T)           so that scales are factors of the whole sum
    dW = sum over positions of x_t^T dy_t, not quantised

dW alone adds over all positions of a batch, where the errors of rounding would add up too (Wortsman
et al. 2023, arXiv:2304.13013). Two of three products then take 8 bits: int8, summed in int32; or
fp8, which is E4M3 forward and E5M2 for gradients (Micikevicius et al. 2022, arXiv:2209.05433),
summed in float32.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxseq.errors import UserError
from jaxseq.ops.linear import linear
from jaxseq.typing import Array, Float

Quantize = Literal["none", "int8", "fp8"]

FORMATS = {"int8": (jnp.int8, jnp.int8), "fp8": (jnp.float8_e4m3fn, jnp.float8_e5m2)}
"""Of operands forward, and of dy."""

TPUS = {
    "int8": ("TPU v5 lite", "TPU v5", "TPU v6 lite"),
    "fp8": ("TPU7x",),
}
"""By `device_kind`: those that multiply the format faster than bfloat16 (docs.cloud.google.com)."""

GPUS = {"int8": 8.0, "fp8": 8.9}
"""The first compute capability of NVIDIA's with products faster than those of bfloat16."""


def quantized_linear(
    x: Float[Array, "... D"],
    kernel: Float[Array, "D F"],
    bias: Float[Array, "F"] | None = None,
    *,
    quantize: Quantize,
    dtype: jnp.dtype | None = None,
) -> Float[Array, "... F"]:
    """y of the equations above, in x's dtype; dW has operands of `dtype` (None: x's).

    Needs qwix, the extra `quant`; UserError where it is not installed.
    """
    y = _product(x, kernel, quantize, jnp.dtype(dtype or x.dtype))
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)
    return y


def check_quantize(quantize: Quantize, device: Any) -> None:
    """Raises UserError where `device` has no fast product of these operands.

    CPUs have none either, but stand in for other devices in rehearsals: they compute what those do.
    """
    if quantize == "none" or device.platform == "cpu":
        return
    if device.platform == "gpu":
        fits = float(device.compute_capability) >= GPUS[quantize]
        can = f"NVIDIA GPUs from compute capability {GPUS[quantize]}"
    else:
        fits = device.device_kind in TPUS[quantize]
        can = ", ".join(TPUS[quantize])
    if not fits:
        raise UserError(
            f"--model.quantize {quantize}: {device.device_kind} has no such product that is faster "
            f"than that of bfloat16 ({can}); take --model.dtype bfloat16 alone"
        )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x: Array, kernel: Array, quantize: Quantize, dtype: jnp.dtype) -> Array:
    return _forward(x, kernel, quantize, dtype)[0]


def _forward(
    x: Array, kernel: Array, quantize: Quantize, dtype: jnp.dtype
) -> tuple[Array, tuple[Array, Array]]:
    operand, _ = FORMATS[quantize]
    y = _rows_times_columns(x, kernel, (x.ndim - 1, 0), (operand, operand))
    return y.astype(x.dtype), (x.astype(dtype), kernel)


def _backward(
    quantize: Quantize, dtype: jnp.dtype, saved: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    operand, gradient = FORMATS[quantize]
    dx = _rows_times_columns(dy, kernel, (dy.ndim - 1, 1), (gradient, operand))
    _, pull = jax.vjp(lambda w: linear(x.astype(dy.dtype), w, dtype=dtype), kernel)
    return dx.astype(dy.dtype), pull(dy)[0]


_product.defvjp(_forward, _backward)


def _rows_times_columns(
    a: Array, b: Array, contracted: tuple[int, int], formats: tuple[Any, Any]
) -> Array:
    """The product over one axis of each; everything else has a scale of its own."""
    qwix = _qwix()
    quantized = (
        qwix.quantize(x, kind, channelwise_axes=[i for i in range(x.ndim) if i != axis])
        for x, axis, kind in zip((a, b), contracted, formats, strict=True)
    )
    axes = tuple((axis,) for axis in contracted)
    return qwix.dot_general(*quantized, (axes, ((), ())))


def _qwix() -> Any:
    try:
        import qwix
    except ImportError:
        raise UserError(
            "--model.quantize needs qwix: pip install 'jaxseq[quant]', or drop the option"
        ) from None
    return qwix
