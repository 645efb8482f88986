"""Positions written into queries and keys, and into embeddings."""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Rotary:
    """The wavelengths of rotary positions, and how they are stretched for longer texts."""

    base: float = 10_000.0
    """Base of the wavelengths."""
    scaling: Literal["none", "linear", "ntk", "llama3"] = "none"
    """How a model trained on short texts is stretched to long ones."""
    factor: float = 1.0
    """How many times longer than the original context a text may be."""
    original_context: int = 8192
    """llama3: the context before stretching."""
    low_frequency_factor: float = 1.0
    """llama3: wavelengths above original_context over this are stretched in full."""
    high_frequency_factor: float = 4.0
    """llama3: wavelengths below original_context over this are left as they are."""


def rotary_frequencies(head_size: int, config: Rotary) -> np.ndarray:
    """The angle by which one position turns each pair of a head, (H/2,) float64.

        f_i = base^(-2i / H)                                       (Su et al. 2021)
        linear: f_i / factor                                       (Chen et al. 2023, 2306.15595)
        ntk:    base -> base * factor^(H / (H - 2))                ("NTK-aware" scaling)
        llama3: f_i where 2 pi / f_i < C / high,  f_i / factor where 2 pi / f_i > C / low, and
                between them (1 - s) f_i / factor + s f_i  with  s = (C f_i / 2 pi - low) /
                (high - low);  C the original context              (Llama 3.1, 2407.21783)

    Raises ValueError when H is odd.
    """
    if head_size % 2:
        raise ValueError(f"rotary positions need an even head size, not {head_size}")
    base = config.base
    if config.scaling == "ntk" and head_size > 2:
        base *= config.factor ** (head_size / (head_size - 2))
    frequencies = base ** (-np.arange(0, head_size, 2) / head_size)
    if config.scaling == "linear":
        return frequencies / config.factor
    if config.scaling == "llama3":
        low, high = config.low_frequency_factor, config.high_frequency_factor
        turns = config.original_context * frequencies / (2 * math.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        return frequencies * (kept + (1 - kept) / config.factor)
    return frequencies


def rotary(
    x: Float[Array, "B T N H"], positions: Int[Array, "#B T"], config: Rotary
) -> Float[Array, "B T N H"]:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), in the half-split layout.

    Pair i of a head, (x_i, x_{i + H/2}), is turned by the angle p * f_i, p the position and f
    the `rotary_frequencies`; dot products of turned queries and keys then depend on
    p_query - p_key alone. Angles are float32 or wider. Raises ValueError when H is odd.
    """
    wide = accumulator(x.dtype)
    frequencies = jnp.asarray(rotary_frequencies(x.shape[-1], config), wide)
    angles = positions[:, :, None, None].astype(wide) * frequencies[None, None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(wide), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def sinusoidal(positions: Int[Array, "*B"], size: int) -> Float[Array, "*B D"]:
    """Fixed position embeddings (Vaswani et al. 2017, arXiv:1706.03762, section 3.5).

        y_i = sin(p w_i) for i < D/2,   y_i = cos(p w_{i - D/2}) behind,   w_i = 10000^(-2i / D)

    The sines come first, as in tensor2tensor and Marian; the paper's order is a permutation of
    it. Float32 or wider. Raises ValueError when D is odd.
    """
    if size % 2:
        raise ValueError(f"sinusoidal positions need an even width, not {size}")
    wide = jnp.result_type(float)
    rates = jnp.asarray(10_000.0 ** (-np.arange(0, size, 2) / size), wide)
    rates = jnp.expand_dims(rates, tuple(range(positions.ndim)))
    angles = positions[..., None].astype(wide) * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
