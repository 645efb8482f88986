"""Examples of different lengths packed whole into rows of one length, with segments."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jaxseq.data.batches import Batch, spread
from jaxseq.data.ragged import Example
from jaxseq.typing import Int

_OPEN_ROWS = 64
"""Rows that first-fit looks through; more of them fill little better and take longer."""


class Packed:
    """Examples 0 ... n-1 in rows of T tokens, each example whole and in one row.

    A row is a dict of arrays of shape (T,): those of its examples one behind another, zeros behind
    the last, and

    - `segments` int32: the number of the token's example in the row, from 1; 0 is padding;
    - `positions` int32: from 0 at the start of each example,

    so that attention among equal segments never looks across examples.

    Which lengths share a row is decided once, by first-fit over the examples in an order drawn
    from `seed`. In every epoch examples of equal length swap places and the rows are shuffled: the
    number of rows stays the same, and any step is found without those before it.
    """

    def __init__(
        self,
        lengths: Int[np.ndarray, " n"],
        row_tokens: int,
        example: Callable[[int, int], Example],
        *,
        seed: int = 0,
    ):
        """Pack n > 0 examples of `lengths` into rows of T = `row_tokens`.

        `example(epoch, number)` gives the arrays of an example, all of shape (lengths[number],):
        its epoch lets it be masked anew each time. Evaluation asks for epoch 0.

        Raises ValueError for no example and for a length that is not 1 to T.
        """
        if len(lengths) == 0:
            raise ValueError("lengths must not be empty")
        if lengths.min() < 1 or lengths.max() > row_tokens:
            raise ValueError(
                f"lengths must be 1 to row_tokens = {row_tokens}, got {lengths.min()} to "
                f"{lengths.max()}"
            )
        self.lengths = lengths
        self.row_tokens = row_tokens
        self._example = example
        order = np.random.default_rng(seed).permutation(len(lengths))
        self.rows = [order[row] for row in first_fit(lengths[order], row_tokens)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @property
    def fill(self) -> float:
        """The share of the rows' T that holds tokens, 0 to 1."""
        return float(self.lengths.sum() / (len(self) * self.row_tokens))

    def row(self, epoch: int, numbers: Int[np.ndarray, " k"]) -> Example:
        """Return the arrays of a row that holds the examples `numbers`."""
        examples = [self._example(epoch, int(number)) for number in numbers]
        lengths = self.lengths[numbers]
        row = {
            name: np.concatenate([example[name] for example in examples]) for name in examples[0]
        }
        row["segments"] = np.repeat(np.arange(1, len(numbers) + 1, dtype=np.int32), lengths)
        row["positions"] = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
        for name, array in row.items():
            if len(array) != lengths.sum():
                raise ValueError(
                    f"the examples {numbers.tolist()} have {len(array)} {name}, and not "
                    f"{lengths.sum()} as their lengths say"
                )
        pad = self.row_tokens - int(lengths.sum())
        return {name: np.pad(array, (0, pad)) for name, array in row.items()}


class PackedBatches:
    """`batches[step]`: the packed rows of one training step, a pure function of (seed, step).

    Batches run on from one epoch into the next, so that each epoch holds every example once.
    """

    def __init__(self, split: Packed, batch_size: int, seed: int):
        """Build on `split`; `seed` is an integer from 0 up."""
        self.split = split
        self.batch_size = batch_size
        self._seed = seed
        self._by_length = np.argsort(split.lengths, kind="stable")
        # Two: the epoch that ends in a batch, and the one that begins there.
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

    def __getitem__(self, step: int) -> Batch:
        """Return the arrays (B, T) of `step`, counted from 0."""
        return self.rows(step, range(self.batch_size))

    def rows(self, step: int, rows: Sequence[int]) -> Batch:
        """Return these rows of the batch of `step`, and make no others."""
        if step < 0:
            raise IndexError(f"step {step} is negative")
        found = []
        for row in rows:
            epoch, index = divmod(step * self.batch_size + row, len(self.split))
            examples, order = self._plan(epoch)
            found.append(self.split.row(epoch, examples[self.split.rows[order[index]]]))
        return _stack(found)

    def _make_plan(self, epoch: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " rows"]]:
        """The example that takes the place of each, as long as it, and the order of the rows."""
        rng = np.random.default_rng((self._seed, epoch))
        lengths = self.split.lengths
        examples = np.empty_like(self._by_length)
        examples[self._by_length] = np.lexsort((rng.random(len(lengths)), lengths))
        return examples, rng.permutation(len(self.split))


def packed_evaluation_batches(
    split: Packed, batch_size: int, at_most: int | None = None
) -> Iterator[Batch]:
    """Yield the rows in order, or about `at_most` batches of them; rows of zeros fill the last."""
    chosen = spread(len(split), batch_size, at_most)
    for start in range(0, len(chosen), batch_size):
        rows = [split.row(0, split.rows[i]) for i in chosen[start : start + batch_size]]
        blank = {name: np.zeros_like(array) for name, array in rows[0].items()}
        yield _stack(rows + [blank] * (batch_size - len(rows)))


def first_fit(lengths: Int[np.ndarray, " n"], room: int) -> list[Int[np.ndarray, " k"]]:
    """Return rows of indices whose `lengths` sum to `room` or less; each index is in one row.

    Each length in turn goes into the first of at most 64 open rows that has room for it; where
    none has, a new row takes the place of the fullest open one. The rows are in the order in which
    they were begun. ValueError for a length above `room`.
    """
    free = np.full(_OPEN_ROWS, -1)  # -1: not begun
    open_rows: list[list[int]] = [[] for _ in free]
    rows: list[list[int]] = []
    for index, length in enumerate(lengths.tolist()):
        if length > room:
            raise ValueError(f"length {length} is more than the room of {room}")
        place = int(np.argmax(free >= length))
        if free[place] < length:
            place = int(np.argmin(free))
            free[place] = room
            open_rows[place] = []
            rows.append(open_rows[place])
        open_rows[place].append(index)
        free[place] -= length
    return [np.array(row) for row in rows]


def _stack(rows: list[Example]) -> Batch:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
