"""Writing from a vocabulary or copying from the source: the pointer-generator's mixture.

    P_t(w) = g_t softmax(z_t)_w + (1 - g_t) sum over s with n_s = w of a_ts      g_t = sigmoid(u_t)

(See et al. 2017, arXiv:1704.04368, equations 8 and 9), where a_t is where the decoder looks at step
t and n_s the number of the word that stands at place s of the source. Numbers below V are those of
the vocabulary; a word that is not in it has one from V on, the same at every place where it stands,
so that it can be copied and never written.

Weights are 0 where nothing is visible, as `ops.alignment.attend` gives them; the numbers there may
be anything, and places whose number is negative are never copied. A row that sees nothing has
a = 0, and what its P lacks to 1 is what it would have copied. All is computed in float32 or wider,
in logarithms that neither overflow nor lose a probability that one of the two sides gives.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int


class Mixture(NamedTuple):
    """What a decoder says beside where it looks: z, and u, the log odds of writing."""

    logits: Float[Array, "*B V"]
    gate: Float[Array, "*B"]


def copy_probabilities(
    weights: Float[Array, "*B T S"], numbers: Int[Array, "*B S"], size: int
) -> Float[Array, "*B T W"]:
    """What the weights of all places with one number come to: C_tw = sum_{s: n_s = w} a_ts.

    W is `size`; places with a number outside 0 ... W - 1 are left out.
    """
    if weights.ndim > 2:
        return jax.vmap(lambda a, n: copy_probabilities(a, n, size))(weights, numbers)
    at = jnp.where(numbers < 0, size, numbers)  # else they would count from the end
    return jnp.zeros((weights.shape[0], size), weights.dtype).at[:, at].add(weights, mode="drop")


def mixture_log_probs(
    mixture: Mixture, weights: Float[Array, "*B T S"], numbers: Int[Array, "*B S"], size: int
) -> Float[Array, "*B T W"]:
    """log P_t(w) for all w of 0 ... W - 1, W = `size` >= V; -infinity for what cannot come.

    Raises ValueError for a `size` below that of the vocabulary.
    """
    vocab_size = mixture.logits.shape[-1]
    if size < vocab_size:
        raise ValueError(f"size is {size}; the vocabulary alone has {vocab_size} entries")
    write, copy = _log_shares(mixture.gate)
    written = jax.nn.log_softmax(mixture.logits.astype(write.dtype)) + write[..., None]
    beyond = [(0, 0)] * (written.ndim - 1) + [(0, size - vocab_size)]
    written = jnp.pad(written, beyond, constant_values=-jnp.inf)
    copied = copy_probabilities(weights.astype(write.dtype), numbers, size)
    return jnp.logaddexp(written, _log(copied) + copy[..., None])


def mixture_cross_entropy(
    mixture: Mixture,
    weights: Float[Array, "*B T S"],
    numbers: Int[Array, "*B S"],
    targets: Int[Array, "*B T"],
    mask: Bool[Array, "*B T"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Negative log-likelihood of the targets in nats, summed, and how many were counted.

        sum    = sum over valid of  -log P_t(target_t)
        weight = number of valid entries

    Only the targets' probabilities are made, never W of them a step. `mask` is True where a target
    counts; elsewhere logits, gates and weights may be NaN and targets anything: neither the sum nor
    any gradient sees them. A target from V on that stands nowhere in the source costs infinity.
    """
    logits, gate = jnp.where(mask[..., None], mixture.logits, 0), jnp.where(mask, mixture.gate, 0)
    weights, targets = jnp.where(mask[..., None], weights, 0), jnp.where(mask, targets, 0)
    write, copy = _log_shares(gate)
    logits, weights = logits.astype(write.dtype), weights.astype(write.dtype)
    in_vocabulary = targets < logits.shape[-1]
    at = jnp.where(in_vocabulary, targets, 0)[..., None]
    at_target = jnp.take_along_axis(logits, at, axis=-1)[..., 0]
    written = at_target - jax.nn.logsumexp(logits, axis=-1) + write
    stands_there = numbers[..., None, :] == targets[..., :, None]
    copied = _log(jnp.sum(jnp.where(stands_there, weights, 0), axis=-1)) + copy
    log_probs = jnp.logaddexp(jnp.where(in_vocabulary, written, -jnp.inf), copied)
    return jnp.sum(jnp.where(mask, -log_probs, 0)), jnp.sum(mask, dtype=log_probs.dtype)


def _log_shares(gate: Array) -> tuple[Array, Array]:
    """log g and log (1 - g), finite where the gate is."""
    wide = gate.astype(accumulator(gate.dtype))
    return jax.nn.log_sigmoid(wide), jax.nn.log_sigmoid(-wide)


def _log(x: Array) -> Array:
    """log x, and -infinity with gradient 0 at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1)), -jnp.inf)
