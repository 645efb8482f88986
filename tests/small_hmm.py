"""Small hidden Markov models of every kind of emission, with the twin's view of each."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.models.hmm import (
    HMM,
    CategoricalEmission,
    DiagonalGaussianEmission,
    GaussianEmission,
    TiedGaussianEmission,
)
from jaxseq.reference import hmm as reference

KINDS = ("categorical", "full", "diagonal", "tied")
STATES, SYMBOLS, SIZE, STEPS = 3, 4, 2, 5
LENGTHS = np.array([5, 1, 0, 4])


def log_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    logits = rng.normal(size=shape)
    return logits - reference.logsumexp(logits, axis=-1)[..., None]


def draw(kind: str, seed: int = 0) -> tuple[HMM, np.ndarray]:
    """A model in float64 NumPy, and observations for it with junk in the padding."""
    rng = np.random.default_rng(seed)
    initial, transitions = log_rows(rng, STATES), log_rows(rng, STATES, STATES)
    padding = np.arange(STEPS)[None] >= LENGTHS[:, None]
    if kind == "categorical":
        observations = rng.integers(0, SYMBOLS, (len(LENGTHS), STEPS))
        observations[padding] = 10**6
        return HMM(initial, transitions, CategoricalEmission(log_rows(rng, STATES, SYMBOLS))), (
            observations
        )
    observations = 2 * rng.normal(size=(len(LENGTHS), STEPS, SIZE))
    observations[padding] = np.nan
    means = rng.normal(size=(STATES, SIZE))
    factors = rng.normal(size=(STATES, SIZE, SIZE))
    covariances = factors @ factors.swapaxes(1, 2) + np.eye(SIZE)
    emission = {
        "full": GaussianEmission(means, covariances),
        "diagonal": DiagonalGaussianEmission(means, covariances[:, [0, 1], [0, 1]]),
        "tied": TiedGaussianEmission(means, covariances[0]),
    }[kind]
    return HMM(initial, transitions, emission), observations


def to_jax(tree, dtype: str):
    """The model's floating-point arrays in `dtype`, others as they are."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype if x.dtype.kind == "f" else None), tree)


def rows(observations: np.ndarray) -> list[np.ndarray]:
    """The sequences of a batch, without padding."""
    return [row[:length] for row, length in zip(observations, LENGTHS, strict=True)]


def twin_emission(emission) -> tuple[np.ndarray, ...]:
    """The emission's parameters as the twin takes them."""
    parameters = [np.asarray(leaf, np.float64) for leaf in emission]
    if isinstance(emission, DiagonalGaussianEmission):
        return parameters[0], parameters[1][:, :, None] * np.eye(SIZE)
    if isinstance(emission, TiedGaussianEmission):
        return parameters[0], np.broadcast_to(parameters[1], (STATES, SIZE, SIZE))
    return tuple(parameters)


def twin_potentials(hmm: HMM, sequence: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Initial, transitions and log-likelihoods of one sequence, as the twin wants them."""
    table = reference.gaussian
    if isinstance(hmm.emission, CategoricalEmission):
        table = reference.categorical
    initial, transitions = np.asarray(hmm.initial), np.asarray(hmm.transitions)
    return initial, transitions, table(sequence, *twin_emission(hmm.emission))
