"""Connectionist temporal classification: the likelihood of labels whose times are not known.

A path names a label or the blank for every frame; its labels are what remains when equal neighbours
are merged and blanks left out. Graves et al. 2006, "Connectionist temporal classification".
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.left_to_right import LeftToRight, log_partition, posteriors
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int


def ctc_loss(
    logits: Float[Array, "B T V"],
    logit_lengths: Int[Array, "B"],
    labels: Int[Array, "B N"],
    label_lengths: Int[Array, "B"],
    *,
    blank: int = 0,
) -> tuple[Float[Array, "B"], Bool[Array, "B"]]:
    """Nats of each row's labels, and whether they are possible at all.

        loss = -log sum over the paths of the labels of  prod_t softmax(logits_t)[path_t]

    Labels are possible where some path has a probability above 0: there must be a frame for each of
    them and one for the blank between equal neighbours. Where there are too few, or where logits of
    -inf exclude every path, the loss is 0, with gradient 0, and False says so. No labels and no
    frames are possible: with both, the loss is 0; with frames alone, that of blanks throughout.

    In float32 or wider. What stands in the padding of logits and labels is not looked at. The
    gradient is softmax(logits) - p(path_t = v | labels), found by one forward-backward pass beside
    the value; it cannot be differentiated twice. Raises ValueError for a blank that is no index.
    """
    check_blank(blank, logits.shape[-1])
    return _ctc_loss(logits, logit_lengths, labels, label_lengths, blank)


class Paths(NamedTuple):
    """The states of the paths of labels: blank, label 1, blank, label 2, ..., blank.

    State 2 n + 1 is label n, even states are blanks.
    """

    symbols: Int[Array, "B S"]
    ends: Bool[Array, "S B"]
    skips: Bool[Array, "S B"]

    @property
    def starts(self) -> Bool[Array, "S 1"]:
        """A path starts with the first label or the blank before it."""
        return jnp.arange(self.symbols.shape[1])[:, None] < 2


def paths_of(labels: Int[Array, "B N"], label_lengths: Int[Array, "B"], blank: int) -> Paths:
    """The blank between two labels may be left out unless they are equal.

    States behind the ends are of labels that stand in the padding: no path comes back from them.
    """
    batch, count = labels.shape
    symbols = jnp.full((batch, 2 * count + 1), blank, labels.dtype).at[:, 1::2].set(labels)
    before = jnp.pad(symbols, ((0, 0), (2, 0)), constant_values=blank)[:, :-2]
    states = jnp.arange(2 * count + 1)[:, None]
    last = 2 * jnp.minimum(label_lengths, count)[None]
    ends = (states == last) | (states == last - 1)
    return Paths(symbols, ends, ((symbols != blank) & (symbols != before)).T)


def check_blank(blank: int, vocab_size: int) -> None:
    """Raises ValueError for a blank that is not the number of a logit."""
    if not 0 <= blank < vocab_size:
        raise ValueError(f"blank is {blank}; it must be one of 0 ... {vocab_size - 1}")


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _ctc_loss(
    logits: Array, logit_lengths: Array, labels: Array, label_lengths: Array, blank: int
) -> tuple[Array, Array]:
    log_probs, lengths = _log_probs(logits, logit_lengths)
    paths = paths_of(labels, label_lengths, blank)
    log_z = log_partition(model_of(log_probs, lengths, paths))
    return _loss(log_z, log_probs, lengths, label_lengths)


def _forward(
    logits: Array, logit_lengths: Array, labels: Array, label_lengths: Array, blank: int
) -> tuple[tuple[Array, Array], Array]:
    log_probs, lengths = _log_probs(logits, logit_lengths)
    paths = paths_of(labels, label_lengths, blank)
    log_z, shares = posteriors(model_of(log_probs, lengths, paths))
    loss, possible = _loss(log_z, log_probs, lengths, label_lengths)
    vocab_size = logits.shape[-1]
    columns = jax.nn.one_hot(paths.symbols[:, 1::2], vocab_size, dtype=shares.dtype)
    of_symbols = jnp.einsum(
        "TNB,BNV->BTV", shares[:, 1::2], columns, precision=lax.Precision.HIGHEST
    )
    # The shares of a frame add up to 1: the blank has what the labels leave.
    blanks = 1 - jnp.sum(of_symbols, axis=-1, keepdims=True)
    of_symbols = jnp.where(jnp.arange(vocab_size)[None, None] == blank, blanks, of_symbols)
    counts = possible[:, None] & valid_steps(lengths, logits.shape[1])
    gradient = jnp.where(counts[..., None], jnp.exp(log_probs) - of_symbols, 0)
    return (loss, possible), gradient.astype(logits.dtype)


def _backward(blank: int, gradient: Array, cotangents: tuple) -> tuple:
    return gradient * cotangents[0][:, None, None].astype(gradient.dtype), None, None, None


_ctc_loss.defvjp(_forward, _backward)


def _log_probs(logits: Array, logit_lengths: Array) -> tuple[Array, Array]:
    """Log-softmax, of zeros in the padding, and lengths of at most the frames that there are."""
    valid = valid_steps(logit_lengths, logits.shape[1])
    logits = jnp.where(valid[..., None], logits, 0).astype(accumulator(logits.dtype))
    return jax.nn.log_softmax(logits, axis=-1), jnp.minimum(logit_lengths, logits.shape[1])


def model_of(
    log_probs: Float[Array, "B T V"], lengths: Int[Array, "B"], paths: Paths
) -> LeftToRight:
    """The chain of the paths; lengths are at most T."""
    emissions = jnp.take_along_axis(log_probs, paths.symbols[:, None, :], axis=2, mode="clip")
    return LeftToRight(emissions.transpose(1, 2, 0), lengths, paths.starts, paths.ends, paths.skips)


def _loss(
    log_z: Array, log_probs: Array, lengths: Array, label_lengths: Array
) -> tuple[Array, Array]:
    log_z = jnp.where((lengths <= 0) & (label_lengths <= 0), 0, log_z)
    # One NaN makes its frame NaN throughout. Paths do not see it, the loss has to show it.
    log_z = jnp.where(jnp.any(jnp.isnan(log_probs[..., 0]), axis=1), jnp.nan, log_z)
    possible = log_z != -jnp.inf
    # Rounding may leave the probability of what is certain a little above 1.
    return jnp.where(possible, jnp.maximum(-log_z, 0), 0), possible
