"""Mel-cepstral distortion and the warping of time under it."""

import numpy as np
import pytest

from jaxseq.reference import speech_metrics as twin
from jaxseq.tasks.speech_metrics import mel_cepstral_distortion, warped_distance

SHAPES = [(1, 1), (1, 5), (6, 1), (4, 4), (7, 3), (3, 8), (20, 17)]


@pytest.mark.parametrize("shape", SHAPES)
def test_distortion_is_that_of_the_twin(shape):
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(frames, 5)) for frames in shape)
    total, frames = mel_cepstral_distortion(x, y)
    expected, expected_frames = twin.mel_cepstral_distortion(x, y)
    assert (total, frames) == (pytest.approx(expected, rel=1e-9), expected_frames)


def paths(t, s):
    """Every path from (0, 0) to (t, s)."""
    if t == s == 0:
        yield [(0, 0)]
    for before in ((t - 1, s - 1), (t - 1, s), (t, s - 1)):
        if min(before) >= 0:
            for path in paths(*before):
                yield [*path, (t, s)]


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (4, 4), (5, 3)])
def test_the_path_is_the_best_of_all(shape):
    distances = np.random.default_rng(1).uniform(size=shape)
    every = list(paths(shape[0] - 1, shape[1] - 1))
    totals = [sum(distances[place] for place in path) for path in every]
    best = int(np.argmin(totals))
    found, frames = warped_distance(distances)
    assert found == pytest.approx(totals[best], rel=1e-12)
    assert frames == len(every[best])


def test_equal_ways_take_the_same_path_as_the_twin():
    """Distances of 0 and 1 have many paths of the same sum."""
    rng = np.random.default_rng(2)
    for shape in SHAPES:
        distances = rng.integers(0, 2, shape).astype(float)
        assert warped_distance(distances) == twin.warped_distance(distances)


def test_slower_speech_is_no_distortion_and_loudness_neither():
    x = np.random.default_rng(3).normal(size=(6, 4))
    slow = np.repeat(x, [1, 3, 1, 2, 1, 2], axis=0)
    slow[:, 0] += 2.0
    total, frames = mel_cepstral_distortion(slow, x)
    assert frames == 10
    assert total == pytest.approx(0.0, abs=1e-5)


def test_the_distortion_of_a_frame_is_that_of_its_spectrum_in_decibels():
    """d is the root mean square over w of 20 log10 |H(w)| - 20 log10 |G(w)|."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 1, 6))
    y[:, 0] = x[:, 0]
    angles = (np.arange(512) + 0.5) * np.pi / 512
    basis = np.cos(np.arange(6)[:, None] * angles[None])  # ln |H(w)| = sum_c x_c cos(c w)
    decibels = 20 / np.log(10) * ((x - y) @ basis)
    total, frames = mel_cepstral_distortion(x, y)
    assert frames == 1
    assert total == pytest.approx(np.sqrt(np.mean(decibels**2)), rel=1e-9)


def test_speech_without_a_frame_has_no_path():
    with pytest.raises(ValueError, match="0 x 3: each side needs a frame"):
        mel_cepstral_distortion(np.zeros((0, 2)), np.ones((3, 2)))
