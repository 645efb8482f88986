"""What a state of a hidden Markov model emits: symbols, or vectors from a Gaussian.

Every emission knows four things: the log-likelihoods of observations under each state, the
expected sufficient statistics that EM needs, the parameters that are best for such statistics, and
how to draw and to mix observations. Observations are cleaned of padding before they get here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxseq.typing import Array, Float, Int, Key, PyTree


class Prior(NamedTuple):
    """What EM adds to the counts, and how narrow a Gaussian may become.

    A pseudocount a is the MAP estimate under a Dirichlet(1 + a) prior on each row; it is added to
    the entries that are possible (above zero) in the model at hand, so a hard zero stays one. The
    best covariance whose variance is at least `variance_floor` in every direction has the
    eigenvalues of the free one, raised to the floor: EM stays monotone with a floor too.
    """

    initial: float = 0.0
    transitions: float = 0.0
    symbols: float = 0.0
    variance_floor: float = 1e-6


class CategoricalEmission(NamedTuple):
    """State c emits symbol v with probability exp(log_probs[c, v])."""

    log_probs: Float[Array, "C V"]

    def log_likelihoods(self, observations: Int[Array, "B T"]) -> Float[Array, "B T C"]:
        """log p(x_t | c)."""
        return self.log_probs.T[observations]

    def statistics(
        self, observations: Int[Array, "B T"], weights: Float[Array, "B T C"]
    ) -> Float[Array, "C V"]:
        """Expected number of times that each state emitted each symbol."""
        counts = jnp.zeros(self.log_probs.T.shape, weights.dtype)
        return counts.at[observations].add(weights).T

    def merge(
        self, keep: Array, old: Float[Array, "C V"], add: Array, new: Float[Array, "C V"]
    ) -> Float[Array, "C V"]:
        """The counts of `keep` times the old and `add` times the new."""
        return keep * old + add * new

    def maximise(self, counts: Float[Array, "C V"], prior: Prior) -> "CategoricalEmission":
        """The emission that makes the counts most likely."""
        return CategoricalEmission(normalised(counts, self.log_probs, prior.symbols))

    def mixture(self, states: Float[Array, "... C"]) -> Float[Array, "... V"]:
        """Probability of each symbol where the states have these probabilities."""
        return states @ jnp.exp(self.log_probs)

    def draw(self, key: Key[Array, ""], states: Int[Array, "B T"]) -> Int[Array, "B T"]:
        """A symbol for each state."""
        return jax.random.categorical(key, self.log_probs[states])

    def unconstrained(self) -> PyTree:
        """Free parameters: the logits of each row."""
        return {"logits": self.log_probs}

    def constrained(self, free: PyTree) -> "CategoricalEmission":
        """The emission with these free parameters."""
        return CategoricalEmission(jax.nn.log_softmax(free["logits"], axis=-1))


class Moments(NamedTuple):
    """Weight, mean and scatter about the mean, sum of w (x - mean)(x - mean)^T, of each state.

    Kept about the mean and not about zero: raw second moments lose every digit of the variance
    in float32 where the mean is a thousand standard deviations from zero.
    """

    weight: Float[Array, "C"]
    mean: Float[Array, "C D"]
    scatter: Float[Array, "C D D"] | Float[Array, "C D"]


class GaussianEmission(NamedTuple):
    """State c emits x from N(means[c], covariances[c]): a full covariance for each state."""

    means: Float[Array, "C D"]
    covariances: Float[Array, "C D D"]

    def log_likelihoods(self, observations: Float[Array, "B T D"]) -> Float[Array, "B T C"]:
        """log N(x_t; mean_c, covariance_c)."""
        return _full_log_density(observations, self.means, self.covariances)

    def statistics(
        self, observations: Float[Array, "B T D"], weights: Float[Array, "B T C"]
    ) -> Moments:
        """Weighted moments of the observations of each state."""
        return _moments(self.means, observations, weights, full=True)

    def merge(self, keep: Array, old: Moments, add: Array, new: Moments) -> Moments:
        """The moments of `keep` times the old weight and `add` times the new."""
        return _merge(keep, old, add, new)

    def maximise(self, moments: Moments, prior: Prior) -> "GaussianEmission":
        """The emission that makes the moments most likely; a state never seen stays as it is."""
        seen = moments.weight > 0
        weight = jnp.where(seen, moments.weight, 1)[:, None, None]
        covariances = _raise_eigenvalues(moments.scatter / weight, prior.variance_floor)
        return GaussianEmission(
            jnp.where(seen[:, None], moments.mean, self.means),
            jnp.where(seen[:, None, None], covariances, self.covariances),
        )

    def mixture(self, states: Float[Array, "... C"]) -> tuple[Array, Array]:
        """Mean and covariance of an observation where the states have these probabilities."""
        return _mixture(states, self.means, self.covariances)

    def draw(self, key: Key[Array, ""], states: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """An observation for each state."""
        noise = jax.random.normal(key, (*states.shape, self.means.shape[1]), self.means.dtype)
        factors = jnp.linalg.cholesky(self.covariances)[states]
        return self.means[states] + jnp.einsum("btij,btj->bti", factors, noise)

    def unconstrained(self) -> PyTree:
        """Free parameters: means, and Cholesky factors with the log of their diagonal."""
        return {"means": self.means, "factors": _free_factor(self.covariances)}

    def constrained(self, free: PyTree) -> "GaussianEmission":
        """The emission with these free parameters."""
        return GaussianEmission(free["means"], _covariance_of(free["factors"]))


class DiagonalGaussianEmission(NamedTuple):
    """State c emits x from N(means[c], diag(variances[c]))."""

    means: Float[Array, "C D"]
    variances: Float[Array, "C D"]

    def log_likelihoods(self, observations: Float[Array, "B T D"]) -> Float[Array, "B T C"]:
        """log N(x_t; mean_c, diag(variance_c))."""
        scales = jnp.sqrt(self.variances)
        z = (observations[:, :, None] - self.means[None, None]) / scales[None, None]
        constant = jnp.sum(jnp.log(scales), axis=1) + _half_log_two_pi(self.means)
        return -0.5 * jnp.sum(z * z, axis=-1) - constant[None, None]

    def statistics(
        self, observations: Float[Array, "B T D"], weights: Float[Array, "B T C"]
    ) -> Moments:
        """Weighted moments of the observations of each state."""
        return _moments(self.means, observations, weights, full=False)

    def merge(self, keep: Array, old: Moments, add: Array, new: Moments) -> Moments:
        """The moments of `keep` times the old weight and `add` times the new."""
        return _merge(keep, old, add, new)

    def maximise(self, moments: Moments, prior: Prior) -> "DiagonalGaussianEmission":
        """The emission that makes the moments most likely; a state never seen stays as it is."""
        seen = (moments.weight > 0)[:, None]
        weight = jnp.where(seen, moments.weight[:, None], 1)
        variances = jnp.maximum(moments.scatter / weight, prior.variance_floor)
        return DiagonalGaussianEmission(
            jnp.where(seen, moments.mean, self.means), jnp.where(seen, variances, self.variances)
        )

    def mixture(self, states: Float[Array, "... C"]) -> tuple[Array, Array]:
        """Mean and covariance of an observation where the states have these probabilities."""
        return _mixture(states, self.means, jax.vmap(jnp.diag)(self.variances))

    def draw(self, key: Key[Array, ""], states: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """An observation for each state."""
        noise = jax.random.normal(key, (*states.shape, self.means.shape[1]), self.means.dtype)
        return self.means[states] + jnp.sqrt(self.variances)[states] * noise

    def unconstrained(self) -> PyTree:
        """Free parameters: means and the logs of the variances."""
        return {"means": self.means, "log_variances": jnp.log(self.variances)}

    def constrained(self, free: PyTree) -> "DiagonalGaussianEmission":
        """The emission with these free parameters."""
        return DiagonalGaussianEmission(free["means"], jnp.exp(free["log_variances"]))


class TiedGaussianEmission(NamedTuple):
    """State c emits x from N(means[c], covariance): one full covariance for all states."""

    means: Float[Array, "C D"]
    covariance: Float[Array, "D D"]

    def log_likelihoods(self, observations: Float[Array, "B T D"]) -> Float[Array, "B T C"]:
        """log N(x_t; mean_c, covariance)."""
        return _full_log_density(observations, self.means, self.covariance[None])

    def statistics(
        self, observations: Float[Array, "B T D"], weights: Float[Array, "B T C"]
    ) -> Moments:
        """Weighted moments of the observations of each state."""
        return _moments(self.means, observations, weights, full=True)

    def merge(self, keep: Array, old: Moments, add: Array, new: Moments) -> Moments:
        """The moments of `keep` times the old weight and `add` times the new."""
        return _merge(keep, old, add, new)

    def maximise(self, moments: Moments, prior: Prior) -> "TiedGaussianEmission":
        """The emission that makes the moments most likely; a state never seen stays as it is."""
        total = jnp.sum(moments.weight)
        free = jnp.sum(moments.scatter, axis=0) / jnp.where(total > 0, total, 1)
        covariance = _raise_eigenvalues(free, prior.variance_floor)
        return TiedGaussianEmission(
            jnp.where((moments.weight > 0)[:, None], moments.mean, self.means),
            jnp.where(total > 0, covariance, self.covariance),
        )

    def mixture(self, states: Float[Array, "... C"]) -> tuple[Array, Array]:
        """Mean and covariance of an observation where the states have these probabilities."""
        shape = (self.means.shape[0], *self.covariance.shape)
        return _mixture(states, self.means, jnp.broadcast_to(self.covariance, shape))

    def draw(self, key: Key[Array, ""], states: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """An observation for each state."""
        noise = jax.random.normal(key, (*states.shape, self.means.shape[1]), self.means.dtype)
        return self.means[states] + noise @ jnp.linalg.cholesky(self.covariance).T

    def unconstrained(self) -> PyTree:
        """Free parameters: means, and the Cholesky factor with the log of its diagonal."""
        return {"means": self.means, "factor": _free_factor(self.covariance)}

    def constrained(self, free: PyTree) -> "TiedGaussianEmission":
        """The emission with these free parameters."""
        return TiedGaussianEmission(free["means"], _covariance_of(free["factor"]))


def normalised(
    counts: Float[Array, "... V"], log_probs: Float[Array, "... V"], pseudocount: float | Array
) -> Float[Array, "... V"]:
    """Log of the rows of counts as shares; a row without counts keeps its `log_probs`."""
    counts = counts + jnp.where(log_probs > -jnp.inf, pseudocount, 0.0)
    total = jnp.sum(counts, axis=-1, keepdims=True)
    return jnp.where(total > 0, jnp.log(counts / jnp.where(total > 0, total, 1)), log_probs)


# --- Gaussians -----------------------------------------------------------------------------------


def _half_log_two_pi(means: Array) -> Array:
    return 0.5 * means.shape[1] * jnp.log(jnp.asarray(2 * jnp.pi, means.dtype))


def _full_log_density(observations: Array, means: Array, covariances: Array) -> Array:
    """-1/2 |L^-1 (x - m)|^2 - log |L| - D/2 log 2 pi, with L L^T the covariance (one or C)."""
    factors = jnp.linalg.cholesky(covariances)
    identity = jnp.broadcast_to(jnp.eye(means.shape[1], dtype=means.dtype), factors.shape)
    whitening = jax.scipy.linalg.solve_triangular(factors, identity, lower=True)
    whitening = jnp.broadcast_to(whitening, (means.shape[0], *whitening.shape[1:]))
    # The difference is taken first: |L^-1 x - L^-1 m| would cancel where x is far from zero.
    difference = observations[:, :, None] - means[None, None]
    z = jnp.einsum("btcj,cij->btci", difference, whitening)
    log_diagonal = jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1))
    constant = jnp.sum(log_diagonal, axis=-1) + _half_log_two_pi(means)
    return -0.5 * jnp.sum(z * z, axis=-1) - constant[None, None]


def _moments(means: Array, observations: Array, weights: Array, *, full: bool) -> Moments:
    """Moments taken about the model's means, which are near, and then moved to their own."""
    difference = observations[:, :, None] - means[None, None]
    weighted = weights[..., None] * difference
    weight = jnp.sum(weights, axis=(0, 1))
    first = jnp.sum(weighted, axis=(0, 1))
    shift = first / jnp.where(weight > 0, weight, 1)[:, None]
    if full:
        second = jnp.einsum("btci,btcj->cij", weighted, difference)
        scatter = second - first[:, :, None] * shift[:, None, :]
    else:
        scatter = jnp.sum(weighted * difference, axis=(0, 1)) - first * shift
    return Moments(weight, means + shift, scatter)


def _merge(keep: Array, old: Moments, add: Array, new: Moments) -> Moments:
    """Chan, Golub and LeVeque (1979): the moments of two weighted sets together."""
    before, behind = keep * old.weight, add * new.weight
    weight = before + behind
    share = behind / jnp.where(weight > 0, weight, 1)
    step = new.mean - old.mean
    apart = step[:, :, None] * step[:, None] if old.scatter.ndim == 3 else step**2
    shape = (-1,) + (1,) * (apart.ndim - 1)
    scatter = keep * old.scatter + add * new.scatter + (before * share).reshape(shape) * apart
    return Moments(weight, old.mean + share[:, None] * step, scatter)


def _raise_eigenvalues(covariance: Array, floor: float | Array) -> Array:
    """The covariance with its eigenvalues at least `floor`; itself, bit for bit, where they are."""
    symmetric = (covariance + jnp.swapaxes(covariance, -1, -2)) / 2
    values, vectors = jnp.linalg.eigh(symmetric)
    raised = (vectors * jnp.maximum(values, floor)[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)
    return jnp.where((values[..., 0] < floor)[..., None, None], raised, symmetric)


def _mixture(states: Array, means: Array, covariances: Array) -> tuple[Array, Array]:
    """Law of total covariance: E[covariance] + E[(mean_c - mean)(mean_c - mean)^T]."""
    mean = states @ means
    difference = jnp.expand_dims(means, tuple(range(states.ndim - 1))) - mean[..., None, :]
    within = jnp.einsum("...c,cij->...ij", states, covariances)
    between = jnp.einsum("...c,...ci,...cj->...ij", states, difference, difference)
    return mean, within + between


def _free_factor(covariance: Array) -> Array:
    factor = jnp.linalg.cholesky(covariance)
    diagonal = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return jnp.tril(factor, -1) + _diagonal_matrix(jnp.log(diagonal))


def _covariance_of(free: Array) -> Array:
    diagonal = jnp.diagonal(free, axis1=-2, axis2=-1)
    factor = jnp.tril(free, -1) + _diagonal_matrix(jnp.exp(diagonal))
    return factor @ jnp.swapaxes(factor, -1, -2)


def _diagonal_matrix(diagonal: Array) -> Array:
    identity = jnp.eye(diagonal.shape[-1], dtype=diagonal.dtype)
    return diagonal[..., None] * jnp.broadcast_to(identity, (*diagonal.shape, diagonal.shape[-1]))
