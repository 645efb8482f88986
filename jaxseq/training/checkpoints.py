"""Checkpoints on Orbax: written beside the training, whole or not at all.

All use of Orbax in jaxseq is in this file.
"""

import logging
import shutil
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.options import MultiprocessingOptions

from jaxseq.errors import UserError
from jaxseq.parallel.hosts import barrier, is_leader
from jaxseq.training.state import TrainState
from jaxseq.typing import PyTree

_log = logging.getLogger(__name__)

# What Orbax and TensorStore raise for files that are damaged or cannot be written.
_STORAGE_ERRORS = (OSError, ValueError, KeyError, jax.errors.JaxRuntimeError)


# The name that Orbax gives to the one tree in a checkpoint.
_ITEM = "default"


class Checkpoints:
    """The checkpoints of one run: the `keep_last` newest and the best by validation loss.

    A checkpoint is written under a temporary name and renamed when it is complete, so that a
    crash at any moment leaves the earlier ones as they were. Use as a context manager: leaving
    it waits for the checkpoint being written.

    Of several processes all take part in every call, and `directory` is one that all of them see;
    a process may read alone with `read_only`. What was saved on any devices is restored on any.
    """

    def __init__(self, directory: Path, keep_last: int = 1, *, read_only: bool = False):
        """Opens `directory`, which `read_only` leaves as it is."""
        self.directory = directory.resolve()
        policies = checkpoint_managers
        alone = MultiprocessingOptions(jax.process_index(), {jax.process_index()}, "reads alone")

        def loss(metrics: dict[str, float]) -> float:
            return metrics["loss"]

        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                multiprocessing_options=alone if read_only else MultiprocessingOptions(),
                best_fn=loss,  # without it Orbax stores no metrics
                best_mode="min",
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(keep_last),
                        policies.BestN(
                            get_metric_fn=loss,
                            reverse=True,
                            n=1,
                            keep_checkpoints_without_metrics=False,
                        ),
                    ]
                ),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The step with the lowest validation loss, or None where none was evaluated."""
        losses = {
            step: metrics["loss"]
            for step in self.steps()
            if (metrics := self._manager.metrics(step)) is not None
        }
        return min(losses, key=losses.__getitem__, default=None)

    def named(self, name: str) -> int:
        """The step of the "last" or the "best" checkpoint, or of the one named by its step.

        Raises UserError where there is none, or not that one.
        """
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.directory} holds no checkpoint yet; train the run first")
        choices = {"last": steps[-1], "best": self.best(), **{str(s): s for s in steps}}
        step = choices.get(name)
        if step is None:
            raise UserError(
                f"there is no checkpoint '{name}' in {self.directory}; it has last, best and "
                f"{', '.join(map(str, steps))}"
            )
        return step

    def save(self, state: TrainState, step: int, validation_loss: float | None = None) -> None:
        """Starts to write the state after `step` steps, and returns while that goes on.

        Raises UserError, with earlier checkpoints as they were, when there is no room for it or
        when writing an earlier one failed meanwhile.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise self._not_saved(step, f"it needs {_mb(needed)} and {_mb(free)} are free")
        metrics = None if validation_loss is None else {"loss": validation_loss}
        try:
            self._manager.save(step, args=ocp.args.PyTreeSave(state), metrics=metrics, force=True)
        except _STORAGE_ERRORS as error:
            raise self._not_saved(step, _reason(error)) from error

    def wait(self) -> None:
        """Returns when everything saved is on disk; UserError if it could not be written."""
        try:
            self._manager.wait_until_finished()
        except _STORAGE_ERRORS as error:
            raise self._not_saved(None, _reason(error)) from error

    def restore(self, like: TrainState) -> TrainState:
        """The state of the newest checkpoint that can be read, on `like`'s shardings.

        A damaged newest checkpoint is reported, set aside as STEP.damaged and the one before it
        used. Raises UserError when none can be read, and for one of another model, which names the
        first tensors that differ.
        """
        candidates = self.steps()[::-1]
        for tried, candidate in enumerate(candidates):
            state, reason = None, "another process could not read it"
            try:
                self._check_same(like, candidate)
                state = self._read(like, candidate)
            except _STORAGE_ERRORS as error:
                reason = _reason(error)
            if multihost_utils.process_allgather(np.array(state is not None)).all():
                self._set_aside(candidates[:tried])
                return cast(TrainState, state)
            where = self.directory
            _log.warning("checkpoint %d in %s cannot be read (%s)", candidate, where, reason)
        raise UserError(
            f"no checkpoint in {self.directory} can be read (tried {candidates}); "
            "restore one from a copy, or train into another --run-dir"
        )

    def restore_params(self, like: PyTree, step: int, part: str = "params") -> PyTree:
        """The parameters of `step` alone, or those of them that `like` names, on its shardings.

        `part` "average" reads their averages instead. Raises UserError where they are not in the
        checkpoint or cannot be read.
        """
        try:
            params = self._read({part: like}, step, only_these=True)[part]
        except _STORAGE_ERRORS as error:
            raise self._not_read(step, _reason(error)) from error
        # Orbax hands back what it was asked for where a checkpoint does not have it.
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if not isinstance(leaf, jax.Array):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise self._not_read(step, f"it has no parameter {name}")
        return params

    def _read(self, like: Any, step: int, only_these: bool = False) -> Any:
        where = ocp.checkpoint_utils.construct_restore_args(like)
        restore = ocp.args.PyTreeRestore(like, restore_args=where, partial_restore=only_these)
        return self._manager.restore(step, args=restore)

    def _check_same(self, like: TrainState, step: int) -> None:
        """Raises UserError where the checkpoint has other tensors than `like`."""
        found = ocp.PyTreeCheckpointer().metadata(self.directory / str(step) / _ITEM).item_metadata
        if found is None:
            return  # damaged: reading it says so
        saved, wanted = _shapes(found.tree), _shapes(like)
        differing = [
            f"{name} is {saved.get(name, 'absent')} there and {wanted.get(name, 'absent')} here"
            for name in wanted | saved
            if saved.get(name) != wanted.get(name)
        ]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise UserError(
                f"checkpoint {step} in {self.directory} is of another model or optimizer: "
                f"{'; '.join(differing[:3])}{more}; bring the code and options of that run back, "
                "or train into another --run-dir"
            )

    def _not_read(self, step: int, reason: str) -> UserError:
        return UserError(
            f"checkpoint {step} in {self.directory} cannot be read: {reason}; choose another of "
            f"{', '.join(map(str, self.steps()))}, or restore it from a copy"
        )

    def _set_aside(self, damaged: list[int]) -> None:
        """Frees their names for when the run comes to these steps again."""
        if not damaged:
            return
        if is_leader():
            for step in damaged:
                (self.directory / str(step)).rename(self.directory / f"{step}.damaged")
        barrier("damaged checkpoints are set aside")
        self._manager.reload()

    def _not_saved(self, step: int | None, reason: str) -> UserError:
        self._manager.reload()  # what it wanted to take the place of is still there
        kept = self.steps()
        which = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        state = f"the last one kept is of step {kept[-1]}" if kept else "none was kept before"
        return UserError(
            f"{which} could not be written to {self.directory}: {reason}; {state}; make room and "
            "run the same command again"
        )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """The shape of every array by the names on its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _reason(error: BaseException) -> str:
    """The end of the chain of reasons that TensorStore gives, without paths and settings."""
    first = (str(error) or type(error).__name__).splitlines()[0]
    return first.partition(" [tensorstore_spec")[0].rsplit('": ', 1)[-1]
