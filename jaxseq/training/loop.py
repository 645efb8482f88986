"""The training loop: one function, read from top to bottom."""

import contextlib
import math
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxseq.config import to_tree
from jaxseq.data.batches import prefetch
from jaxseq.errors import UserError
from jaxseq.nn.parameters import flatten
from jaxseq.parallel.hosts import agree, barrier, code_digest, host_rows, is_leader, to_global
from jaxseq.training.checkpoints import Checkpoints
from jaxseq.training.evaluation import evaluate
from jaxseq.training.experiment import Experiment
from jaxseq.training.flops import training_flops
from jaxseq.training.metrics import MetricsLog, read_metrics
from jaxseq.training.monitor import Monitor
from jaxseq.training.opening import OpenedRun, open_run_directory
from jaxseq.training.program import Program, build_program
from jaxseq.training.progress import ProgressDisplay
from jaxseq.training.run_directory import CHECKPOINTS
from jaxseq.training.signals import StopRequest
from jaxseq.training.source_run import open_source
from jaxseq.training.state import TrainState, split


class Stopped(Exception):
    """The run was asked to stop and has saved its state; `number` is the signal that asked."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


def train(experiment: Experiment, run_dir: Path) -> dict[str, float]:
    """Trains to `num_steps` in `run_dir`, from its newest checkpoint where it holds one.

    Every process of a run calls it alike; `run_dir` is one directory that all of them see. Returns
    the metrics of the whole validation split at the end. Raises UserError before anything is
    written for a config or data that cannot work, and with the last checkpoint named when the loss
    is no longer finite or the disk is full; Stopped after SIGINT or SIGTERM, state saved.
    """
    # ---- data, and the config that it completes ---------------------------------------------
    experiment.check()
    opened = open_run_directory(experiment, run_dir)
    experiment, corpus = opened.experiment, opened.corpus
    task, data, num_steps = experiment.task, experiment.data, experiment.num_steps
    batches = data.train_batches(corpus, experiment.seed)
    agree("source code", code_digest())
    agree("experiment", to_tree(experiment))

    # ---- devices and the compiled functions -------------------------------------------------
    layout = experiment.mesh.build(data.batch_size)
    program = build_program(experiment, layout, opened.frozen)
    evaluator = task.evaluator(experiment.model, corpus.tokenizer)
    rows = host_rows(layout.batch, data.batch_size)
    evaluated = {row["step"] for row in read_metrics(run_dir) if row["split"] == "validation"}
    if is_leader():
        opened.write()
    barrier("the run directory is there")

    with (
        Checkpoints(run_dir / CHECKPOINTS, experiment.keep_last) as checkpoints,
        StopRequest() as stop,
    ):
        # ---- state: new, or where the run was left ------------------------------------------
        if checkpoints.steps():
            state = checkpoints.restore(program.like)
            start = int(state.step)
            begun = f"resumes {run_dir} at step {start}"
            if start >= num_steps:
                begun = f"{run_dir} is already at step {start} of {num_steps}, nothing to train"
        else:
            state, source = _new_state(program)
            start = 0
            begun = f"trains in {run_dir}{source}"

        with (
            MetricsLog(run_dir, start) if is_leader() else contextlib.nullcontext() as log,
            ProgressDisplay(start, num_steps, quiet=not is_leader()) as display,
            Monitor(
                *(run_dir, experiment.profile_steps, _flops_of(program), layout, display.say)
            ) as monitor,
        ):
            parts = _size(program, opened), data.describe(corpus), _devices(program)
            display.say(f"{begun}: {', '.join(parts)}")

            def write(step: int, split: str, values: dict[str, float]) -> None:
                if log is not None:
                    log.write(step, split, values)

            def validate(state: TrainState, at_most: int | None = None) -> dict[str, float]:
                with monitor.aside("evaluation"):
                    chosen = data.evaluation_batches(corpus.validation, at_most)
                    return task.metrics(evaluate(evaluator, state.served(), chosen, layout))

            def validate_at(step: int) -> float:
                found = validate(state, experiment.evaluation_batches)
                write(step, "validation", found)
                display.say(f"step {step}: validation loss {found['loss']:.4f}")
                return found["loss"]

            def settle(pending: tuple[int, dict] | None) -> None:
                """Reads a step's metrics, which a later step hid the wait for, and acts on them."""
                nonlocal tokens, rowed
                if pending is None:
                    return
                step, values = pending[0], {k: float(v) for k, v in pending[1].items()}
                if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
                    raise UserError(_not_finite(step, values, checkpoints))
                tokens += values.pop("weight")
                display.step(step, values["loss"])
                if step % experiment.log_every == 0 or step == num_steps:
                    measured = monitor.row(step - rowed, tokens)
                    display.row(step, values["loss"], measured)
                    write(step, "train", values | measured)
                    tokens, rowed = 0.0, step

            # ---- the loop -------------------------------------------------------------------
            pending, saved, tokens, rowed = None, start, 0.0, start
            owed = start % experiment.evaluate_every == 0 and 0 < start < num_steps
            if owed and start not in evaluated:  # there was no time when the run was stopped
                validate_at(start)
            for index, batch in monitor.input(prefetch(batches, start, num_steps, rows)):
                with monitor.step(index):
                    whole = to_global(batch, layout.batch, data.batch_size)
                    state, metrics = program.step(state, whole)
                settle(pending)
                step = index + 1
                pending = (step, metrics)

                evaluating = step % experiment.evaluate_every == 0 and step < num_steps
                saving = step % experiment.checkpoint_every == 0 and step < num_steps
                stopping = stop.agreed(step)
                if not (evaluating or saving or stopping):
                    continue
                settle(pending)
                pending, validation_loss = None, None
                if evaluating and not stopping:
                    validation_loss = validate_at(step)
                if saving or stopping:
                    with monitor.aside("checkpoint"):
                        checkpoints.save(state, step, validation_loss)
                    saved = step
                if stopping:
                    checkpoints.wait()
                    name = signal.Signals(stopping).name
                    raise Stopped(f"stopped by {name} after step {step}, state saved", stopping)
            settle(pending)

            # ---- the end --------------------------------------------------------------------
            final = validate(state)
            if saved < num_steps:
                write(num_steps, "validation", final)
                with monitor.aside("checkpoint"):
                    checkpoints.save(state, num_steps, final["loss"])
                    checkpoints.wait()
                display.say(monitor.summary())
    return final


def _new_state(program: Program) -> tuple[TrainState, str]:
    """The state before the first step, and where its parameters come from, for a person."""
    state, finetune = program.create(), program.experiment.finetune
    if finetune.from_run is None:
        return state, ""
    source = open_source(finetune)
    matched = source.match(program.experiment)
    params = source.copy_into(state.params, matched, program.layout)
    average = state.average
    if average is not None:  # copies: a step uses up both, and they must not be one buffer
        average = jax.tree.map(jnp.copy, split(params, program.frozen)[0])
    state = state.replace(params=params, average=average)
    return state, f" from {source.run_dir}, step {source.step} ({matched.describe()})"


def _flops_of(program: Program) -> Callable[[dict[str, jax.ShapeDtypeStruct]], int]:
    """Maps the shapes of a host's rows to the model FLOPs of a step on the rows of all."""
    experiment = program.experiment
    size = experiment.data.batch_size

    def flops(rows: dict[str, jax.ShapeDtypeStruct]) -> int:
        batch = {k: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for k, x in rows.items()}
        return training_flops(
            experiment.task, experiment.model, program.like.params, batch, program.frozen
        )

    return flops


def _size(program: Program, opened: OpenedRun) -> str:
    sizes = {path: leaf.size for path, leaf in flatten(program.like.params).items()}
    size = f"{sum(sizes.values()):,} parameters"
    if opened.frozen:
        trained = sum(sizes.values()) - sum(sizes[path] for path in opened.frozen)
        size += f" of which {trained:,} train"
    return size


def _devices(program: Program) -> str:
    mesh = program.layout.mesh
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    said = f"{mesh.size} of {jax.device_count()} {jax.default_backend()} devices"
    if jax.process_count() > 1:
        said += f" in {jax.process_count()} processes"
    if axes:
        said += f" ({axes})"
    share, largest = program.unsharded()
    if 0 < share < 1:  # where something is divided, what is not is worth a look
        said += f", {share:.2%} of the parameters whole on each, the largest {largest}"
    return said


def _not_finite(step: int, values: dict[str, float], checkpoints: Checkpoints) -> str:
    kept = checkpoints.steps()
    last = f"the last checkpoint is of step {kept[-1]}" if kept else "there is no checkpoint yet"
    return (
        f"step {step} (batch {step - 1}): loss {values['loss']}, gradient norm "
        f"{values['gradient_norm']}; {last} in {checkpoints.directory}; lower "
        "--optimizer.learning-rate, or clip with --optimizer.clip-norm"
    )
