"""One step of training, and the loss of one batch."""

from collections.abc import Callable, Collection

import jax
import optax

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
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The pure function (state, batch) -> (next state, metrics) that `jit` compiles.

    The loss is sum / weight over the whole batch, whatever devices hold it. Randomness of a step
    is fold_in(key, step), so that a resumed run draws what the uninterrupted one drew. Parameters
    whose paths are in `frozen` stay as they are, and no gradient of them is computed.
    """

    def mean_loss(trained: PyTree, fixed: PyTree, batch: Batch, dropout_key: Array) -> tuple:
        loss_sum, weight = loss(join(trained, fixed), batch, dropout_key)
        return loss_sum / jax.numpy.maximum(weight, 1), weight

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        trained, fixed = split(state.params, frozen)
        (mean, weight), gradients = jax.value_and_grad(mean_loss, has_aux=True)(
            trained, fixed, batch, jax.random.fold_in(key, state.step)
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        params = join(optax.apply_updates(trained, updates), fixed)
        metrics = {
            "loss": mean,
            "weight": weight,
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": jax.numpy.asarray(learning_rates(state.step)),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return train_step
