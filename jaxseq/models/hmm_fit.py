"""Learning a hidden Markov model: Baum-Welch EM, by labels, and by gradient.

`fit_em`, `fit_em_minibatch` and `fit_labels` take data from outside and check it: NaN, symbols out
of range and the like are a UserError that names sequence and position. What they call is pure and
checks nothing: `expected_statistics`, `maximise`, `loss`, `parametrise`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseq.errors import UserError
from jaxseq.models.hmm import (
    HMM,
    CountedEmission,
    Observations,
    as_chain,
    log_likelihood,
    without_padding,
)
from jaxseq.models.hmm_data import checked, name_impossible
from jaxseq.models.hmm_emissions import Prior, normalised
from jaxseq.models.hmm_neural import NeuralEmission
from jaxseq.ops import chain as chains
from jaxseq.ops.padding import valid_steps_of
from jaxseq.typing import Array, Float, Int, PyTree


class Statistics(NamedTuple):
    """Expected sufficient statistics, summed over sequences."""

    initial: Float[Array, "C"]
    """How often a sequence began in each state."""
    transitions: Float[Array, "C C"]
    """How often each state followed each."""
    emission: PyTree
    """What the emission makes of its observations and their posteriors."""


class Fit(NamedTuple):
    """A fitted model and the course of the fit."""

    hmm: HMM
    log_likelihoods: Float[Array, "steps"]
    """Sum over the sequences of each step, under the parameters *before* that step."""


def fit_em(
    hmm: HMM,
    observations: np.ndarray | Array,
    lengths: np.ndarray | Array | None = None,
    labels: np.ndarray | Array | None = None,
    *,
    num_steps: int = 50,
    prior: Prior | None = None,
) -> Fit:
    """Baum-Welch (Baum et al. 1970; Dempster et al. 1977) from `hmm` on all data at once.

    Each step sets the parameters to those that make the expected statistics most likely, and never
    lowers the likelihood (times the prior's density, where there are pseudocounts). `labels` clamp
    the states they know (-1: unknown). A state that no data reach keeps its parameters.

    Raises UserError naming sequence and position for observations that are not finite or out of
    range, and the sequence that is impossible under `hmm`.
    """
    data = checked(hmm, observations, lengths, labels)
    fit = _run_em(hmm, *data, num_steps=num_steps, prior=prior or Prior())
    if num_steps and not np.isfinite(fit.log_likelihoods[0]):
        name_impossible(hmm, *data)
    return fit


@partial(jax.jit, static_argnames="num_steps")
def _run_em(hmm: HMM, observations, lengths, labels, *, num_steps: int, prior: Prior) -> Fit:
    def step(hmm: HMM, _: None) -> tuple[HMM, Array]:
        log_likelihoods, statistics = expected_statistics(hmm, observations, lengths, labels)
        return maximise(hmm, statistics, prior), jnp.sum(log_likelihoods)

    return Fit(*lax.scan(step, hmm, length=num_steps))


def fit_em_minibatch(
    hmm: HMM,
    batches: Iterable[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]],
    *,
    num_sequences: int,
    decay: float = 0.7,
    prior: Prior | None = None,
) -> Fit:
    """Stepwise EM (Cappe and Moulines 2009, arXiv:0712.4273) over batches, each seen once.

        s_k = (1 - k^-decay) s_{k-1} + k^-decay (statistics of batch k, per sequence)

    Parameters are set after each batch. `batches` yields (observations, lengths, labels) as
    `fit_em` takes them, of one shape, or each new shape is compiled; go round the data as often as
    you like. `num_sequences`, the size of the whole data, is what pseudocounts are weighed against;
    `decay` in (0.5, 1] forgets the early batches, 1 never.

    Raises UserError as `fit_em` does; ValueError for a `decay` out of range.
    """
    if not 0.5 < decay <= 1.0:
        raise ValueError(f"decay is {decay}; it must be above 0.5 and at most 1")
    prior = prior or Prior()
    share = prior._replace(
        initial=prior.initial / num_sequences,
        transitions=prior.transitions / num_sequences,
        symbols=prior.symbols / num_sequences,
    )
    statistics, course = None, []
    for k, batch in enumerate(batches, start=1):
        data = checked(hmm, *batch)
        rate = jnp.asarray(k**-decay, hmm.initial.dtype)
        updated, statistics, total = _step(hmm, statistics, *data, rate, share)
        if not np.isfinite(total):
            name_impossible(hmm, *data)
        hmm = updated
        course.append(total)
    return Fit(hmm, jnp.stack(course) if course else jnp.zeros(0, hmm.initial.dtype))


@jax.jit
def _step(hmm: HMM, old: Statistics | None, observations, lengths, labels, rate, prior: Prior):
    log_likelihoods, new = expected_statistics(hmm, observations, lengths, labels)
    old = new if old is None else old  # the first rate is 1: nothing is kept
    keep, add = 1 - rate, rate / observations.shape[0]
    merged = Statistics(
        keep * old.initial + add * new.initial,
        keep * old.transitions + add * new.transitions,
        _counted(hmm).merge(keep, old.emission, add, new.emission),
    )
    return maximise(hmm, merged, prior), merged, jnp.sum(log_likelihoods)


def fit_labels(
    hmm: HMM,
    observations: np.ndarray | Array,
    labels: np.ndarray | Array,
    lengths: np.ndarray | Array | None = None,
    *,
    prior: Prior | None = None,
) -> HMM:
    """The most likely model where every state is known: counts and moments, in closed form.

    `hmm` gives shapes, hard zeros for the pseudocounts, and the parameters of states never seen.
    Raises UserError as `fit_em` does, and for a step without a label: `fit_em` takes those.
    """
    data = checked(hmm, observations, lengths, labels)
    valid = np.arange(data[0].shape[1])[None] < np.asarray(data[1])[:, None]
    unknown = np.argwhere(valid & (np.asarray(labels) < 0))
    if len(unknown):
        sequence, position = unknown[0]
        raise UserError(
            f"sequence {sequence}, position {position} has no label (-1); use fit_em for sequences "
            "whose states are partly known"
        )
    return _count(hmm, *data, prior or Prior())


@jax.jit
def _count(hmm: HMM, observations, lengths, labels, prior: Prior) -> HMM:
    valid = valid_steps_of(observations, lengths)
    states = jax.nn.one_hot(jnp.where(valid, labels, -1), hmm.initial.shape[0], dtype=hmm[0].dtype)
    statistics = Statistics(
        jnp.sum(states[:, 0], axis=0),
        jnp.einsum("bti,btj->ij", states[:, :-1], states[:, 1:]),
        _counted(hmm).statistics(without_padding(observations, lengths), states),
    )
    return maximise(hmm, statistics, prior)


# --- Pure parts ----------------------------------------------------------------------------------


def expected_statistics(
    hmm: HMM,
    observations: Observations,
    lengths: Int[Array, "B"] | None = None,
    labels: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B"], Statistics]:
    """Log-likelihood of each sequence, and the statistics of the E step summed over them.

    An impossible sequence (-inf) adds nothing to the statistics.
    """
    chain = as_chain(hmm, observations, lengths, labels)
    log_likelihoods, counts = chains.expected_counts(chain)
    states = counts.emissions
    emission = _counted(hmm).statistics(without_padding(observations, lengths), states)
    return log_likelihoods, Statistics(jnp.sum(states[:, 0], axis=0), counts.transitions, emission)


def _counted(hmm: HMM) -> CountedEmission:
    if isinstance(hmm.emission, NeuralEmission):
        raise ValueError("hmm.emission: a NeuralEmission has no EM; fit it by gradient with `loss`")
    return hmm.emission


def maximise(hmm: HMM, statistics: Statistics, prior: Prior) -> HMM:
    """The M step: the model under which the statistics are most likely."""
    return HMM(
        normalised(statistics.initial, hmm.initial, prior.initial),
        normalised(statistics.transitions, hmm.transitions, prior.transitions),
        _counted(hmm).maximise(statistics.emission, prior),
    )


def loss(
    hmm: HMM,
    observations: Observations,
    lengths: Int[Array, "B"] | None = None,
    labels: Int[Array, "B T"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(sum over sequences of -log p(x), number of valid steps).

    An impossible sequence adds infinity to the sum and nothing to the gradient.
    """
    total = -jnp.sum(log_likelihood(hmm, observations, lengths, labels))
    weight = jnp.sum(valid_steps_of(observations, lengths), dtype=total.dtype)
    return total, weight


def parametrise(hmm: HMM) -> tuple[PyTree, Callable[[PyTree], HMM]]:
    """Free parameters for an optimizer, and the function that makes a model of them.

    Rows of probabilities are softmax of logits (a hard zero is a logit of -inf, which no gradient
    moves), variances exp, covariances L L^T with a positive diagonal of the triangle L.
    """
    free = {
        "initial": hmm.initial,
        "transitions": hmm.transitions,
        "emission": hmm.emission.unconstrained(),
    }

    def constrained(free: PyTree) -> HMM:
        return HMM(
            jax.nn.log_softmax(free["initial"]),
            jax.nn.log_softmax(free["transitions"], axis=-1),
            hmm.emission.constrained(free["emission"]),
        )

    return free, constrained
