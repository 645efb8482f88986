"""Attention's options drawn at random, for the op and for its twin."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxseq.ops import position_bias
from jaxseq.reference import position_bias as twin_bias

BIASES = (None, "ALiBi", "past", "both ways")


def make_bias(kind: str | None, parameters: np.ndarray, bias: Any) -> Any:
    """A bias of `kind` from the module `bias`: the op's or the twin's."""
    if kind is None or kind == "ALiBi":
        return bias.ALiBi(parameters) if kind else None
    return bias.RelativeBias(parameters, kind == "both ways", 6)


def op_bias(kind: str | None, parameters: Any) -> Any:
    return make_bias(kind, parameters, position_bias)


def bias_of_twin(kind: str | None, parameters: np.ndarray) -> Any:
    return make_bias(kind, parameters, twin_bias)


def draw(
    seed: int, batch: int, queries: int, keys: int, heads: int, kv_heads: int, bias: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Query, key, value and the parameters of a bias (slopes, or a table with 8 buckets)."""
    rng = np.random.default_rng(seed)
    parameters = (heads,) if bias == "ALiBi" else (8, heads)
    return (
        rng.normal(size=(batch, queries, heads, 4)),
        rng.normal(size=(batch, keys, kv_heads, 4)),
        rng.normal(size=(batch, keys, kv_heads, 4)),
        rng.normal(size=parameters),
    )


def on_device(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: jnp.asarray(option) if isinstance(option, np.ndarray) else option
        for name, option in options.items()
    }
