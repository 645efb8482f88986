"""Emissions computed by a network: any function from observations to log-likelihoods.

The chain engine asks of an emission only the table log p(x_t | z_t, what came before x_t), and its
gradient flows through any table. What the function must keep is normalisation: for each state,
exp(log-likelihood) integrates to 1 over x_t, or "likelihood" can be had for nothing by scaling. So
the network here, `AutoregressiveGaussian`, reads the observations *before* x_t and outputs the mean
of a Gaussian for x_t in each state: a switching nonlinear autoregression, a density by
construction. A classifier's log p(z | x) - log p(z) (Bourlard and Morgan 1994) decodes well too,
but is a density of nothing, and may be fitted only to labels.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from jaxseq.nn.linear import Linear
from jaxseq.nn.parameters import parameter
from jaxseq.typing import Array, Float, Int, Key, PyTree


class NeuralEmission(struct.PyTreeNode):
    """log p(x_t | c) = apply(params, x)[t, c], learnt by gradient (see `hmm_fit.loss`)."""

    params: PyTree
    apply: Callable[[PyTree, Array], Array] = struct.field(pytree_node=False)

    def log_likelihoods(
        self, observations: Int[Array, "B T"] | Float[Array, "B T D"]
    ) -> Float[Array, "B T C"]:
        """What the network says; it sees zeros in the padding."""
        return self.apply(self.params, observations)

    def mixture(self, states: Float[Array, "... C"]) -> None:
        """None: the density of an observation may hang on those before it."""

    def draw(self, key: Key[Array, ""], states: Int[Array, "B T"]) -> Array:
        """Raises ValueError: a table of log-likelihoods cannot be drawn from."""
        raise ValueError("hmm.emission: a NeuralEmission has likelihoods but cannot be sampled")

    def unconstrained(self) -> PyTree:
        """The network's parameters are free as they are."""
        return self.params

    def constrained(self, free: PyTree) -> "NeuralEmission":
        """The emission with these parameters."""
        return self.replace(params=free)


class AutoregressiveGaussian(nn.Module):
    """log N(x_t; f_c(x_{t-1}), diag(s_c^2)), with f an MLP of one hidden layer, x_0 = 0.

    h_t = tanh(W x_{t-1} + b)        f_c(x_{t-1}) = U_c h_t + m_c
    """

    num_states: int
    hidden: int

    @nn.compact
    def __call__(self, observations: Float[Array, "B T D"]) -> Float[Array, "B T C"]:
        """Log-likelihoods of every observation under every state."""
        batch, steps, size = observations.shape
        states = self.num_states
        previous = jnp.pad(observations, ((0, 0), (1, 0), (0, 0)))[:, :steps]
        h = jnp.tanh(Linear(self.hidden, ("embed", "mlp"), name="in")(previous))
        means = Linear(states * size, ("mlp", "embed"), init_scale=0.3, name="out")(h)
        means = means.reshape(batch, steps, states, size)
        zeros = nn.initializers.zeros
        log_scales = parameter(self, "log_scales", zeros, ("states", "embed"), (states, size))
        z = (observations[:, :, None] - means) * jnp.exp(-log_scales)[None, None]
        constant = jnp.sum(log_scales, axis=1) + 0.5 * size * jnp.log(2 * jnp.pi)
        return -0.5 * jnp.sum(z * z, axis=-1) - constant[None, None]
