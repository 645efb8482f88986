"""Float32 inference where probabilities underflow, against the float64 twin in log space.

`scripts/check_hmm_exactness.py` prints the same for longer sequences, with dynamax beside.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.models import hmm as hidden
from jaxseq.models.hmm import HMM
from jaxseq.models.hmm_neural import NeuralEmission
from jaxseq.reference import hmm as reference

STATES, STEPS = 6, 200
BAR = 1e-5


@jax.jit
def infer(initial, transitions, table):
    emission = NeuralEmission(table[None], lambda table, observations: table)
    hmm = HMM(initial, transitions, emission)
    observations = jnp.zeros((1, len(table)), jnp.int32)
    path, _ = hidden.viterbi(hmm, observations)
    smoothed = hidden.smoothed(hmm, observations)[0]
    return smoothed, hidden.log_likelihood(hmm, observations)[0], path[0]


def draw(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    initial, table = np.full(STATES, 1 / STATES), rng.normal(size=(STEPS, STATES))
    eye = np.eye(STATES)
    if kind == "rare transition, proved later":
        initial, table = np.full(STATES, 1e-9) + eye[0], 0 * table
        matrix = np.full((STATES, STATES), 1e-9) + eye
        table[: STEPS // 2, 0], table[STEPS // 2 :, 1] = 0.5, 0.5
    elif kind == "left-right":
        matrix, table = 0.9 * eye + 0.1 * np.eye(STATES, k=1), 3 * table
        initial = eye[0]
    elif kind == "impossible observations":
        matrix = rng.dirichlet(np.ones(STATES), STATES) * (rng.random((STATES, STATES)) < 0.7) + eye
        table[rng.random(table.shape) < 0.5] = -np.inf
        table[:, 0] = np.maximum(table[:, 0], -9.0)
    elif kind == "apart, turned by late evidence":
        # State 1 falls 200 nats behind, leads by 100, and falls back by 95: it wins by 5.
        matrix, table = eye, 0 * table - 500 * (np.arange(STATES) > 1)
        table[:2, 1], table[2:5, 0], table[5:9, 1] = -100.0, -100.0, -23.75
    else:
        matrix = rng.dirichlet(np.ones(100), 100)
        initial, table = matrix[0], 100 * rng.normal(size=(STEPS, 100))
    with np.errstate(divide="ignore"):
        arrays = np.log(initial / initial.sum()), np.log(matrix), table
    return tuple(x.astype(np.float32) for x in arrays)


@pytest.mark.parametrize(
    "kind",
    [
        "rare transition, proved later",
        "left-right",
        "impossible observations",
        "apart, turned by late evidence",
        "scale 100",
    ],
)
def test_float32_is_within_1e_5_of_the_twin(kind: str) -> None:
    case = draw(kind)
    smoothed, total, path = infer(*map(jnp.asarray, case))
    exact = [x.astype(np.float64) for x in case]
    np.testing.assert_allclose(smoothed, reference.smoothed(*exact), rtol=0, atol=BAR)
    np.testing.assert_allclose(total, reference.log_likelihood(*exact), rtol=BAR)
    initial, transitions, table = exact
    path = np.asarray(path)
    score = initial[path[0]] + table[np.arange(STEPS), path].sum()
    score += transitions[path[:-1], path[1:]].sum()
    np.testing.assert_allclose(score, reference.viterbi(*exact)[1], rtol=1e-6)
