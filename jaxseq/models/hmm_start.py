"""Where EM may start when nothing better is known of the states."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.models.hmm import HMM
from jaxseq.models.hmm_emissions import (
    CategoricalEmission,
    DiagonalGaussianEmission,
    GaussianEmission,
    TiedGaussianEmission,
)
from jaxseq.typing import Array, Float, Key


def random_categorical(key: Key[Array, ""], num_states: int, num_symbols: int) -> HMM:
    """Every distribution drawn evenly from all that there are, a Dirichlet of ones."""
    chain_key, symbol_key = jax.random.split(key)
    symbols = jax.random.dirichlet(symbol_key, jnp.ones(num_symbols), (num_states,))
    return _random_chain(chain_key, num_states, CategoricalEmission(jnp.log(symbols)))


def random_gaussian(
    key: Key[Array, ""],
    num_states: int,
    observations: np.ndarray | Array,
    lengths: np.ndarray | Array | None = None,
    *,
    covariance: Literal["full", "diagonal", "tied"] = "full",
) -> HMM:
    """Means at observations (B, T, D) far apart, and the covariance of all of them for each state.

    Each further mean is drawn with probability proportional to its squared distance from the
    nearest one so far (k-means++, Arthur and Vassilvitskii 2007). Raises ValueError where there
    are fewer observations than states.
    """
    points = np.asarray(observations, np.float64)
    if lengths is not None:
        points = points[np.arange(points.shape[1])[None] < np.asarray(lengths)[:, None]]
    points = points.reshape(-1, points.shape[-1])
    if len(points) < num_states:
        raise ValueError(f"{len(points)} observations cannot be the means of {num_states} states")
    chain_key, mean_key = jax.random.split(key)
    means = jnp.asarray(_spread_out(mean_key, points, num_states))
    spread = jnp.asarray(np.atleast_2d(np.cov(points, rowvar=False, bias=True)))
    size = points.shape[1]
    emission = {
        "full": lambda: GaussianEmission(means, jnp.tile(spread[None], (num_states, 1, 1))),
        "tied": lambda: TiedGaussianEmission(means, spread),
        "diagonal": lambda: DiagonalGaussianEmission(
            means, jnp.broadcast_to(jnp.diag(spread)[None], (num_states, size))
        ),
    }[covariance]()
    return _random_chain(chain_key, num_states, emission)


def _random_chain(key: Key[Array, ""], num_states: int, emission) -> HMM:
    rows = jax.random.dirichlet(key, jnp.ones(num_states), (num_states + 1,))
    return HMM(jnp.log(rows[0]), jnp.log(rows[1:]), emission)


def _spread_out(
    key: Key[Array, ""], points: Float[np.ndarray, "n D"], count: int
) -> Float[np.ndarray, "count D"]:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    chosen = [points[rng.integers(len(points))]]
    while len(chosen) < count:
        gaps = ((points[:, None] - np.array(chosen)[None]) ** 2).sum(axis=-1).min(axis=1)
        total = gaps.sum()
        odds = gaps / total if total > 0 else np.full(len(points), 1 / len(points))
        chosen.append(points[rng.choice(len(points), p=odds)])
    return np.array(chosen)
