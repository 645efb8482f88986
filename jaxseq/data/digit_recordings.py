"""Recordings of single digits, and which of them are trained on."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from jaxseq.errors import UserError
from jaxseq.typing import Float

SplitName = Literal["train", "validation", "test"]


class Recording(NamedTuple):
    """One digit, said once."""

    samples: Float[np.ndarray, " n"]
    digit: int
    speaker: str
    made_up: bool = False
    """Whether nobody said it."""


def split_of(speaker: str, take: int, held_out_speaker: str) -> SplitName:
    """Which split a recording is in, by who says it and for which time.

    Takes 0 to 4 of each digit are the official test of the Free Spoken Digit Dataset, and 5 and 6
    are looked at on the way. With a speaker held out, the test is all that this one says, and
    takes 0 to 4 of the others train.
    """
    if held_out_speaker and speaker == held_out_speaker:
        return "test"
    if take in (5, 6):
        return "validation"
    return "test" if take < 5 and not held_out_speaker else "train"


def by_split(
    recordings: Iterator[tuple[Recording, int]], held_out_speaker: str, source: str
) -> dict[SplitName, list[Recording]]:
    """The recordings and their takes, from 0, by split.

    Raises UserError for a held-out speaker who says nothing and for an empty split.
    """
    splits: dict[SplitName, list[Recording]] = {"train": [], "validation": [], "test": []}
    speakers = set()
    for recording, take in recordings:
        splits[split_of(recording.speaker, take, held_out_speaker)].append(recording)
        speakers.add(recording.speaker)
    known = ", ".join(sorted(speakers))
    if held_out_speaker and held_out_speaker not in speakers:
        raise UserError(
            f"--data.held-out-speaker is {held_out_speaker!r}: {source} has {known or 'nobody'}"
        )
    for name, found in splits.items():
        if not found:
            raise UserError(
                f"{source} has no recording for the {name} split (it has {known or 'nobody'}): "
                "it takes two speakers, or takes 0 to 7 of every digit"
            )
    return splits
