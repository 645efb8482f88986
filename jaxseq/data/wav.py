"""The samples in the bytes of a WAV file, and such bytes of samples."""

import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxseq.typing import Float

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_SIZE = 0xFFFFFFFF  # of a file written to a pipe: as much as there is


class Coding(NamedTuple):
    """What the `fmt ` chunk says of the samples."""

    tag: int
    channels: int
    rate: int
    bits: int


def is_wav(data: bytes) -> bool:
    """Whether this is the beginning of a RIFF WAVE file."""
    return data[:4] == b"RIFF" and data[8:12] in (b"WAVE", b"")


def decode_wav(data: bytes) -> tuple[Float[np.ndarray, "n channels"], int] | None:
    """(samples in [-1, 1], samples a second); None for a coding that is not read here.

    Read are integers of 8 bits, which are unsigned, of 16, 24 and 32, and floats of 32 and 64.
    Raises ValueError, whose text says what of the file is missing or contradicts itself.
    """
    coding, place, size = _chunks(data)
    if (coding.tag, coding.bits) not in _NUMBERS:
        return None
    if coding.channels < 1 or coding.rate < 1:
        raise ValueError(f"its header names {coding.channels} channels at {coding.rate} Hz")
    there = len(data) - place
    if size == _UNKNOWN_SIZE:
        size = there
    if there < size:
        raise ValueError(f"it is cut off: {size:,} bytes of samples are named and {there:,} there")
    whole = size - size % (coding.channels * coding.bits // 8)
    samples = _NUMBERS[coding.tag, coding.bits](data[place : place + whole])
    return samples.astype(np.float32).reshape(-1, coding.channels), coding.rate


def encode_wav(samples: Float[np.ndarray, " n"], rate: int) -> bytes:
    """A mono WAV file of 16 bits; samples beyond [-1, 1] are clipped."""
    numbers = np.clip(np.rint(samples * 2.0**15), -(2**15), 2**15 - 1).astype("<i2").tobytes()
    coding = struct.pack("<HHIIHH", _PCM, 1, rate, 2 * rate, 2, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + coding + b"data" + struct.pack("<I", len(numbers))
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(numbers)) + b"WAVE" + chunks + numbers


def _chunks(data: bytes) -> tuple[Coding, int, int]:
    """The coding, and where the samples begin and how many bytes they are said to be."""
    coding, place = None, 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        place += 8
        if name == b"data":
            if coding is None:
                raise ValueError("its samples come before the header that says how to read them")
            return coding, place, size
        if name == b"fmt ":
            if size < 16 or place + size > len(data):
                break
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, place)
            if tag == _EXTENSIBLE and size >= 26:
                (tag,) = struct.unpack_from("<H", data, place + 24)
            coding = Coding(tag, channels, rate, bits)
        place += size + size % 2
    raise ValueError(f"its header is cut off: the file ends after {len(data):,} bytes")


def _of_24_bits(data: bytes) -> Float[np.ndarray, " n"]:
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)  # the upper three bytes of four
    return wide.view("<i4")[:, 0] / 2**31


_NUMBERS: dict[tuple[int, int], Callable[[bytes], np.ndarray]] = {
    (_PCM, 8): lambda data: (np.frombuffer(data, np.uint8) - 128.0) / 2**7,
    (_PCM, 16): lambda data: np.frombuffer(data, "<i2") / 2**15,
    (_PCM, 24): _of_24_bits,
    (_PCM, 32): lambda data: np.frombuffer(data, "<i4") / 2**31,
    (_FLOAT, 32): lambda data: np.frombuffer(data, "<f4"),
    (_FLOAT, 64): lambda data: np.frombuffer(data, "<f8"),
}
