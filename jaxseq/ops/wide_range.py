"""Non-negative numbers that neither underflow nor overflow: x = mantissa 2^exponent, two arrays.

Products of a thousand probabilities leave the range of a float. Their logarithms do not, but cost
an exp per term and a log per sum, and lose digits where they are large: in float32 log p = -1000 is
known to 6e-5. Kept apart, every product and sum of positive numbers is right to the float's own
precision, and takes a few integer operations, which vectorise.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from jaxseq.typing import Array, Bool, Float, Int

# A number counts as 0 if its exponent is below half of this; sums of four of them are integers.
ZERO = -(1 << 29)
# A logarithm below this is that of 0, so that the exponents of 18,000 factors stay above.
LEAST_LOG = -1e4


class Wide(NamedTuple):
    """mantissa 2^exponent; the mantissa is positive, and in [1, 2) where `normalized`."""

    mantissa: Float[Array, "..."]
    exponent: Int[Array, "..."]


def from_log(x: Float[Array, "..."]) -> Wide:
    """exp(x); 0 for x below `LEAST_LOG` and for NaN. The mantissa is about in [1, 2)."""
    positive = x >= LEAST_LOG
    x = jnp.where(positive, x, 0)
    exponent = jnp.floor(x * (1 / math.log(2)))
    # ln 2 in two parts, the first of so few bits that its product with the exponent is exact.
    high = 355 / 512
    rest = (x - exponent * high) - exponent * (math.log(2) - high)
    return Wide(jnp.exp(rest), jnp.where(positive, exponent.astype(jnp.int32), ZERO))


def log(x: Wide) -> Float[Array, "..."]:
    """Its natural logarithm; -inf of 0."""
    exponent = x.exponent.astype(x.mantissa.dtype)
    return jnp.where(is_zero(x), -jnp.inf, jnp.log(x.mantissa) + exponent * math.log(2))


def indicator(condition: Bool[Array, "..."], dtype: jnp.dtype) -> Wide:
    """1 where `condition`, else 0."""
    return Wide(jnp.ones(condition.shape, dtype), jnp.where(condition, 0, ZERO).astype(jnp.int32))


def is_zero(x: Wide) -> Bool[Array, "..."]:
    """True where the number counts as 0."""
    return x.exponent < ZERO // 2


def times(a: Wide, b: Wide) -> Wide:
    """a b, not normalised."""
    return Wide(a.mantissa * b.mantissa, a.exponent + b.exponent)


def over(a: Wide, b: Wide) -> Wide:
    """a / b, not normalised; b = 0 is taken for 2^ZERO."""
    return Wide(a.mantissa / b.mantissa, a.exponent - b.exponent)


def total(x: Wide, axis: int) -> Wide:
    """The sum over an axis, not normalised."""
    exponent = jnp.max(x.exponent, axis=axis, keepdims=True)
    mantissa = jnp.sum(relative_to(x, exponent), axis=axis)
    return Wide(mantissa, jnp.squeeze(exponent, axis))


def plus(first: Wide, *others: Wide) -> Wide:
    """The sum of a few numbers, not normalised."""
    exponent = first.exponent
    for each in others:
        exponent = jnp.maximum(exponent, each.exponent)
    mantissa = relative_to(first, exponent)
    for each in others:
        mantissa += relative_to(each, exponent)
    return Wide(mantissa, exponent)


def relative_to(x: Wide, exponent: Int[Array, "..."]) -> Float[Array, "..."]:
    """x / 2^exponent as a plain float; for an exponent that is not far below that of x."""
    bits, bias, kind = _layout(x.mantissa.dtype)
    # 2^d from its bits; below the least normal number 0, which is all bits 0.
    biased = jnp.maximum(x.exponent - exponent, -bias).astype(kind) + bias
    return x.mantissa * lax.bitcast_convert_type(biased << bits, x.mantissa.dtype)


def normalized(x: Wide) -> Wide:
    """The same number with a mantissa in [1, 2), and 0 as 2^ZERO at least."""
    bits, bias, kind = _layout(x.mantissa.dtype)
    pattern = lax.bitcast_convert_type(x.mantissa, kind)
    mantissa = (pattern & ((1 << bits) - 1)) | (bias << bits)
    exponent = x.exponent + ((pattern >> bits).astype(jnp.int32) - bias)
    return Wide(lax.bitcast_convert_type(mantissa, x.mantissa.dtype), jnp.maximum(exponent, ZERO))


def _layout(dtype: jnp.dtype) -> tuple[int, int, jnp.dtype]:
    """A float's bits behind the point, the bias of its exponent, the integers of its size."""
    info = jnp.finfo(dtype)
    kind = jnp.dtype(jnp.int64 if info.bits == 64 else jnp.int32)
    return info.nmant, info.maxexp - 1, kind
