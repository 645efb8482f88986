"""Sound files as mono waveforms in [-1, 1], at the rate that a model wants."""

import io
import logging
import math
from pathlib import Path

import numpy as np

from jaxseq.data.wav import decode_wav, encode_wav, is_wav
from jaxseq.errors import UserError
from jaxseq.typing import Float

_log = logging.getLogger(__name__)
_said: set[tuple[int, int]] = set()  # the resamplings that were logged


def read_audio(
    source: Path | bytes, name: str = "", rate: int | None = None
) -> tuple[Float[np.ndarray, " n"], int]:
    """The samples of a sound file (channels averaged, float32 in [-1, 1]) and their rate (Hz).

    `source` is the file or its bytes, which errors call `name`. WAV is read here, of integers of
    8, 16, 24 or 32 bits and of floats; FLAC, OGG and the like by soundfile. With `rate` the
    samples are resampled to it where they are at another, which is logged once for each rate.

    Raises UserError for a file that is not there, is damaged or cut off, holds no samples or
    samples that are not finite, and for a format that needs soundfile where that is missing.
    """
    name = name or (str(source) if isinstance(source, Path) else "the audio")
    data = _bytes(source, name) if isinstance(source, Path) else source
    if not data:
        raise UserError(f"{name}: the file is empty; leave it out or fetch it again")
    samples, found = _decode(data, name)
    if not len(samples):
        raise UserError(f"{name}: it holds no samples; leave it out or record it again")
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise UserError(f"{name}: it holds samples that are not finite; write it again")
    if rate is None or rate == found:
        return mono, found
    if (found, rate) not in _said:
        _said.add((found, rate))
        _log.warning(
            "%s is at %d Hz, read at %d, as are all others at that rate", name, found, rate
        )
    return resample(mono, found, rate), rate


def write_wav(path: Path, samples: Float[np.ndarray, " n"], rate: int) -> None:
    """Writes a mono WAV file of 16 bits at `rate` (Hz); samples beyond [-1, 1] are clipped.

    Raises ValueError for samples that are not finite.
    """
    if not np.isfinite(samples).all():
        raise ValueError(f"samples for {path} are not all finite")
    path.write_bytes(encode_wav(samples, rate))


def resample(samples: Float[np.ndarray, " n"], old: int, new: int) -> Float[np.ndarray, " m"]:
    """The waveform at `new` instead of `old` samples a second: m = ceil(n new / old)."""
    from scipy.signal import resample_poly  # takes a third of a second to import

    common = math.gcd(old, new)
    return resample_poly(samples, new // common, old // common).astype(np.float32)


def _bytes(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}; name a sound file") from None


def _decode(data: bytes, name: str) -> tuple[Float[np.ndarray, "n channels"], int]:
    if is_wav(data):
        try:
            decoded = decode_wav(data)
        except ValueError as error:
            raise UserError(f"{name}: {error}; fetch or write the file again") from None
        if decoded is not None:
            return decoded
    try:
        import soundfile
    except ModuleNotFoundError:
        raise UserError(
            f"{name}: it is no plain WAV file, and others need soundfile: "
            "pip install 'jaxseq[audio]', or convert it to WAV"
        ) from None
    try:
        return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{name}: {error.error_string.rstrip('.')}; fetch it again, or convert it to WAV"
        ) from None
