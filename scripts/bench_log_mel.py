"""Log-mel features beside librosa's on the CPU, float32.

    pip install --group test . && python scripts/bench_log_mel.py

Both sides first have to give the same features to 1e-4. Then they are timed in turns, compilation
not: a minute of audio in one row, and in rows of some seconds, which librosa computes one by one.
ratio = librosa's seconds / ours of the same round: above 1 is faster.
"""

from functools import partial

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import tyro
from bench import interleaved, machine, spread

from jaxseq.ops.spectral import FrontEnd, log_mel

SECONDS = 60
FRONT_ENDS = (
    FrontEnd(),
    FrontEnd(rate=16000, window=400, hop=160, fft_size=512, num_mels=80),
    FrontEnd(rate=22050, window=1024, hop=256, fft_size=1024, num_mels=80),
)


def bench_log_mel(rows: tuple[int, ...] = (1, 15), rounds: int = 15, seed: int = 0) -> None:
    """Times the features of a minute of audio.

    Args:
        rows: Numbers of rows that the minute is cut into.
        rounds: Turns of each side.
        seed: Seed of the waveform.
    """
    print(machine("jax", "librosa"))
    rng = np.random.default_rng(seed)
    for front_end in FRONT_ENDS:
        print(f"{SECONDS} s, {front_end}")
        for count in rows:
            shape = count, SECONDS * front_end.rate // count
            samples = 0.1 * rng.standard_normal(shape, np.float32)
            ours, theirs = our_side(samples, front_end), partial(librosas, samples, front_end)
            np.testing.assert_allclose(ours()[0], theirs(), rtol=0, atol=1e-4)
            seconds = interleaved({"ours": ours, "librosa": theirs}, rounds)
            ratio = spread(seconds["librosa"] / seconds["ours"])
            print(f"  {count:2d} rows: ours {spread(seconds['ours'], 1e3)} ms, ", end="")
            print(f"librosa {spread(seconds['librosa'], 1e3)} ms, ratio {ratio}")


def our_side(samples: np.ndarray, front_end: FrontEnd) -> partial:
    """Our features, compiled."""
    lengths = jnp.full(len(samples), samples.shape[1])
    arrays = jnp.asarray(samples), lengths
    return partial(jax.jit(partial(log_mel, front_end=front_end)).lower(*arrays).compile(), *arrays)


def librosas(samples: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """The same by librosa."""
    return np.stack([of_a_row(row, front_end).T for row in samples])


def of_a_row(samples: np.ndarray, front_end: FrontEnd) -> np.ndarray:
    """The features of a row, mels first."""
    mels = librosa.feature.melspectrogram(
        y=samples,
        sr=front_end.rate,
        n_fft=front_end.fft_size,
        win_length=front_end.window,
        hop_length=front_end.hop,
        n_mels=front_end.num_mels,
        fmin=front_end.low,
        fmax=front_end.highest,
        power=1.0,
        pad_mode="reflect",
    )
    return np.log(np.maximum(mels, front_end.floor))


if __name__ == "__main__":
    tyro.cli(bench_log_mel)
