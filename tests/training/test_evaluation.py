"""Sums over examples on any devices, and bootstrap intervals against theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.parallel.mesh import MeshConfig, one_device
from jaxseq.training import bootstrap
from jaxseq.training.bootstrap import bootstrap_intervals
from jaxseq.training.evaluation import contributions, evaluate

RNG = np.random.default_rng(0)


@jax.jit
def evaluator(params, batch):
    return {"loss": params * batch["x"], "counts": batch["counts"], "right": batch["x"] > 0}


def batches():
    for _ in range(3):
        yield {"x": RNG.normal(size=8).astype(np.float32), "counts": RNG.integers(9, size=(8, 2))}


def test_examples_are_summed_in_float64_on_any_number_of_devices():
    # In float32 the ones would vanish beside 2^24.
    given = [*batches(), {"x": np.array([2**24] + [1] * 7), "counts": np.ones((8, 2), np.int32)}]
    given[-1]["x"] = given[-1]["x"].astype(np.float32)
    for mesh in (one_device(), MeshConfig().build(8)):
        found = evaluate(evaluator, jnp.float32(1), given, mesh)
        x = np.concatenate([batch["x"] for batch in given]).astype(np.float64)
        assert isinstance(found["loss"], float)
        assert found["loss"] == x.sum()
        assert found["right"] == (x > 0).sum()
        np.testing.assert_array_equal(
            found["counts"], sum(batch["counts"].sum(axis=0) for batch in given)
        )


def test_contributions_keep_examples_apart_and_in_order():
    given = list(batches())
    found = list(contributions(evaluator, jnp.float32(2), given, one_device()))
    assert len(found) == 3
    for rows, batch in zip(found, given, strict=True):
        np.testing.assert_array_equal(rows["loss"], 2 * batch["x"])
        np.testing.assert_array_equal(rows["counts"], batch["counts"])


def mean(totals):
    return {"mean": totals["sum"] / totals["n"], "n": int(totals["n"])}


@pytest.fixture(scope="module")
def normal():
    x = np.random.default_rng(1).normal(loc=3.0, size=400)
    return {"sum": x, "n": np.ones(400)}


def test_the_interval_of_a_mean_is_that_of_the_theory(normal):
    """+- 1.96 standard errors; the percentiles of 1000 draws are good to a tenth of one."""
    found = bootstrap_intervals(mean, normal)
    assert set(found) == {"mean"}  # a count has none
    error = normal["sum"].std() / 20
    expected = normal["sum"].mean() + np.array([-1.96, 1.96]) * error
    np.testing.assert_allclose(found["mean"], expected, atol=0.2 * error)


def test_filler_rows_are_no_examples(normal):
    filled = {name: np.concatenate([row, np.zeros(400)]) for name, row in normal.items()}
    assert bootstrap_intervals(mean, filled) == bootstrap_intervals(mean, normal)


def test_memory_bounds_how_many_draws_are_made_at_once(normal, monkeypatch):
    whole = bootstrap_intervals(mean, normal)
    monkeypatch.setattr(bootstrap, "MOST_WEIGHTS", 3 * 400 + 1)
    assert bootstrap_intervals(mean, normal)["mean"] == pytest.approx(whole["mean"], rel=1e-12)


def test_totals_keep_the_axes_of_their_contributions():
    """Metrics of a draw see what those of the split see: floats, and arrays by class."""
    counts = np.array([[1, 0], [0, 1], [1, 0], [1, 1]])

    def metrics(totals):
        assert isinstance(totals["n"], float)
        assert totals["counts"].shape == (2,)
        return {"first": totals["counts"][0] / totals["n"]}

    low, high = bootstrap_intervals(metrics, {"counts": counts, "n": np.ones(4)})["first"]
    assert 0 <= low < 0.75 < high == 1


def test_draws_without_an_example_that_counts_are_left_out():
    """One question in three windows is not drawn at all in three draws of ten."""
    rows = {"right": np.array([1, 0, 0]), "n": np.array([1, 0, 0]), "windows": np.ones(3)}
    found = bootstrap_intervals(lambda totals: {"exact": totals["right"] / totals["n"]}, rows)
    assert found == {"exact": (1.0, 1.0)}
