"""Hidden Markov models beside dynamax and hmmlearn: smoothing, Viterbi and EM.

    pip install -e ".[bench]" && python scripts/bench_hmm.py

Every side starts from the same arrays: initial and transition probabilities, and the
log-likelihoods of the observations. hmmlearn is called through its own `predict_proba` and `decode`
with a table of log-likelihoods for observations, dynamax through `hmm_smoother` and
`hmm_posterior_mode` (jitted, over a batch with vmap), ours through `node_marginals` and `viterbi`
(jitted). Before anything is timed, log-likelihoods, posteriors and the scores of the paths are
checked equal. Then all sides run in turns. ratio = the peer's seconds / ours in the same round,
median and quartiles: above 1, ours is faster. EM runs on Gaussian observations, all sides from the
same start.
"""

from collections.abc import Callable

import hmmlearn.hmm
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from bench import interleaved, machine, spread
from dynamax.hidden_markov_model import hmm_posterior_mode, hmm_smoother
from hmmlearn.base import BaseHMM

from jaxseq.models.hmm import HMM
from jaxseq.models.hmm_emissions import DiagonalGaussianEmission, Prior
from jaxseq.models.hmm_fit import fit_em
from jaxseq.ops.chain import Chain, log_partition, node_marginals
from jaxseq.ops.chain_paths import viterbi
from jaxseq.ops.chain_score import score

SHAPES = ((1, 10_000, 5), (1, 10_000, 20), (1, 2_000, 64), (64, 64, 45))
"""Sequences, steps, states."""

Sides = dict[str, Callable[[], object]]


def bench_hmm(rounds: int = 15, calls: int = 5, em_steps: int = 50, seed: int = 0) -> None:
    """Times jaxseq beside dynamax and hmmlearn.

    Args:
        rounds: Turns of each side.
        calls: Calls in a turn, whose mean counts.
        em_steps: Iterations of EM.
        seed: Seed of models and observations.
    """
    print(machine("jax", "dynamax", "hmmlearn", "numpy"))
    for batch, steps, states in SHAPES:
        rng = np.random.default_rng(seed)
        initial = rng.dirichlet(np.ones(states))
        transitions = rng.dirichlet(np.ones(states), states)
        table = 2 * rng.normal(size=(batch, steps, states))
        print(f"\n{batch} x T{steps}, K{states}")
        smoothers, decoders = sides(initial, transitions, table)
        check(smoothers, decoders, initial, transitions, table)
        report("smoother", smoothers, rounds, calls)
        report("Viterbi", decoders, rounds, calls)
    print(f"\nEM, {em_steps} iterations, diagonal Gaussians")
    for batch, steps, states in ((1, 10_000, 5), (64, 64, 16)):
        print(f"  {batch} x T{steps}, K{states}, 4 features")
        report("EM", em_sides(batch, steps, states, em_steps, seed), max(3, rounds // 5), calls=1)


# --- Inference ------------------------------------------------------------------------------------


class TableHMM(BaseHMM):
    """hmmlearn's inference on a table of log-likelihoods in place of observations."""

    def _compute_log_likelihood(self, X: np.ndarray) -> np.ndarray:
        return X

    def _check(self) -> None:
        self._check_sum_1("startprob_")
        self._check_sum_1("transmat_")


def sides(initial: np.ndarray, transitions: np.ndarray, table: np.ndarray) -> tuple[Sides, Sides]:
    """Smoothers and decoders of every side, ready to be timed; compiled at their first call."""
    batch, steps, states = table.shape
    log_initial, log_transitions = jnp.log(float32(initial)), jnp.log(float32(transitions))
    emissions = float32(table)
    chain = Chain(emissions, log_transitions, initial=log_initial[None])
    smooth, decode = jax.jit(node_marginals), jax.jit(viterbi)
    given = float32(initial), float32(transitions)

    def dynamax_smooth(table: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = hmm_smoother(*given, table)
        return found.smoothed_probs, found.marginal_loglik

    vmapped = jax.jit(jax.vmap(dynamax_smooth))
    decode_vmapped = jax.jit(jax.vmap(lambda table: hmm_posterior_mode(*given, table)))
    smoothers: Sides = {
        "jaxseq": lambda: smooth(chain),
        "dynamax": lambda: vmapped(emissions)[0],
    }
    decoders: Sides = {
        "jaxseq": lambda: decode(chain)[0],
        "dynamax": lambda: decode_vmapped(emissions),
    }
    flat, lengths = table.reshape(-1, states), [steps] * batch
    for implementation in ("scaling", "log"):
        model = TableHMM(states, implementation=implementation)
        model.startprob_, model.transmat_, model.n_features = initial, transitions, states
        smoothers[f"hmmlearn {implementation}"] = lambda model=model: model.predict_proba(
            flat, lengths
        ).reshape(table.shape)
    decoders["hmmlearn"] = lambda: model.decode(flat, lengths)[1].reshape(batch, steps)
    return smoothers, decoders


def check(
    smoothers: Sides,
    decoders: Sides,
    initial: np.ndarray,
    transitions: np.ndarray,
    table: np.ndarray,
) -> None:
    """Stops unless all sides compute the same posteriors, log-likelihood and best score."""
    found = {side: np.asarray(run(), np.float64) for side, run in smoothers.items()}
    for side, posterior in found.items():
        error = np.max(np.abs(posterior - found["hmmlearn log"]))
        if error > 1e-5:
            raise SystemExit(f"{side}'s posteriors are {error} from hmmlearn's; nothing is timed")
    with jax.enable_x64(True):
        exact = Chain(
            jnp.asarray(table),
            jnp.log(jnp.asarray(transitions)),
            initial=jnp.log(jnp.asarray(initial))[None],
        )
        scores = {
            side: np.asarray(score(exact, jnp.asarray(np.asarray(run()), jnp.int32)))
            for side, run in decoders.items()
        }
        ours = np.asarray(log_partition(exact, method="scan"))
    model = TableHMM(len(initial))
    model.startprob_, model.transmat_, model.n_features = initial, transitions, len(initial)
    theirs = np.array([model.score(rows) for rows in table])
    log_initial = jnp.log(float32(initial))[None]
    single = Chain(float32(table), jnp.log(float32(transitions)), initial=log_initial)
    for name, found in (("float64", ours), ("float32", np.asarray(log_partition(single)))):
        error = np.max(np.abs(found / theirs - 1))
        if error > 1e-5:
            raise SystemExit(f"log-likelihoods in {name} are {error} apart; nothing is timed")
    for side, values in scores.items():
        error = np.max(np.abs(values / scores["hmmlearn"] - 1))
        if error > 1e-6:
            raise SystemExit(f"{side}'s paths score {error} from hmmlearn's; nothing is timed")
    print("  posteriors, log-likelihoods and scores of the paths are equal")


# --- EM -------------------------------------------------------------------------------------------


def em_sides(batch: int, steps: int, states: int, em_steps: int, seed: int) -> Sides:
    """EM of ours and of hmmlearn, checked to reach the same log-likelihood."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(batch, steps, 4)) + 3 * rng.integers(0, 2, (batch, steps, 1))
    means, transitions = rng.normal(size=(states, 4)), rng.dirichlet(np.ones(states), states)
    uniform = np.full(states, 1 / states)
    start = HMM(
        jnp.log(float32(uniform)),
        jnp.log(float32(transitions)),
        DiagonalGaussianEmission(float32(means), jnp.ones((states, 4))),
    )
    ours = float32(observations)
    found: Sides = {
        "jaxseq": lambda: fit_em(start, ours, num_steps=em_steps, prior=Prior()).log_likelihoods
    }
    for implementation in ("scaling", "log"):
        found[f"hmmlearn {implementation}"] = lambda implementation=implementation: hmmlearn_em(
            observations, uniform, transitions, means, em_steps, implementation
        )
    ends = {side: float(np.asarray(run())[-1]) for side, run in found.items()}
    worst = max(abs(end / ends["hmmlearn log"] - 1) for end in ends.values())
    if worst > 1e-4:  # float32; in float64 see scripts/check_hmm_exactness.py
        raise SystemExit(f"EM ends {worst} apart: {ends}; nothing is timed")
    return found


def hmmlearn_em(
    observations: np.ndarray,
    initial: np.ndarray,
    transitions: np.ndarray,
    means: np.ndarray,
    em_steps: int,
    implementation: str,
) -> list[float]:
    """The course of the log-likelihood in hmmlearn, with priors that add nothing."""
    model = hmmlearn.hmm.GaussianHMM(
        len(means),
        covars_prior=0.0,
        n_iter=em_steps,
        tol=-np.inf,
        init_params="",
        implementation=implementation,
    )
    model.startprob_, model.transmat_, model.means_ = initial, transitions, means
    model.covars_ = np.ones_like(means)
    batch, steps, size = observations.shape
    model.fit(observations.reshape(-1, size), [steps] * batch)
    return list(model.monitor_.history)


# --- Timing ---------------------------------------------------------------------------------------


def report(what: str, runs: Sides, rounds: int, calls: int) -> None:
    """Times the sides in turns and prints a line for each."""
    seconds = interleaved(runs, rounds, calls)
    for side, taken in seconds.items():
        line = f"    {what:9s} {side:17s} {spread(taken, 1e3)} ms"
        if side != "jaxseq":
            line += f"   ratio {spread(taken / seconds['jaxseq'])}"
        print(line, flush=True)


def float32(x: np.ndarray) -> jax.Array:
    """The array in ours and dynamax's precision."""
    return jnp.asarray(x, jnp.float32)


if __name__ == "__main__":
    tyro.cli(bench_hmm)
