"""An average of the parameters over the steps, which often does better than the last of them."""

import jax
import jax.numpy as jnp

from jaxseq.typing import Array, Int, PyTree


def update_average(average: PyTree, params: PyTree, step: Int[Array, ""], decay: float) -> PyTree:
    """a_t = d a_{t-1} + (1 - d) p_t        d = min(decay, (1 + t) / (10 + t))

    (Polyak and Juditsky 1992; the growing d lets the first steps be forgotten.)
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, p: d * a + (1 - d) * p, average, params)
