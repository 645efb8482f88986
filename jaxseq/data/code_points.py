"""Texts as arrays, so that they travel in a batch: one number a character."""

from collections.abc import Sequence

import numpy as np

from jaxseq.typing import Int


def code_points(text: str) -> Int[np.ndarray, " characters"]:
    """A text as int32 numbers, one for each character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<i4").astype(np.int32)


def text_of(points: Int[np.ndarray, " characters"]) -> str:
    """The text of code points, up to the first 0."""
    kept = points[: np.argmax(points == 0)] if (points == 0).any() else points
    return kept.astype("<i4").tobytes().decode("utf-32-le", "surrogatepass")


def stacked_points(texts: Sequence[str]) -> Int[np.ndarray, "A L"]:
    """The code points of several texts, a row each, 0 behind the shorter ones."""
    found = np.zeros((len(texts), max(map(len, texts), default=0)), np.int32)
    for row, text in zip(found, texts, strict=True):
        row[: len(text)] = code_points(text)
    return found
