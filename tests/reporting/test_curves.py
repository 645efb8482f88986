"""Points of curves, their means and scales."""

import math

import pytest

from jaxseq.reporting.chart import draw, log_ticks, ticks
from jaxseq.reporting.curves import MOST, Chart, Line, running_mean, thin


def noisy(count):
    return [(float(step), 2.0 + (-1) ** step * 0.5 + step / count) for step in range(count)]


def test_the_mean_is_of_neighbours():
    points = noisy(200)
    mean = running_mean(points)
    values = [value for _, value in points]
    assert [step for step, _ in mean] == [step for step, _ in points]
    assert mean[100][1] == pytest.approx(sum(values[96:105]) / 9)
    assert mean[0] == points[0]
    assert mean[2][1] == pytest.approx(sum(values[:5]) / 5)
    assert mean[-1][1] == pytest.approx(sum(values[-5:]) / 5)


def test_what_needs_no_mean():
    few, smooth = noisy(30), [(float(step), 1.0 - step / 300) for step in range(300)]
    assert running_mean(few) is few
    assert running_mean(smooth) is smooth


def test_a_loss_that_is_not_finite_leaves_a_gap_and_spoils_no_mean():
    points = noisy(200)
    points[150] = (150.0, math.nan)
    mean = running_mean(points)
    assert math.isnan(mean[150][1])
    assert all(math.isfinite(value) for step, value in mean if step != 150)
    drawn = draw(Chart("Loss", [Line(0, "a", "mean", mean)]))
    assert "Not finite at step 150" in drawn
    course = drawn.split('class="mean')[0].rsplit('d="', 1)[1]
    assert course.count("M") == 2
    assert "nan" not in drawn.lower()


def test_thin_keeps_the_extremes():
    points = noisy(10_000)
    points[5_000] = (5000.0, 99.0)
    points[7_001] = (7001.0, -99.0)
    points[9_000], points[3_002] = (9000.0, math.inf), (3002.0, math.nan)
    kept = thin(points)
    assert len(kept) <= MOST
    assert {points[5_000], points[7_001], points[9_000], points[3_002]} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:MOST]) == points[:MOST]


def test_scales():
    assert ticks(0.0, 4000.0, whole=True) == [0.0, 1000.0, 2000.0, 3000.0, 4000.0]
    assert ticks(0.13, 0.17) == pytest.approx([0.13, 0.14, 0.15, 0.16, 0.17])
    assert ticks(0.0, 2.0, whole=True) == [0.0, 1.0, 2.0]
    assert log_ticks(0.09, 12.0) == pytest.approx([0.1, 1.0, 10.0])
    assert log_ticks(0.9, 12.0) == pytest.approx([1.0, 2.0, 5.0, 10.0])
    assert 3 <= len(log_ticks(1e-12, 1e12)) <= 9


def test_a_wide_range_is_logarithmic_where_it_may_be():
    points = [(1.0, 0.01), (2.0, 1.0), (3.0, 100.0)]
    assert "log scale" in draw(Chart("Loss", [Line(0, "a", "mean", points)], wide=True))
    assert "log scale" not in draw(Chart("Rate", [Line(0, "a", "mean", points)]))
    points[0] = (1.0, 0.0)
    assert "log scale" not in draw(Chart("Loss", [Line(0, "a", "mean", points)], wide=True))


def test_the_largest_stands_above_the_smallest():
    points = [(0.0, 1.0), (10.0, 5.0)]
    drawn = draw(Chart("Loss", [Line(0, "a", "mean", points)]))
    course = drawn.split('class="mean')[0].rsplit('d="', 1)[1].split('"')[0]
    (left, low), (right, high) = (map(float, p.split()) for p in course[1:].split("L"))
    assert (left, right) == (0.0, 1000.0)
    assert 1000 > low > 700 > 100 > high > 0
