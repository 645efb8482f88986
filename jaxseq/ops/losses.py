"""Losses as (sum, weight): divided once, after every micro-batch, device and host is summed."""

import jax
import jax.numpy as jnp

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int


def softmax_cross_entropy(
    logits: Float[Array, "*B V"],
    targets: Int[Array, "*B"],
    mask: Bool[Array, "*B"],
    smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Negative log-likelihood of the targets in nats, summed, and how many were counted.

        sum    = sum over valid of  logsumexp(logits) - (1 - e) logits[target] - e mean_v logits[v]
        weight = number of valid entries

    e is the label `smoothing`, as if a share e of the targets were drawn from all V alike (Szegedy
    et al. 2016, arXiv:1512.00567).

    `mask` is True where a target counts. Where it is False, logits may be NaN and targets out of
    range: neither the sum nor any gradient sees them. Computed in float32 or wider.
    """
    logits = jnp.where(mask[..., None], logits, 0).astype(accumulator(logits.dtype))
    targets = jnp.where(mask, targets, 0)
    at_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if smoothing:
        at_target = (1 - smoothing) * at_target + smoothing * jnp.mean(logits, axis=-1)
    losses = jax.nn.logsumexp(logits, axis=-1) - at_target
    return jnp.sum(jnp.where(mask, losses, 0)), jnp.sum(mask, dtype=losses.dtype)
