"""One step of training, and the loss of one batch."""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxseq.training.average import update_average
from jaxseq.training.state import TrainState, join, split
from jaxseq.typing import Array, Float, Key, PyTree

Batch = dict[str, Array]
Loss = Callable[[PyTree, Batch, Key[Array, ""] | None], tuple[Float[Array, ""], Float[Array, ""]]]
"""(params, batch, dropout key) -> (sum of losses, how many were summed)."""


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    learning_rates: optax.Schedule,
    key: Key[Array, ""],
    frozen: Collection[str] = (),
    *,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    place: Callable[[PyTree], PyTree] = lambda gradients: gradients,
    axis: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The pure function (state, batch) -> (next state, metrics) that a driver compiles.

    The loss is sum / weight over the whole batch: gradients of sums are added over `accumulate`
    micro-batches (of every accumulate-th row, so that each device goes on with its own rows), and
    divided once. `place` lays gradients out; `axis` names the mapped axis where each device has a
    batch of its own, over which they are added.

    Randomness of a step is fold_in(key, step), so that a resumed run draws what the uninterrupted
    one drew. Parameters whose paths are in `frozen` stay as they are, and no gradient of them is
    computed. The average of the parameters, where the state holds one, follows them by
    `ema_decay`.
    """

    def sums(trained: PyTree, fixed: PyTree, batch: Batch, dropout_key: Array) -> tuple:
        """(gradients of the sum, sum, weight) of a micro-batch."""

        def loss_sum(trained: PyTree) -> tuple:
            return loss(join(trained, fixed), batch, dropout_key)

        (total, weight), gradients = jax.value_and_grad(loss_sum, has_aux=True)(trained)
        return place(gradients), total, weight

    def over_microbatches(trained: PyTree, fixed: PyTree, batch: Batch, step_key: Array) -> tuple:
        if accumulate == 1:
            return sums(trained, fixed, batch, step_key)

        def add(so_far: tuple, index_and_rows: tuple) -> tuple:
            index, rows = index_and_rows
            found = sums(trained, fixed, rows, jax.random.fold_in(step_key, index))
            return jax.tree.map(jnp.add, so_far, found), None

        def cut(x: Array) -> Array:
            return x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)

        parts = jnp.arange(accumulate), jax.tree.map(cut, batch)
        like = jax.eval_shape(
            sums, trained, fixed, *jax.tree.map(lambda x: x[0], parts[1:]), step_key
        )
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        return lax.scan(add, (place(zeros[0]), *zeros[1:]), parts)[0]

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        trained, fixed = split(state.params, frozen)
        step_key = jax.random.fold_in(key, state.step)
        if axis is not None:
            step_key = jax.random.fold_in(step_key, lax.axis_index(axis))
        found = over_microbatches(trained, fixed, batch, step_key)
        gradients, total, weight = found if axis is None else lax.psum(found, axis)
        count = jnp.maximum(weight, 1)
        gradients = jax.tree.map(lambda gradient: gradient / count, gradients)

        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        average = state.average
        if average is not None:
            average = update_average(average, trained, state.step, ema_decay)
        metrics = {
            "loss": total / count,
            "weight": weight,
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": jnp.asarray(learning_rates(state.step)),
        }
        return TrainState(state.step + 1, join(trained, fixed), opt_state, average), metrics

    return train_step
