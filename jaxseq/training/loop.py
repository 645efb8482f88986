"""The training loop: one function, read from top to bottom."""

import math
import signal
import time
from functools import partial
from pathlib import Path

import jax

from jaxseq.data.batches import prefetch
from jaxseq.errors import UserError
from jaxseq.nn.parameters import flatten
from jaxseq.parallel.sharding import batch_sharding
from jaxseq.training.checkpoints import Checkpoints
from jaxseq.training.evaluation import evaluate
from jaxseq.training.experiment import Experiment
from jaxseq.training.finetune import initializer, with_layer_rates
from jaxseq.training.metrics import MetricsLog
from jaxseq.training.opening import open_run_directory
from jaxseq.training.progress import ProgressDisplay
from jaxseq.training.run_directory import CHECKPOINTS
from jaxseq.training.signals import StopRequest
from jaxseq.training.source_run import open_source
from jaxseq.training.state import TrainState, abstract_state, create_state
from jaxseq.training.step import make_train_step


class Stopped(Exception):
    """The run was asked to stop and has saved its state; `number` is the signal that asked."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


def train(experiment: Experiment, run_dir: Path) -> dict[str, float]:
    """Trains to `num_steps` in `run_dir`, from its newest checkpoint where it holds one.

    Returns the metrics of the whole validation split at the end. Raises UserError before anything
    is written for a config or data that cannot work, and with the last checkpoint named when the
    loss is no longer finite or the disk is full; Stopped after SIGINT or SIGTERM, state saved.
    """
    # ---- data, and the config that it completes ---------------------------------------------
    experiment.check()
    opened = open_run_directory(experiment, run_dir)
    experiment, corpus = opened.experiment, opened.corpus
    task, model, data = experiment.task, experiment.model, experiment.data
    finetune = experiment.finetune
    num_steps = experiment.num_steps
    batches = data.train_batches(corpus, experiment.seed)

    # ---- devices and the compiled functions -------------------------------------------------
    mesh = experiment.mesh.build(data.batch_size)
    here = batch_sharding(mesh)
    init_key, dropout_key = jax.random.split(jax.random.key(experiment.seed))
    init = initializer(task, model, finetune)
    optimizer = experiment.optimizer.build(num_steps)
    if finetune.layer_decay < 1:
        boxed = jax.eval_shape(init, init_key)
        optimizer = with_layer_rates(optimizer, finetune.layer_decay, boxed)
    like = abstract_state(init, optimizer, mesh, opened.frozen)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    rates = experiment.optimizer.learning_rates(num_steps)
    train_step = jax.jit(
        make_train_step(partial(task.loss, model), optimizer, rates, dropout_key, opened.frozen),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    evaluator = task.evaluator(model, corpus.tokenizer)

    opened.write()
    with (
        Checkpoints(run_dir / CHECKPOINTS, experiment.keep_last) as checkpoints,
        StopRequest() as stop,
    ):
        # ---- state: new, or where the run was left ------------------------------------------
        if checkpoints.steps():
            state = checkpoints.restore(like)
            start = int(state.step)
            begun = f"resumes {run_dir} at step {start}"
            if start >= num_steps:
                begun = f"{run_dir} is already at step {start} of {num_steps}, nothing to train"
        else:
            state = create_state(init, optimizer, mesh, init_key, opened.frozen)
            start = 0
            begun = f"trains in {run_dir}"
            if finetune.from_run is not None:
                source = open_source(finetune)
                matched = source.match(experiment)
                state = state.replace(params=source.copy_into(state.params, matched, mesh))
                begun += f" from {source.run_dir}, step {source.step} ({matched.describe()})"

        with (
            MetricsLog(run_dir, start) as log,
            ProgressDisplay(start, num_steps) as display,
        ):
            sizes = {path: leaf.size for path, leaf in flatten(state.params).items()}
            size = f"{sum(sizes.values()):,} parameters"
            if opened.frozen:
                trained = sum(sizes.values()) - sum(sizes[path] for path in opened.frozen)
                size += f" of which {trained:,} train"
            display.say(
                f"{begun}: {size}, {data.describe(corpus)}, {mesh.size} of "
                f"{jax.device_count()} {jax.default_backend()} devices"
            )

            def validate(state: TrainState, at_most: int | None = None) -> dict[str, float]:
                begin = time.perf_counter()
                chosen = data.evaluation_batches(corpus.validation, at_most)
                metrics = task.metrics(evaluate(evaluator, state.params, chosen, here))
                display.pause(time.perf_counter() - begin)
                return metrics

            def settle(pending: tuple[int, dict] | None) -> None:
                """Reads a step's metrics, which a later step hid the wait for, and acts on them."""
                if pending is None:
                    return
                step, values = pending[0], {k: float(v) for k, v in pending[1].items()}
                if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
                    raise UserError(_not_finite(step, values, checkpoints))
                tokens = values.pop("weight")
                display.step(step, values["loss"], tokens)
                if step % experiment.log_every == 0 or step == num_steps:
                    speed = display.row(step, values["loss"])
                    log.write(step, "train", values | {"tokens_per_second": speed})

            # ---- the loop -------------------------------------------------------------------
            pending, saved, begin = None, start, time.perf_counter()
            for index, batch in prefetch(batches, start, num_steps):
                with jax.set_mesh(mesh):  # for ops that divide themselves: see ops/splash.py
                    state, metrics = train_step(state, jax.device_put(batch, here))
                settle(pending)
                step = index + 1
                pending = (step, metrics)
                if index == start:
                    jax.block_until_ready(metrics)
                    seconds = time.perf_counter() - begin
                    display.say(f"first step, compilation included, took {seconds:.1f} s")
                    display.pause(seconds)

                evaluating = step % experiment.evaluate_every == 0 and step < num_steps
                saving = step % experiment.checkpoint_every == 0 and step < num_steps
                if not (evaluating or saving or stop.number):
                    continue
                settle(pending)
                pending, validation_loss = None, None
                if evaluating:
                    found = validate(state, experiment.evaluation_batches)
                    validation_loss = found["loss"]
                    log.write(step, "validation", found)
                    display.say(f"step {step}: validation loss {validation_loss:.4f}")
                if saving or stop.number:
                    checkpoints.save(state, step, validation_loss)
                    saved = step
                if stop.number:
                    checkpoints.wait()
                    name = signal.Signals(stop.number).name
                    raise Stopped(f"stopped by {name} after step {step}, state saved", stop.number)
            settle(pending)

            # ---- the end --------------------------------------------------------------------
            final = validate(state)
            if saved < num_steps:
                log.write(num_steps, "validation", final)
                checkpoints.save(state, num_steps, final["loss"])
                checkpoints.wait()
    return final


def _not_finite(step: int, values: dict[str, float], checkpoints: Checkpoints) -> str:
    kept = checkpoints.steps()
    last = f"the last checkpoint is of step {kept[-1]}" if kept else "there is no checkpoint yet"
    return (
        f"step {step} (batch {step - 1}): loss {values['loss']}, gradient norm "
        f"{values['gradient_norm']}; {last} in {checkpoints.directory}; lower "
        "--optimizer.learning-rate, or clip with --optimizer.clip-norm"
    )
