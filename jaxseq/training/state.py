"""The state of training, born on the devices where it lives."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.struct import PyTreeNode
from jax.sharding import Mesh

from jaxseq.parallel.sharding import parameter_shardings, replicated
from jaxseq.typing import Array, Int, Key, PyTree


class TrainState(PyTreeNode):
    """What a step reads and writes, and all that a resume needs beside the config."""

    step: Int[Array, ""]
    params: PyTree
    opt_state: PyTree


def abstract_state(
    init: Callable[[Key[Array, ""]], PyTree], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without any array.

    `init` maps a key to parameters in their boxes of axis names. An optimizer's averages live
    where their parameters do; its counters are on every device.
    """
    boxed = jax.eval_shape(init, jax.random.key(0))
    placed = parameter_shardings(boxed, mesh)
    params = nn.unbox(boxed)
    opt_state = jax.eval_shape(optimizer.init, params)
    opt_placed = optax.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        opt_state,
        placed,
        transform_non_params=lambda _: replicated(mesh),
    )
    shapes = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state)
    shardings = TrainState(replicated(mesh), placed, opt_placed)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )


def create_state(
    init: Callable[[Key[Array, ""]], PyTree],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    key: Key[Array, ""],
) -> TrainState:
    """The state before the first step: no array ever exists whole on one device by accident."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(init, optimizer, mesh))

    def create(key: Key[Array, ""]) -> TrainState:
        params = nn.unbox(init(key))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return jax.jit(create, out_shardings=shardings)(key)
