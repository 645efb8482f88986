"""Positions written into queries and keys."""

import jax.numpy as jnp

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int


def rotary(
    x: Float[Array, "B T N H"], positions: Int[Array, "#B T"], *, base: float = 10_000.0
) -> Float[Array, "B T N H"]:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout.

    Pair i of a head, (x_i, x_{i + H/2}), is turned by the angle p * base^(-2i / H), p the
    position; dot products of turned queries and keys then depend on p_query - p_key alone.
    Angles are float32 or wider. Raises ValueError when H is odd.
    """
    head_size = x.shape[-1]
    if head_size % 2:
        raise ValueError(f"rotary positions need an even head size, not {head_size}")
    wide = accumulator(x.dtype)
    frequencies = base ** (-jnp.arange(0, head_size, 2, dtype=wide) / head_size)
    angles = positions[:, :, None, None].astype(wide) * frequencies[None, None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(wide), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
