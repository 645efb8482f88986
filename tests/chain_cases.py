"""Small chains with everything that can go wrong in them, for the tests of the chain engine."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxseq.ops.chain import Chain

LENGTHS = [4, 3, 2, 1, 0, 9, 4]  # one beyond T
JUNK = [np.nan, np.inf, -np.inf]


def ragged(*, per_step: bool = False, junk: bool = True, states: int = 3) -> Chain:
    """Seven sequences of up to 4 steps in NumPy: hard zeros, all else random.

    The last sequence has no possible path. The padding holds NaN and infinities, or 0.
    """
    rng, junk_rng = np.random.default_rng(0), np.random.default_rng(1)
    batch, time = len(LENGTHS), 4
    emissions = 2 * rng.normal(size=(batch, time, states))
    transitions = rng.normal(size=(batch, time - 1, states, states))
    transitions = transitions if per_step else transitions[0, 0]
    initial, final = rng.normal(size=(1, states)), rng.normal(size=(batch, states))
    transitions[..., 0, 1] = -np.inf
    emissions[1, 1, 2] = -np.inf
    emissions[-1, 1] = -np.inf
    for b, length in enumerate(LENGTHS):
        paddings = [emissions[b, length:]]
        if per_step:
            paddings.append(transitions[b, max(length - 1, 0) :])
        for padding in paddings:
            padding[:] = junk_rng.choice(JUNK, padding.shape) if junk else 0
    return Chain(emissions, transitions, initial, final, np.array(LENGTHS))


def finite(*, per_step: bool = False) -> tuple[np.ndarray, ...]:
    """Potentials without zeros, three sequences of up to 4 steps with 3 states; see `FINITE`."""
    rng = np.random.default_rng(1)
    shape = (3, 3, 3, 3) if per_step else (3, 3)
    emissions, transitions = rng.normal(size=(3, 4, 3)), rng.normal(size=shape)
    return emissions, transitions, rng.normal(size=(1, 3)), rng.normal(size=(3, 3))


FINITE = np.array([4, 0, 2])  # the lengths that go with `finite`


def on_device(chain: Chain, dtype: str = "float32") -> Chain:
    """The chain as JAX arrays."""

    def put(x: Any) -> Any:
        return None if x is None else jnp.asarray(x, dtype)

    *potentials, lengths = chain
    lengths = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    return Chain(*(put(x) for x in potentials), lengths)


def assert_log_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Equal where infinite, and within the tolerance, relative from 1 on, elsewhere."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    possible = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~possible], expected[~possible])
    actual, expected = actual[possible], expected[possible]
    error = np.abs(actual - expected) / np.maximum(1, np.abs(expected))
    assert np.max(error, initial=0) <= tolerance, f"error {np.max(error)}"
