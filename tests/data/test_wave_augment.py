"""Sounds made faster, filtered and noisy: what changes, and by how much."""

import numpy as np
import pytest

from jaxseq.data.wave_augment import faded, in_noise, resample, stretch, through_channel


def tone(cycles: float, length: int) -> np.ndarray:
    return np.sin(2 * np.pi * cycles * np.arange(length) / length).astype(np.float32)


@pytest.mark.parametrize(("old", "new"), [(400, 300), (300, 400), (399, 400), (401, 300)])
def test_a_tone_keeps_its_cycles_in_another_length(old, new):
    # As many cycles in fewer samples: a higher pitch, played at the same rate.
    np.testing.assert_allclose(resample(tone(20, old), new), tone(20, new), atol=1e-5)


def test_what_the_new_rate_cannot_hold_is_left_out():
    assert abs(resample(tone(180, 400), 300)).max() < 1e-5  # no alias of it


def test_resampling_keeps_nothing_and_refuses_none():
    assert resample(np.zeros(0, np.float32), 3).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="length"):
        resample(tone(1, 8), 0)


@pytest.mark.parametrize("length", [6000, 8000, 11_000])
def test_a_stretched_tone_keeps_its_pitch(length):
    sound = tone(200, 8000)
    found = stretch(sound, length, 8000)
    power = abs(np.fft.rfft(found * np.hanning(length)))
    assert np.argmax(power) * 8000 / length == pytest.approx(200, abs=1)
    assert np.std(found[200:-200]) == pytest.approx(np.std(sound), rel=0.01)


def test_what_is_stretched_stands_where_it_should():
    noise = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    np.testing.assert_allclose(stretch(noise, 3000, 8000), noise, atol=1e-5)
    burst = np.zeros(8000, np.float32)
    burst[4000:4400] = np.sin(np.arange(400) / 3)
    first, *_, last = np.flatnonzero(abs(stretch(burst, 10_000, 8000)) > 0.3)
    assert (first, last) == (pytest.approx(5000, abs=120), pytest.approx(5500, abs=120))
    assert stretch(np.ones(5, np.float32), 7, 8000).tolist() == [1] * 5 + [0] * 2
    assert stretch(np.ones(5, np.float32), 3, 8000).tolist() == [1] * 3


def test_a_channel_has_a_smooth_response_within_its_decibels():
    click = np.zeros(1024, np.float32)
    click[500] = 1
    heard = through_channel(click, 6.0, np.random.default_rng(0))
    response = 20 * np.log10(np.abs(np.fft.rfft(heard)))
    assert heard.dtype == np.float32
    assert heard.shape == click.shape
    assert 1 < abs(response).max() <= 6 * (1 + 1 / 2 + 1 / 3)
    assert abs(np.diff(response)).max() < 0.2
    other = through_channel(click, 6.0, np.random.default_rng(1))
    assert abs(heard - other).max() > 0.01


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_has_the_power_and_the_colour_that_are_asked_for(slope):
    sound = tone(700, 20_001)
    noise = in_noise(sound, 12.0, slope, np.random.default_rng(0)) - sound
    ratio = np.mean(np.square(sound)) / np.mean(np.square(noise))
    assert 10 * np.log10(ratio) == pytest.approx(12, abs=0.01)
    power = abs(np.fft.rfft(noise)) ** 2
    low, high = power[50:150].mean(), power[5000:].mean()
    # From 100 to 7500 of the spectrum's steps: 75-fold, twice for brown noise.
    assert np.log10(low / high) == pytest.approx(slope * np.log10(75), abs=0.25)


def test_silence_and_nothing_stay_as_they_are():
    rng = np.random.default_rng(0)
    for length in (0, 100):
        silence = np.zeros(length, np.float32)
        assert in_noise(silence, 0.0, 1.0, rng).tolist() == silence.tolist()
        assert abs(through_channel(silence, 6.0, rng)).sum() == 0


def test_fading_takes_the_ends_alone():
    assert faded(np.ones(6, np.float32), 2).tolist() == [0, 0.5, 1, 1, 0.5, 0]
    assert faded(np.ones(3, np.float32), 4).tolist() == [0, 1, 0]
    assert faded(np.ones(0, np.float32), 4).tolist() == []
