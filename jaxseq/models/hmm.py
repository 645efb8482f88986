"""Hidden Markov models (Rabiner 1989): inference, forecasting and sampling.

    p(z, x) = p(z_1) prod_t p(z_t | z_{t-1}) prod_t p(x_t | z_t)

A model is a pytree of log-probabilities, and everything here is a pure function of it that can be
jitted and differentiated. Batches are ragged: `lengths` says how much of each row is real, and what
stands behind, NaN included, changes nothing. `hmm_fit` learns the parameters, and checks the data;
the functions here do not: an observation that no state can emit has log-likelihood -inf (and
posteriors of 0), a NaN gives NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.models.hmm_emissions import (
    CategoricalEmission,
    DiagonalGaussianEmission,
    GaussianEmission,
    TiedGaussianEmission,
)
from jaxseq.models.hmm_neural import NeuralEmission
from jaxseq.ops import chain as chains
from jaxseq.ops import chain_paths
from jaxseq.ops.chain import Chain, Method
from jaxseq.ops.padding import valid_steps_of
from jaxseq.typing import Array, Float, Int, Key, PyTree

CountedEmission = (
    CategoricalEmission | GaussianEmission | DiagonalGaussianEmission | TiedGaussianEmission
)
Emission = CountedEmission | NeuralEmission
Observations = Int[Array, "B T"] | Float[Array, "B T D"]


class HMM(NamedTuple):
    """A hidden Markov model of C states. -inf is a hard zero, and stays one under EM."""

    initial: Float[Array, "C"]
    """log p(z_1)."""
    transitions: Float[Array, "C C"]
    """[i, j]: log p(z_{t+1} = j | z_t = i)."""
    emission: Emission
    """p(x_t | z_t)."""


class Forecast(NamedTuple):
    """What comes after the last observation: entry h - 1 of the second axis is h steps ahead."""

    states: Float[Array, "B steps C"]
    """p(z_{T+h} | x_{1..T})."""
    observations: PyTree
    """Of x_{T+h}: probabilities (B steps V) of symbols; or mean (B steps D) and covariance (B steps
    D D) of vectors; or None for a neural emission, which need not be a distribution of x alone."""


def log_likelihood(
    hmm: HMM,
    observations: Observations,
    lengths: Int[Array, "B"] | None = None,
    labels: Int[Array, "B T"] | None = None,
    *,
    method: Method = "auto",
) -> Float[Array, "B"]:
    """log p(x), or log p(x, known states) where `labels` knows some (-1: unknown). Length 0: 0."""
    chain = as_chain(hmm, observations, lengths, labels)
    return chains.log_partition(chain, method=method)


def filtered(
    hmm: HMM,
    observations: Observations,
    lengths: Int[Array, "B"] | None = None,
    labels: Int[Array, "B T"] | None = None,
    *,
    method: Method = "auto",
) -> Float[Array, "B T C"]:
    """p(z_t | x_1, ..., x_t), 0 in the padding."""
    chain = as_chain(hmm, observations, lengths, labels)
    log_probs, _ = chains.filtered(chain, method=method)
    return jnp.where(valid_steps_of(observations, lengths)[..., None], jnp.exp(log_probs), 0.0)


def smoothed(
    hmm: HMM,
    observations: Observations,
    lengths: Int[Array, "B"] | None = None,
    labels: Int[Array, "B T"] | None = None,
    *,
    method: Method = "auto",
) -> Float[Array, "B T C"]:
    """p(z_t | x_1, ..., x_T), 0 in the padding."""
    chain = as_chain(hmm, observations, lengths, labels)
    return chains.node_marginals(chain, method=method)


def viterbi(
    hmm: HMM,
    observations: Observations,
    lengths: Int[Array, "B"] | None = None,
    labels: Int[Array, "B T"] | None = None,
    *,
    method: Method = "auto",
) -> tuple[Int[Array, "B T"], Float[Array, "B"]]:
    """The most likely states z, 0 in the padding, and their log p(z, x)."""
    chain = as_chain(hmm, observations, lengths, labels)
    return chain_paths.viterbi(chain, method=method)


def forecast(
    hmm: HMM,
    observations: Observations,
    lengths: Int[Array, "B"] | None = None,
    *,
    num_steps: int,
    method: Method = "auto",
) -> Forecast:
    """States and observations 1 to `num_steps` steps behind the last observation of each row.

        p(z_{T+h} | x) = p(z_T | x) A^h

    A row of length 0 gets the model's own p(z_h).
    """
    probabilities = filtered(hmm, observations, lengths, method=method)
    batch, steps, _ = probabilities.shape
    ends = jnp.full(batch, steps) if lengths is None else jnp.clip(lengths, 0, steps)
    transitions = jnp.exp(hmm.transitions)
    at_end = jax.nn.one_hot(ends - 1, steps, dtype=probabilities.dtype)
    last = jnp.einsum("bt,btc->bc", at_end, probabilities)
    first = jnp.where((ends > 0)[:, None], last @ transitions, jnp.exp(hmm.initial)[None])

    def step(states: Array, _: None) -> tuple[Array, Array]:
        return states @ transitions, states

    _, states = lax.scan(step, first, length=num_steps)
    states = jnp.moveaxis(states, 0, 1)
    return Forecast(states, hmm.emission.mixture(states))


def sample(
    key: Key[Array, ""], hmm: HMM, *, num_sequences: int, num_steps: int
) -> tuple[Int[Array, "B T"], Observations]:
    """States and observations drawn from the model, `num_sequences` rows of `num_steps`."""
    state_key, emission_key = jax.random.split(key)
    keys = jax.random.split(state_key, num_steps)
    shape = (num_sequences, hmm.initial.shape[0])

    def step(logits: Array, key: Array) -> tuple[Array, Array]:
        states = jax.random.categorical(key, logits)
        return hmm.transitions[states], states

    _, states = lax.scan(step, jnp.broadcast_to(hmm.initial, shape), keys)
    states = states.T
    return states, hmm.emission.draw(emission_key, states)


def without_padding(observations: Array, lengths: Array | None) -> Array:
    """The observations with 0 in the padding, before any arithmetic meets what stands there."""
    valid = valid_steps_of(observations, lengths)
    return jnp.where(valid[..., None] if observations.ndim == 3 else valid, observations, 0)


def as_chain(hmm: HMM, observations: Array, lengths: Array | None, labels: Array | None) -> Chain:
    """The chain of log-potentials of this model; known states (-1: unknown) forbid the others."""
    clean = without_padding(observations, lengths)
    emissions = hmm.emission.log_likelihoods(clean)
    if labels is not None:
        known = valid_steps_of(observations, lengths) & (labels >= 0)
        same = labels[..., None] == jnp.arange(emissions.shape[-1])[None, None]
        emissions = jnp.where(known[..., None] & ~same, -jnp.inf, emissions)
    return Chain(emissions, hmm.transitions, initial=hmm.initial[None], lengths=lengths)
