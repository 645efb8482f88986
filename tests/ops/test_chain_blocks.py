"""Chains in blocks give what the scan gives, whether or not the chain forgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same

from jaxseq.ops import chain as chains
from jaxseq.ops import chain_blocks, chain_paths
from jaxseq.ops.chain import Chain

TIME = 300


def draw(kind: str, states: int) -> Chain:
    """Two ragged rows of float32 potentials with junk in the padding.

    mixing: any state follows any. sticky: changes of state are rare and emissions say little, so
    that hundreds of steps remember the first. apart: every state stays, nothing is forgotten.
    left-right: states only go up.
    """
    rng = np.random.default_rng(states)
    matrix = {
        "mixing": rng.dirichlet(np.ones(states), states),
        "sticky": np.full((states, states), 1e-3) + np.eye(states),
        "apart": np.eye(states),
        "left-right": 0.98 * np.eye(states) + 0.02 * np.eye(states, k=1),
    }[kind]
    scale = {"mixing": 3.0, "sticky": 0.01, "apart": 0.1, "left-right": 0.3}[kind]
    emissions = scale * rng.normal(size=(2, TIME, states))
    lengths = np.array([TIME, TIME // 3])
    emissions[1, lengths[1] :] = np.nan
    if kind == "mixing":
        emissions[0, 5:9, 1:] = -np.inf
    with np.errstate(divide="ignore"):
        transitions = np.log(matrix)
    initial = rng.normal(size=(1, states))
    arrays = [jnp.asarray(x, jnp.float32) for x in (emissions, transitions, initial)]
    return Chain(*arrays, lengths=jnp.asarray(lengths))


def infer_all(chain: Chain, method: str):
    states, score = chain_paths.viterbi(chain, method=method)
    log_partition, counts = chains.expected_counts(chain, method=method)
    return {
        "log_partition": log_partition,
        "counts": counts._replace(lengths=None),
        "filtered": chains.filtered(chain, method=method),
        "best": score,
    }, states


infer = jax.jit(infer_all, static_argnames="method")


@pytest.mark.parametrize(
    ("kind", "states"),
    [("mixing", 3), ("mixing", 9), ("sticky", 3), ("apart", 3), ("left-right", 3)],
)
def test_blocks_equal_scan(kind: str, states: int) -> None:
    assert chain_blocks.num_blocks(TIME - 1, 2, states) > 2
    chain = draw(kind, states)
    found, path = infer(chain, "auto")
    expected, scanned = infer(chain, "scan")
    shift = jnp.isfinite(expected["filtered"][0])
    assert_same(jnp.isfinite(found["filtered"][0]), shift)
    for each in (found, expected):
        log_probs, normalizers = each["filtered"]
        each["filtered"] = jnp.where(shift, log_probs, 0.0), normalizers
    assert_close(found, expected, "float32", kind)
    assert_same(path, scanned)


def test_gradient_through_filtered_equals_scan() -> None:
    chain = draw("mixing", 3)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(2, TIME)), jnp.float32)

    def total(transitions, method):
        _, normalizers = chains.filtered(chain._replace(transitions=transitions), method=method)
        return jnp.sum(normalizers * weights)

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    found = gradient(chain.transitions, "auto")
    assert_close(found, gradient(chain.transitions, "scan"), "float32")


def test_gradient_of_best_score_counts_the_path() -> None:
    chain = draw("mixing", 3)

    def best(chain):
        states, score = chain_paths.viterbi(chain)
        return jnp.sum(score), states

    gradient, states = jax.jit(jax.grad(best, has_aux=True, allow_int=True))(chain)
    on_path = (
        jax.nn.one_hot(states, 3) * (jnp.arange(TIME)[None] < chain.lengths[:, None])[..., None]
    )
    assert_same(gradient.emissions, on_path)


def test_nan_ends() -> None:
    chain = draw("sticky", 3)
    chain = chain._replace(emissions=chain.emissions.at[0, 150].set(jnp.nan))
    found, _ = infer(chain, "auto")
    assert np.isnan(found["log_partition"][0])
    assert np.isfinite(found["log_partition"][1])
