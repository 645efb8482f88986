"""Examples of different lengths in batches of a few shapes, each of which compiles once."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxseq.data.batches import Batch, spread
from jaxseq.typing import Int, Shaped

Example = dict[str, Shaped[np.ndarray, "..."]]
"""Arrays by name; every axis may be of any length, and a number is an array without axes."""


def room_for(length: int) -> int:
    """The padded length of an axis: the least of 8, 12, 16, 24, 32, 48, ... that holds `length`.

    Two sizes an octave waste a sixth on average, and keep the number of shapes small.
    """
    size = 8
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def room(examples: Sequence[Example]) -> dict[str, tuple[int, ...]]:
    """The padded shape of each array in which every one of `examples` finds room."""
    return {
        name: tuple(
            map(
                room_for,
                map(max, *(example[name].shape for example in examples), (0,) * array.ndim),
            )
        )
        for name, array in examples[0].items()
    }


def collate(
    examples: Sequence[Example],
    batch_size: int,
    shapes: Mapping[str, tuple[int, ...]],
    rows: Sequence[int] | None = None,
) -> Batch:
    """The examples as arrays of `shapes` behind a batch axis, rows of zeros behind the last.

    With `rows` those rows of the batch alone, in that order.
    """
    rows = range(batch_size) if rows is None else rows
    batch = {}
    for name, array in examples[0].items():
        stacked = np.zeros((len(rows), *shapes[name]), array.dtype)
        for place, row in enumerate(rows):
            if row < len(examples):
                found = examples[row][name]
                stacked[(place, *map(slice, found.shape))] = found
        batch[name] = stacked
    return batch


class Ragged:
    """Examples, sorted into buckets by the length of one of their arrays.

    A bucket holds the examples whose length has the same `room_for`. One with less than an eighth
    of the examples, or not enough for a batch, goes into the next larger: padding costs less than
    compiling for one more shape.
    """

    def __init__(self, examples: Sequence[Example], by: str, batch_size: int):
        """Sort `examples` (one at least) by the first axis of their array `by`."""
        self.examples = examples
        self.batch_size = batch_size
        enough = max(batch_size, len(examples) / 8)
        rooms: dict[int, list[int]] = {}
        for number, example in enumerate(examples):
            rooms.setdefault(room_for(len(example[by])), []).append(number)
        self.buckets: list[Int[np.ndarray, " n"]] = []
        waiting: list[int] = []
        for size in sorted(rooms):
            waiting += rooms[size]
            if len(waiting) >= enough or size == max(rooms):
                self.buckets.append(np.array(waiting))
                waiting = []
        self._shapes = [room([examples[number] for number in bucket]) for bucket in self.buckets]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples)

    def batch(
        self, bucket: int, numbers: Int[np.ndarray, " n"], rows: Sequence[int] | None = None
    ) -> Batch:
        """The batch of examples `numbers`, or `rows` of it, in the one shape of their bucket."""
        chosen = [self.examples[number] for number in numbers]
        return collate(chosen, self.batch_size, self._shapes[bucket], rows)


class RaggedBatches:
    """`batches[step]`: the examples of one training step, a pure function of (seed, step).

    In every epoch the examples of each bucket are shuffled anew and cut into batches, and the
    batches of all buckets are shuffled. A bucket's last batch is filled up with empty examples.
    """

    def __init__(self, split: Ragged, seed: int):
        """Build on `split`; `seed` is an integer from 0 up."""
        self.split = split
        self._seed = seed
        size = split.batch_size
        self._per_epoch = sum(-(-len(numbers) // size) for numbers in split.buckets)
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._per_epoch

    def __getitem__(self, step: int) -> Batch:
        """Return the arrays of `step`, counted from 0; their first axis is the batch."""
        return self.rows(step, range(self.split.batch_size))

    def rows(self, step: int, rows: Sequence[int]) -> Batch:
        """Return these rows of the batch of `step`, in the shape of the whole one's."""
        if step < 0:
            raise IndexError(f"step {step} is negative")
        epoch, index = divmod(step, self._per_epoch)
        return self.split.batch(*self._plan(epoch)[index], rows)

    def _make_plan(self, epoch: int) -> list[tuple[int, Int[np.ndarray, " n"]]]:
        rng = np.random.default_rng((self._seed, epoch))
        size = self.split.batch_size
        batches = []
        for bucket, numbers in enumerate(self.split.buckets):
            drawn = rng.permutation(numbers)
            batches += [(bucket, drawn[i : i + size]) for i in range(0, len(drawn), size)]
        return [batches[i] for i in rng.permutation(len(batches))]


def ragged_evaluation_batches(split: Ragged, at_most: int | None = None) -> Iterator[Batch]:
    """Yield the examples bucket by bucket; about `at_most` batches spread over each of them."""
    for bucket, numbers in enumerate(split.buckets):
        share = None if at_most is None else -(-at_most * len(numbers) // len(split))
        chosen = numbers[np.array(spread(len(numbers), split.batch_size, share))]
        for start in range(0, len(chosen), split.batch_size):
            yield split.batch(bucket, chosen[start : start + split.batch_size])
