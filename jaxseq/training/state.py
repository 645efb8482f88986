"""The state of training, born on the devices where it lives."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jax.sharding import Mesh

from jaxseq.parallel.sharding import parameter_shardings, replicated
from jaxseq.typing import Array, Key, PyTree


class TrainState(PyTreeNode):
    """What a step reads and writes, and all that a resume needs beside the config.

    The same structure holds shapes and shardings of its arrays where those are wanted.
    """

    step: PyTree  # int32, shape (): steps done
    params: PyTree
    opt_state: PyTree


def abstract_state(
    init: Callable[[Key[Array, ""]], PyTree], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without any array.

    `init` maps a key to parameters in their boxes of axis names. An optimizer's averages live
    where their parameters do; its counters are on every device.
    """
    key = jax.random.key(0)
    shapes = jax.eval_shape(partial(_create, init, optimizer), key)
    homes = {
        _names(path): sharding
        for path, sharding in jax.tree_util.tree_leaves_with_path(
            parameter_shardings(jax.eval_shape(init, key), mesh)
        )
    }
    sizes = {
        _names(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes.params)
    }

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # An average sits under its parameter's path, in whatever the optimizer wraps around it.
        # (optax.tree_map_params does this too, but not through the masks of optax.partition.)
        names, where = _names(path), replicated(mesh)
        for tail in (names[i:] for i in range(len(names))):
            if sizes.get(tail) == leaf.shape:
                where = homes[tail]
                break
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree_util.tree_map_with_path(place, shapes)


def create_state(
    init: Callable[[Key[Array, ""]], PyTree],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    key: Key[Array, ""],
) -> TrainState:
    """The state before the first step: no array ever exists whole on one device by accident."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(init, optimizer, mesh))
    return jax.jit(partial(_create, init, optimizer), out_shardings=shardings)(key)


def _names(path: tuple) -> tuple[str, ...]:
    """The names of nested dictionaries on a path: those of a parameter."""
    return tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))


def _create(init: Callable, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    params = nn.unbox(init(key))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
