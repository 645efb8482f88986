"""How sure a metric is: intervals from examples drawn again (Efron 1979, Annals of Statistics)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxseq.typing import Shaped

DRAWS = 1000
LEVEL = 0.95
MOST_WEIGHTS = 2**22
"""Weights held at once, 32 MiB of them."""


def bootstrap_intervals(
    metrics: Callable[[dict[str, Any]], dict[str, float]],
    contributions: Mapping[str, Shaped[np.ndarray, "n ..."]],
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """The 95 % interval of every metric, by name: {name: (low, high)}.

    Each of 1000 draws takes n of the n examples, with replacement, and computes the metrics anew:

        w ~ Multinomial(n, 1/n),   totals = sum_i w_i contribution_i,   metrics(totals)

    Low and high are the 2.5 and 97.5 percentiles over the draws. `contributions` hold what each
    example adds to each total (see `tasks.contract.Evaluator`); one that adds nothing to any is a
    filler row and no example. A metric that is an int is a count, and has no interval. Draws that
    leave a metric nothing to divide by are left out. What examples share (an article, a speaker)
    is not drawn together, which makes intervals too narrow where it matters.
    """
    names = list(contributions)
    rows = [np.asarray(contributions[name], np.float64) for name in names]
    shapes = [row.shape[1:] for row in rows]
    flat = np.concatenate([row.reshape(len(row), -1) for row in rows], axis=1)
    flat = flat[flat.any(axis=1)]
    cuts = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1]

    def metrics_of(sums: Shaped[np.ndarray, " k"]) -> dict[str, float]:
        parts = zip(names, np.split(sums, cuts), shapes, strict=True)
        found = metrics({n: p.reshape(shape) if shape else p.item() for n, p, shape in parts})
        return {name: value for name, value in found.items() if not isinstance(value, int)}

    drawn: dict[str, list[float]] = {name: [] for name in metrics_of(flat.sum(axis=0))}
    rng = np.random.default_rng(seed)
    n = len(flat)
    at_once = max(MOST_WEIGHTS // n, 1)
    for start in range(0, DRAWS, at_once):
        size = min(at_once, DRAWS - start)
        weights = np.stack([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(size)])
        for sums in weights.astype(np.float64) @ flat:
            try:
                found = metrics_of(sums)
            except ZeroDivisionError:  # a small split, and no example drawn that is counted
                continue
            for name, value in found.items():
                drawn[name].append(value)
    tails = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    bounds = {name: np.percentile(values, tails) for name, values in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
