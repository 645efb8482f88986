"""Batches as a pure function of (seed, step), read ahead off the training thread."""

import functools
from collections.abc import Generator, Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from jaxseq.data.packing import Windows
from jaxseq.typing import Shaped

Batch = dict[str, Shaped[np.ndarray, "B ..."]]


class TrainBatches:
    """`batches[step]`: the windows of one training step, a pure function of (seed, step).

    The windows are shuffled anew in every epoch, and batches run on from one epoch into the next,
    so that each epoch holds every window exactly once. Any step can be read without those before
    it: a resume needs no iterator state, and hosts need not agree on anything but the step.
    """

    def __init__(self, windows: Windows, batch_size: int, seed: int):
        """Build on `windows`; `seed` is an integer from 0 to 2^32 - 1 (else ValueError)."""
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed must be 0 to 2^32 - 1, got {seed}")
        import grain  # half a second that `--help` and `sample` need not pay

        self.batch_size = batch_size
        self._windows = windows
        # Grain shuffles the numbers of the windows, which costs it 0.6 of what windows do.
        # repeat before batch: batches straddle epochs, and nothing is dropped.
        self._numbers = (
            grain.MapDataset.range(len(windows))
            .seed(seed)
            .shuffle()
            .repeat(None)
            .batch(batch_size, batch_fn=list)
        )

    def __getitem__(self, step: int) -> Batch:
        """Return the arrays (B, T) of `step`, counted from 0."""
        return self.rows(step, range(self.batch_size))

    def rows(self, step: int, rows: Sequence[int]) -> Batch:
        """Return these rows of the batch of `step`, and read no others."""
        if step < 0:
            raise IndexError(f"step {step} is negative")
        numbers = self._numbers[step]
        assert numbers is not None  # grain's type allows for filters, of which there are none
        return _stack([self._windows[numbers[row]] for row in rows])


@runtime_checkable
class Batches(Protocol):
    """The batches of a training run: `batches[step]` is a pure function of (seed, step)."""

    def __getitem__(self, step: int) -> Batch:
        """Return the arrays of `step`, counted from 0."""
        ...

    def rows(self, step: int, rows: Sequence[int]) -> Batch:
        """Return these rows of them (ascending), as `batches[step]` has them; a host has its own.

        Their other axes are those of the whole batch. No other rows are read or laid out.
        """
        ...


def prefetch(
    batches: Batches,
    start: int,
    stop: int,
    rows: Sequence[int] | None = None,
    read_ahead: int = 8,
) -> Generator[tuple[int, Batch], None, None]:
    """Yield (step, batches[step]) for step in range(start, stop), `read_ahead` steps early.

    Of each batch all rows, or those that `rows` names. One background thread reads. Its exceptions
    are raised here, at the step that failed, and it ends with the generator: at the last step, at
    `close()`, or when the generator is dropped.
    """
    if start >= stop:
        return
    import grain

    # One thread: more of them only contend for the interpreter over windows held in memory.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=read_ahead)
    read = batches.__getitem__ if rows is None else functools.partial(batches.rows, rows=rows)
    steps = grain.MapDataset.range(start, stop).map(read)
    iterator = iter(steps.to_iter_dataset(options))
    try:
        yield from enumerate(iterator, start)
    finally:
        iterator.close()


def evaluation_batches(
    windows: Windows, batch_size: int, at_most: int | None = None
) -> Iterator[Batch]:
    """Yield the windows in order, in batches of one shape.

    With `at_most` batches, every n-th window from the first, n the largest that fills them. Rows
    of zeros fill the last batch; their mask is False (and their segments are 0).
    """
    chosen = spread(len(windows), batch_size, at_most)
    for start in range(0, len(chosen), batch_size):
        rows = [windows[i] for i in chosen[start : start + batch_size]]
        blank = {key: np.zeros_like(value) for key, value in rows[0].items()}
        rows += [blank] * (batch_size - len(rows))
        yield _stack(rows)


def spread(count: int, batch_size: int, at_most: int | None) -> range:
    """Every n-th of `count` examples, so that they fill about `at_most` batches; None: all."""
    return range(0, count, 1 if at_most is None else max(count // (batch_size * at_most), 1))


def _stack(rows: Sequence[dict[str, Shaped[np.ndarray, " T"]]]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
