"""What a run compiles: made of a resolved experiment and a layout, before there is any array."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import optax
from jax import lax

from jaxseq.errors import UserError
from jaxseq.nn.parameters import flatten
from jaxseq.ops.quantized_linear import check_quantize
from jaxseq.parallel.mesh import Layout
from jaxseq.parallel.sharding import whole_on_every_device
from jaxseq.training.experiment import Experiment
from jaxseq.training.finetune import initializer, with_layer_rates
from jaxseq.training.state import TrainState, abstract_state, create_state, split
from jaxseq.training.step import make_train_step
from jaxseq.typing import Array, Key, PyTree

TrainStep = Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class Program:
    """The functions of a run."""

    experiment: Experiment
    layout: Layout
    frozen: frozenset[str]
    init: Callable[[Key[Array, ""]], PyTree]
    optimizer: optax.GradientTransformation
    like: TrainState
    """Shapes, dtypes and shardings of the state."""
    train_step: Any
    """(state, batch) -> (next state, metrics), compiled; the state given to it is used up. To be
    lowered under `layout.use()`."""

    def create(self) -> TrainState:
        """The state before the first step."""
        init_key, _ = _keys(self.experiment)
        averaged = self.like.average is not None
        return create_state(self.init, self.optimizer, self.layout, init_key, self.frozen, averaged)

    def step(self, state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, dict[str, Array]]:
        """One training step on a batch whose rows are where `layout.batch` says."""
        # A mapped function has a mesh of its own.
        around = self.layout.use() if self.experiment.driver == "jit" else contextlib.nullcontext()
        with around:
            return self.train_step(state, batch)

    def unsharded(self) -> tuple[float, str]:
        """The share of the parameters that is whole on every device, and the largest of them."""
        return whole_on_every_device(flatten(self.like.params))


def build_program(
    experiment: Experiment, layout: Layout, frozen: Collection[str] = frozenset()
) -> Program:
    """The program of a resolved experiment; parameters whose paths are in `frozen` stay.

    Raises UserError where the batch, the parameters or the driver do not fit the mesh.
    """
    _check(experiment, layout)
    task, model, finetune = experiment.task, experiment.model, experiment.finetune
    init_key, dropout_key = _keys(experiment)
    init = initializer(task, model, finetune)
    optimizer = experiment.optimizer.build(experiment.num_steps)
    if finetune.layer_decay < 1:
        boxed = jax.eval_shape(init, init_key)
        optimizer = with_layer_rates(optimizer, finetune.layer_decay, boxed)
    averaged = experiment.optimizer.ema_decay > 0
    like = abstract_state(init, optimizer, layout, frozen, averaged)
    make = partial(
        make_train_step,
        partial(task.loss, model),
        optimizer,
        experiment.optimizer.learning_rates(experiment.num_steps),
        dropout_key,
        frozen,
        accumulate=experiment.accumulate,
        ema_decay=experiment.optimizer.ema_decay,
    )
    drive = {"jit": _with_jit, "pmap": _with_pmap}[experiment.driver]
    program = Program(
        *(experiment, layout, frozenset(frozen), init, optimizer, like),
        drive(make, like, layout, frozen),
    )
    share, largest = program.unsharded()
    if share > experiment.mesh.max_unsharded:
        raise UserError(
            f"{share:.1%} of the parameters are whole on every device, the largest {largest}, and "
            f"--mesh.max-unsharded is {experiment.mesh.max_unsharded}; divide them with "
            "--mesh.fsdp or --mesh.tensor, or with a rule for their axes (--mesh.rules)"
        )
    return program


def _keys(experiment: Experiment) -> Key[Array, "2"]:
    """Of the initial parameters, and of the steps."""
    return jax.random.split(jax.random.key(experiment.seed))


# ---- drivers: who compiles the one body of a step -------------------------------------------


def _with_jit(
    make: Callable, like: TrainState, layout: Layout, frozen: Collection[str]
) -> TrainStep:
    """One program for all devices: XLA divides it as the arrays are laid out."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    trained, _ = split(shardings.params, frozen)

    def place(gradients: PyTree) -> PyTree:
        # Else they might be summed whole on every device before each takes its part.
        return jax.tree.map(lax.with_sharding_constraint, gradients, trained)

    return jax.jit(make(place=place), donate_argnums=0, out_shardings=(shardings, None))


def _with_pmap(
    make: Callable, like: TrainState, layout: Layout, frozen: Collection[str]
) -> TrainStep:
    """One program for each device, which says itself what is summed over all of them."""
    devices = list(layout.mesh.devices.flat)
    step = jax.pmap(
        make(axis="data"),
        axis_name="data",
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )

    def train_step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Any]:
        ways = len(devices)
        return step(state, {k: x.reshape(ways, -1, *x.shape[1:]) for k, x in batch.items()})

    return train_step


def _check(experiment: Experiment, layout: Layout) -> None:
    shape = layout.mesh.shape
    batch_size = experiment.data.batch_size
    rows = batch_size // layout.row_shards
    if rows % experiment.accumulate:
        raise UserError(
            f"--accumulate {experiment.accumulate} does not divide the {rows} rows of a batch that "
            f"each device has (--data.batch-size {batch_size} over {layout.row_shards})"
        )
    check_quantize(getattr(experiment.model, "quantize", "none"), layout.mesh.devices.flat[0])
    if experiment.driver == "pmap" and jax.process_count() > 1:
        raise UserError("--driver pmap is for one process; use --driver jit for several")
    if experiment.driver == "pmap" and shape["data"] != layout.mesh.size:
        other = next(name for name, size in shape.items() if size > 1 and name != "data")
        raise UserError(
            f"--driver pmap divides the batch alone, and --mesh.{other} is {shape[other]}; leave "
            "it at 1, or use --driver jit"
        )
