"""Numbers for strings: words, characters, tags, phonemes."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from jaxseq.typing import Int

UNKNOWN = "<unk>"
START = "<s>"
END = "</s>"


@dataclass(frozen=True)
class Vocabulary:
    """`entries[i]` has number i. A string that is not among them has the number of `<unk>`."""

    entries: tuple[str, ...]

    @classmethod
    def build(
        cls, counts: Mapping[str, int], specials: Sequence[str] = (), min_count: int = 1
    ) -> "Vocabulary":
        """The specials, and then what was counted at least `min_count` times, most frequent first.

        Among equals in alphabetical order, so that the same counts give the same numbers.
        """
        kept = (entry for entry, count in counts.items() if count >= min_count)
        ordered = sorted(kept, key=lambda entry: (-counts[entry], entry))
        return cls((*specials, *(entry for entry in ordered if entry not in specials)))

    def __len__(self) -> int:
        """How many numbers there are."""
        return len(self.entries)

    def __contains__(self, entry: str) -> bool:
        return entry in self._numbers

    def encode(self, strings: Iterable[str]) -> Int[np.ndarray, " n"]:
        """The int32 number of each string; KeyError for an unknown one where `<unk>` is none."""
        numbers, unknown = self._numbers, self._numbers.get(UNKNOWN)
        if unknown is None:
            found = [numbers[string] for string in strings]
        else:
            found = [numbers.get(string, unknown) for string in strings]
        return np.array(found, np.int32)

    def decode(self, numbers: ArrayLike) -> list[str]:
        """The string of each number."""
        return [self.entries[number] for number in np.asarray(numbers, np.int64).tolist()]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {entry: number for number, entry in enumerate(self.entries)}
