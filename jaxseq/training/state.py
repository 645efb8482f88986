"""The state of training, born on the devices where it lives."""

from collections.abc import Callable, Collection
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode

from jaxseq.nn.parameters import flatten, unflatten
from jaxseq.parallel.mesh import Layout
from jaxseq.typing import Array, Key, PyTree


class TrainState(PyTreeNode):
    """What a step reads and writes, and all that a resume needs beside the config.

    The same structure holds shapes and shardings of its arrays where those are wanted.
    """

    step: PyTree  # int32, shape (): steps done
    params: PyTree
    opt_state: PyTree
    average: PyTree = None  # of the parameters that train, where one is kept

    def served(self) -> PyTree:
        """The parameters to evaluate: the averages, where they are kept."""
        return self.params if self.average is None else join(self.params, self.average)


def abstract_params(init: Callable[[Key[Array, ""]], PyTree], layout: Layout) -> PyTree:
    """Shapes, dtypes and shardings of the parameters that `init` makes, without any array."""
    boxed = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, home: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=home),
        nn.unbox(boxed),
        layout.parameters(boxed),
    )


def abstract_state(
    init: Callable[[Key[Array, ""]], PyTree],
    optimizer: optax.GradientTransformation,
    layout: Layout,
    frozen: Collection[str] = (),
    averaged: bool = False,
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without any array.

    `init` maps a key to parameters in their boxes of axis names. An optimizer's averages live
    where their parameters do; its counters are on every device. Of the parameters that `frozen`
    names it keeps nothing. `averaged`: averages of the others are part of the state.
    """
    create = partial(_create, init, optimizer, frozen, averaged)
    shapes = jax.eval_shape(create, jax.random.key(0))
    params = {
        _names(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(init, layout))
    }

    def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # An average sits under its parameter's path, in whatever the optimizer wraps around it.
        # (optax.tree_map_params does this too, but not through the masks of optax.partition.)
        names, where = _names(path), layout.replicated
        for tail in (names[i:] for i in range(len(names))):
            if tail in params and params[tail].shape == leaf.shape:
                where = params[tail].sharding
                break
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree_util.tree_map_with_path(place, shapes)


def create_state(
    init: Callable[[Key[Array, ""]], PyTree],
    optimizer: optax.GradientTransformation,
    layout: Layout,
    key: Key[Array, ""],
    frozen: Collection[str] = (),
    averaged: bool = False,
) -> TrainState:
    """The state before the first step: no array ever exists whole on one device by accident."""
    like = abstract_state(init, optimizer, layout, frozen, averaged)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    create = partial(_create, init, optimizer, frozen, averaged)
    return jax.jit(create, out_shardings=shardings)(key)


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
    init: Callable,
    optimizer: optax.GradientTransformation,
    frozen: Collection[str],
    averaged: bool,
    key: Array,
) -> TrainState:
    params = nn.unbox(init(key))
    trained, _ = split(params, frozen)
    average = trained if averaged else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained), average)
