"""An optimizer's averages of gradients, kept in fewer bits than they are computed in.

Rounded to the nearest, an average of bfloat16, which has 8 significant bits, stands still where
one step would change it by less than 1 part in 512: a mean square with decay 0.999 never falls. So
it is rounded up or down at random, with the odds that make its mean right (stochastic rounding,
Gupta et al. 2015, arXiv:1502.02551):

    x = lo + f (hi - lo)        hi with probability f, else lo
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxseq.typing import Array, Float, Int, Key, PyTree


class StoredState(NamedTuple):
    """The state of the optimizer within, and how often it was rounded."""

    count: Int[Array, ""]
    inner: PyTree


def stored_in_bfloat16(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` with its averages in bfloat16 between steps, and computed as it computes them.

    Averages are the arrays of its state that lie under the path of a parameter and have its shape;
    counters and the like stay as they are. The same steps from the same state round alike.
    """

    def init(params: PyTree) -> StoredState:
        def store(leaf: Array, is_average: bool) -> Array:
            return leaf.astype(jnp.bfloat16) if is_average else leaf

        inner = optimizer.init(params)
        return StoredState(
            jnp.zeros((), jnp.int32), jax.tree.map(store, inner, averages(inner, params))
        )

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        like = jax.eval_shape(optimizer.init, updates)
        inner = jax.tree.map(lambda leaf, shape: leaf.astype(shape.dtype), state.inner, like)
        marks = averages(like, updates)
        updates, inner = optimizer.update(updates, inner, params, **extra)
        leaves, structure = jax.tree.flatten(inner)
        key = jax.random.fold_in(jax.random.key(0), state.count)
        stored = [
            to_bfloat16(leaf, jax.random.fold_in(key, i)) if is_average else leaf
            for i, (leaf, is_average) in enumerate(zip(leaves, jax.tree.leaves(marks), strict=True))
        ]
        return updates, StoredState(state.count + 1, jax.tree.unflatten(structure, stored))

    return optax.GradientTransformation(init, update)


def averages(state: PyTree, params: PyTree) -> PyTree:
    """Which arrays of an optimizer's state are averages over the steps, of parameters' shape."""
    shapes = {
        tuple(map(str, path)): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }

    def is_average(path: tuple, leaf: Array | jax.ShapeDtypeStruct) -> bool:
        names = tuple(map(str, path))
        tails = (names[i:] for i in range(len(names)))
        below = any(shapes.get(tail) == leaf.shape for tail in tails)
        return below and jnp.issubdtype(leaf.dtype, jnp.floating)

    return jax.tree_util.tree_map_with_path(is_average, state)


def to_bfloat16(x: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
    """x rounded to one of the two bfloat16 numbers around it, so that the mean is right.

    What bfloat16 holds, infinities and NaN stay what they are.
    """
    x = x.astype(jnp.float32)
    # bfloat16 is the upper half of float32: noise below it carries over into it, or does not.
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = lax.bitcast_convert_type(x, jnp.uint32) + noise
    rounded = lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))
