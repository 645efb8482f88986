"""What is checked of the data that a hidden Markov model is fitted to."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.errors import UserError
from jaxseq.models.hmm import HMM, log_likelihood
from jaxseq.models.hmm_emissions import CategoricalEmission
from jaxseq.typing import Array


def checked(
    hmm: HMM,
    observations: np.ndarray | Array,
    lengths: np.ndarray | Array | None = None,
    labels: np.ndarray | Array | None = None,
) -> tuple[Array, Array, Array | None]:
    """Observations (B, T) or (B, T, D), lengths (B,) and labels (B, T), ready for the model.

    Raises UserError naming sequence and position for a length that is not in [0, T], an observation
    that is NaN, infinite or not a symbol of the model, and a label that is neither a state nor -1
    (unknown); ValueError for observations of a kind or shape that the emission does not have. What
    stands in the padding is not looked at.
    """
    observations = np.asarray(observations)
    batch, steps = observations.shape[:2]
    lengths = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    for sequence in np.flatnonzero((lengths < 0) | (lengths > steps))[:1]:
        raise UserError(
            f"sequence {sequence} has length {lengths[sequence]}; lengths must be from 0 to "
            f"{steps}, the steps of the observations"
        )
    valid = np.arange(steps)[None] < lengths[:, None]
    symbols = isinstance(hmm.emission, CategoricalEmission)
    if observations.ndim != (2 if symbols else 3) or symbols != (observations.dtype.kind in "iu"):
        raise ValueError(
            f"observations are {observations.dtype} of shape {observations.shape}; a "
            f"{type(hmm.emission).__name__} needs "
            + ("integers of shape (B, T)" if symbols else "floating-point numbers (B, T, D)")
        )
    if symbols:
        num_symbols = hmm.emission.log_probs.shape[1]
        wrong = (observations < 0) | (observations >= num_symbols)
        mend = f"symbols must be from 0 to {num_symbols - 1}"
    else:
        wrong = ~np.isfinite(observations).reshape(batch, steps, -1).all(axis=-1)
        mend = "observations must be finite; mend it or cut the sequence there"
    for sequence, position in np.argwhere(valid & wrong)[:1]:
        raise UserError(
            f"sequence {sequence}, position {position}: {observations[sequence, position]}; {mend}"
        )
    if labels is not None:
        labels, num_states = np.asarray(labels), hmm.initial.shape[0]
        for sequence, position in np.argwhere(valid & ((labels < -1) | (labels >= num_states)))[:1]:
            raise UserError(
                f"sequence {sequence}, position {position}: label {labels[sequence, position]}; "
                f"labels must be from 0 to {num_states - 1}, or -1 for unknown"
            )
    kind = jnp.int32 if symbols else hmm.initial.dtype
    return (
        jnp.asarray(observations, kind),
        jnp.asarray(lengths, jnp.int32),
        None if labels is None else jnp.asarray(labels, jnp.int32),
    )


def name_impossible(hmm: HMM, observations: Array, lengths: Array, labels: Array | None) -> None:
    """Raises UserError naming the first sequence whose likelihood is not above zero."""
    likelihoods = np.asarray(jax.jit(log_likelihood)(hmm, observations, lengths, labels))
    for sequence in np.flatnonzero(~np.isfinite(likelihoods))[:1]:
        raise UserError(
            f"sequence {sequence} is impossible under the model (log-likelihood "
            f"{likelihoods[sequence]}): no state that may stand there can emit one of its "
            "observations; start from a model without that hard zero, or leave the sequence out"
        )
