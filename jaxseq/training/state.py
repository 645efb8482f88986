"""The state of training, born on the devices where it lives."""

from collections.abc import Callable, Collection
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jax.sharding import Mesh

from jaxseq.nn.parameters import flatten, unflatten
from jaxseq.parallel.sharding import parameter_shardings, replicated
from jaxseq.typing import Array, Key, PyTree


class TrainState(PyTreeNode):
    """What a step reads and writes, and all that a resume needs beside the config.

    The same structure holds shapes and shardings of its arrays where those are wanted.
    """

    step: PyTree  # int32, shape (): steps done
    params: PyTree
    opt_state: PyTree


def abstract_params(init: Callable[[Key[Array, ""]], PyTree], mesh: Mesh) -> PyTree:
    """Shapes, dtypes and shardings of the parameters that `init` makes, without any array."""
    boxed = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, home: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=home),
        nn.unbox(boxed),
        parameter_shardings(boxed, mesh),
    )


def abstract_state(
    init: Callable[[Key[Array, ""]], PyTree],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    frozen: Collection[str] = (),
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without any array.

    `init` maps a key to parameters in their boxes of axis names. An optimizer's averages live
    where their parameters do; its counters are on every device. Of the parameters that `frozen`
    names it keeps nothing.
    """
    shapes = jax.eval_shape(partial(_create, init, optimizer, frozen), jax.random.key(0))
    params = {
        _names(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(init, mesh))
    }

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # An average sits under its parameter's path, in whatever the optimizer wraps around it.
        # (optax.tree_map_params does this too, but not through the masks of optax.partition.)
        names, where = _names(path), replicated(mesh)
        for tail in (names[i:] for i in range(len(names))):
            if tail in params and params[tail].shape == leaf.shape:
                where = params[tail].sharding
                break
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree_util.tree_map_with_path(place, shapes)


def create_state(
    init: Callable[[Key[Array, ""]], PyTree],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    key: Key[Array, ""],
    frozen: Collection[str] = (),
) -> TrainState:
    """The state before the first step: no array ever exists whole on one device by accident."""
    like = abstract_state(init, optimizer, mesh, frozen)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    return jax.jit(partial(_create, init, optimizer, frozen), out_shardings=shardings)(key)


def split(params: PyTree, names: Collection[str]) -> tuple[PyTree, PyTree]:
    """The parameters that are not in `names` (paths like "blocks/mlp/in/kernel"), and those."""
    rest, named = {}, {}
    for path, leaf in flatten(params).items():
        (named if path in names else rest)[path] = leaf
    return unflatten(rest), unflatten(named)


def join(params: PyTree, others: PyTree) -> PyTree:
    """One tree of two: the opposite of `split`; where both have a parameter, that of `others`."""
    return unflatten(flatten(params) | flatten(others))


def _names(path: tuple) -> tuple[str, ...]:
    """The names of nested dictionaries on a path: those of a parameter."""
    return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def _create(
    init: Callable, optimizer: optax.GradientTransformation, frozen: Collection[str], key: Array
) -> TrainState:
    params = nn.unbox(init(key))
    trained, _ = split(params, frozen)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained))
