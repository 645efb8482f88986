"""How exact hidden Markov models are where float32 is hard pressed, and EM beside hmmlearn's.

    pip install -e ".[bench]" && python scripts/check_hmm_exactness.py

The first table gives errors against the float64 log-space twin: the largest of any posterior
probability, of the log-likelihood (relative), and by how much the best path scores below the
twin's (relative, in float64), in float32, for jaxseq and for dynamax's two smoothers. The second
runs 50 iterations of EM from one start in float64 and gives the largest relative difference of the
log-likelihood to hmmlearn's on the way. Exits with status 1 where ours is above the bar.
"""

import sys
from collections.abc import Iterator

import hmmlearn.hmm
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from dynamax.hidden_markov_model import hmm_smoother, hmm_two_filter_smoother

from jaxseq.models.hmm import HMM
from jaxseq.models.hmm_emissions import (
    CategoricalEmission,
    DiagonalGaussianEmission,
    GaussianEmission,
    Prior,
    TiedGaussianEmission,
)
from jaxseq.models.hmm_fit import fit_em
from jaxseq.ops.chain import Chain, log_partition, node_marginals
from jaxseq.ops.chain_paths import viterbi
from jaxseq.reference import hmm as reference

Case = tuple[np.ndarray, np.ndarray, np.ndarray]


def check_hmm_exactness(
    bar: float = 1e-5, em_bar: float = 1e-6, em_steps: int = 50, seed: int = 0
) -> None:
    """Prints both tables.

    Args:
        bar: Largest error of ours in float32.
        em_bar: Largest relative difference of a log-likelihood to hmmlearn's in float64.
        em_steps: Iterations of EM.
        seed: Seed of the cases.
    """
    passed = True
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, float32 errors")
    print(f"{'':34s}{'posterior':>11s}{'log-lik.':>11s}{'best path':>11s}", end="")
    print(f"{'dynamax smoother':>20s}{'dynamax two-filter':>20s}")
    for name, case in cases(np.random.default_rng(seed)):
        ours, theirs = errors(case)
        passed &= max(ours) <= bar
        print(f"{name:34s}" + "".join(f"{error:11.1e}" for error in ours), end="")
        print("".join(f"{error:20.1e}" for error in theirs))
    print(f"\nEM, {em_steps} iterations in float64, hmmlearn {hmmlearn.__version__}")
    for kind in ("categorical", "diagonal", "full", "tied"):
        with jax.enable_x64(True):
            ours, theirs = em(kind, em_steps, seed)
        difference = np.max(np.abs(ours / theirs - 1))
        passed &= bool(difference <= em_bar)
        print(
            f"{kind:34s} ours {ours[-1]:.9f}, hmmlearn {theirs[-1]:.9f}, "
            f"largest relative difference {difference:.1e}"
        )
    if not passed:
        sys.exit("an error is above the bar")


# --- Float32 against the twin ---------------------------------------------------------------------


def cases(rng: np.random.Generator) -> Iterator[tuple[str, Case]]:
    """Initial (C,), transitions (C, C) and log-likelihoods (T, C), as logarithms."""
    yield "rare transition, later evidence", rare_transition()
    yield "left-right, T1000 K10", left_right(rng, steps=1000, states=10, scale=3.0)
    yield "left-right, long, T10000 K5", left_right(rng, steps=10_000, states=5, scale=1.0)
    yield "-inf likelihoods, T1000 K8", impossible_symbols(rng)
    yield "apart, turned by late evidence", apart()
    states = 100
    yield (
        "scale 100, T10000 K100",
        (
            np.log(rng.dirichlet(np.ones(states))),
            np.log(rng.dirichlet(np.ones(states), states)),
            100 * rng.normal(size=(10_000, states)),
        ),
    )


def rare_transition() -> Case:
    """A change of probability 1e-9 that ten later observations prove."""
    matrix = np.array([[1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9]])
    table = np.zeros((20, 2))
    table[:10, 0], table[10:, 1] = 3.0, 3.0
    return np.log([1 - 1e-9, 1e-9]), np.log(matrix), table


def left_right(rng: np.random.Generator, *, steps: int, states: int, scale: float) -> Case:
    """States that are only ever left upward; the last one stays."""
    matrix = 0.95 * np.eye(states) + 0.05 * np.eye(states, k=1)
    matrix[-1, -1] = 1
    at = np.minimum(np.arange(steps) * states // steps, states - 1)
    table = scale * rng.normal(size=(steps, states))
    table[np.arange(steps), at] += 2
    with np.errstate(divide="ignore"):
        return np.log(np.eye(states)[0]), np.log(matrix), table


def impossible_symbols(rng: np.random.Generator) -> Case:
    """Half of all likelihoods zero, and transitions of random hard zeros."""
    states, steps = 8, 1000
    matrix = rng.dirichlet(np.ones(states), states) * (rng.random((states, states)) < 0.7)
    matrix += 0.1 * np.eye(states)
    matrix /= matrix.sum(axis=1, keepdims=True)
    table = np.where(rng.random((steps, states)) < 0.5, -np.inf, rng.normal(size=(steps, states)))
    table[:, 0] = np.where(np.isfinite(table[:, 0]), table[:, 0], -3.0)
    with np.errstate(divide="ignore"):
        return np.log(np.full(states, 1 / states)), np.log(matrix), table


def apart() -> Case:
    """Two states that never meet: one is 200 nats behind in the middle and ahead at the end."""
    table = np.zeros((9, 2))
    table[:2, 1], table[2:5, 0], table[5:, 1] = -100.0, -100.0, -23.75
    with np.errstate(divide="ignore"):
        return np.log([0.5, 0.5]), np.log(np.eye(2)), table


def errors(case: Case) -> tuple[list[float], list[float]]:
    """Errors of ours (posterior, log-likelihood, best path), and of dynamax's posteriors."""
    # Both sides see the same numbers: the float32 ones.
    initial, transitions, table = (x.astype(np.float32).astype(np.float64) for x in case)
    exact = reference.smoothed(initial, transitions, table)
    total = reference.log_likelihood(initial, transitions, table)
    best = reference.viterbi(initial, transitions, table)[1]
    arrays = [jnp.asarray(x, jnp.float32) for x in (initial, transitions, table)]
    chain = Chain(arrays[2][None], arrays[1], initial=arrays[0][None])
    posterior = np.asarray(jax.jit(node_marginals)(chain))[0]
    found = float(jax.jit(log_partition)(chain)[0])
    path = np.asarray(jax.jit(viterbi)(chain)[0])[0]
    score = initial[path[0]] + table[np.arange(len(path)), path].sum()
    score += transitions[path[:-1], path[1:]].sum()
    ours = [worst(posterior - exact), abs(found / total - 1), abs(score / best - 1)]
    given = jnp.exp(arrays[0]), jnp.exp(arrays[1]), arrays[2]
    smoothers = (hmm_smoother, hmm_two_filter_smoother)
    return ours, [
        worst(np.asarray(smoother(*given).smoothed_probs) - exact) for smoother in smoothers
    ]


def worst(difference: np.ndarray) -> float:
    """The largest absolute entry; NaN where there is one."""
    return float(np.max(np.abs(difference)))


# --- EM beside hmmlearn ---------------------------------------------------------------------------


def em(kind: str, em_steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The log-likelihood before each iteration, ours and hmmlearn's, from the same start."""
    rng = np.random.default_rng(seed)
    states, size, symbols = 4, 3, 12
    lengths = [120, 1, 80, 200]
    initial, matrix = rng.dirichlet(np.ones(states)), rng.dirichlet(np.ones(states), states)
    options = {"n_iter": em_steps, "tol": -np.inf, "init_params": ""}
    if kind == "categorical":
        flat = rng.integers(0, symbols, (sum(lengths), 1))
        flat[::7] = 3
        probs = rng.dirichlet(np.ones(symbols), states)
        model = hmmlearn.hmm.CategoricalHMM(states, **options)
        model.emissionprob_ = probs
        emission = CategoricalEmission(jnp.asarray(np.log(probs)))
    else:
        at = np.repeat(rng.integers(0, states, sum(lengths) // 5 + 1), 5)[: sum(lengths)]
        flat = rng.normal(size=(sum(lengths), size)) + 2 * rng.normal(size=(states, size))[at]
        means = rng.normal(size=(states, size))
        factor = rng.normal(size=(size, size))
        covariance = factor @ factor.T + np.eye(size)
        covariance_type = {"diagonal": "diag"}.get(kind, kind)
        # A prior of zero weight for the means, and of zero scatter for the covariances, adds
        # nothing to either sum of hmmlearn's M step.
        model = hmmlearn.hmm.GaussianHMM(states, covariance_type, covars_prior=0.0, **options)
        model.means_ = means
        covariances = {
            "diagonal": np.tile(np.diag(covariance), (states, 1)),
            "full": np.tile(covariance, (states, 1, 1)),
            "tied": covariance,
        }[kind]
        model.covars_ = covariances
        gaussian = {
            "diagonal": DiagonalGaussianEmission,
            "full": GaussianEmission,
            "tied": TiedGaussianEmission,
        }[kind]
        emission = gaussian(jnp.asarray(means), jnp.asarray(covariances))
    model.startprob_, model.transmat_ = initial, matrix
    model.fit(flat, lengths)
    sequences = np.split(flat[:, 0] if kind == "categorical" else flat, np.cumsum(lengths)[:-1])
    observations = np.zeros((len(lengths), max(lengths), *sequences[0].shape[1:]), flat.dtype)
    for row, sequence in zip(observations, sequences, strict=True):
        row[: len(sequence)] = sequence
    start = HMM(jnp.asarray(np.log(initial)), jnp.asarray(np.log(matrix)), emission)
    prior = Prior(variance_floor=0.0)
    fit = fit_em(start, observations, np.array(lengths), num_steps=em_steps, prior=prior)
    return np.asarray(fit.log_likelihoods), np.array(model.monitor_.history)


if __name__ == "__main__":
    tyro.cli(check_hmm_exactness)
