"""Chains on which probabilities underflow, in float32 against float64 loops."""

from functools import partial

import jax
import numpy as np
import pytest
from chain_cases import assert_log_close, on_device

from jaxseq.ops import chain_exp_space
from jaxseq.ops.chain import Chain, expected_counts, filtered
from jaxseq.ops.chain_potentials import Potentials, prepare
from jaxseq.reference import chain as reference

T = 40


def rare_transition(rare: float, strength: float) -> Chain:
    """Evidence for state 0, then stronger evidence for state 1, which is hardly ever reached."""
    emissions = np.zeros((1, T, 2))
    emissions[0, : T // 2, 0], emissions[0, T // 2 :, 1] = 3 * strength, 8 * strength
    return Chain(emissions, np.log([[1 - rare, rare], [rare, 1 - rare]]))


def two_blocks() -> Chain:
    """No way between the states; what is all but excluded half way wins."""
    emissions = np.repeat([[[20.0, 0.0], [0.0, 25.0]]], T // 2, axis=1)
    return Chain(emissions, np.where(np.eye(2) > 0, 0.0, -np.inf))


def left_right(scale: float, *, must_arrive: bool) -> Chain:
    states, rng = 5, np.random.default_rng(0)
    may = np.eye(states) + np.eye(states, k=1)
    with np.errstate(divide="ignore"):
        transitions = np.log(may / may.sum(axis=1, keepdims=True))
        initial, final = np.log(np.eye(states)[:1]), np.log(np.eye(states)[-1:])
    emissions = scale * rng.normal(size=(3, T, states))
    return Chain(emissions, transitions, initial, final if must_arrive else None)


def random(scale: float, spread: float, zeros: float = 0, impossible: float = 0) -> Chain:
    rng = np.random.default_rng(1)
    emissions, transitions = scale * rng.normal(size=(4, T, 6)), spread * rng.normal(size=(6, 6))
    emissions[rng.random(emissions.shape) < impossible] = -np.inf
    transitions[rng.random(transitions.shape) < zeros] = -np.inf
    return Chain(emissions, transitions, lengths=np.array([T, 1, 0, T // 2]))


def dead_end() -> Chain:
    """A state that nothing follows, and one that nothing leads to."""
    chain = random(1, 1)
    chain.transitions[2], chain.transitions[:, 3] = -np.inf, -np.inf
    return chain


def out_of_reach() -> Chain:
    """A state that all evidence is for and no path can reach."""
    transitions = np.array([[0.0, 0.0, -np.inf], [0.0, 0.0, -np.inf], [-np.inf, -np.inf, 0.0]])
    emissions = np.random.default_rng(3).normal(size=(2, T, 3)) + np.array([0.0, 0.0, 5.0])
    return Chain(emissions, transitions, np.array([[0.0, 0.0, -np.inf]]))


CASES = {
    # name: chain, whether underflow does harm
    "rare transition, strong evidence": (rare_transition(1e-9, 1), False),
    "all but impossible transition": (rare_transition(1e-30, 10), True),
    "two blocks": (two_blocks(), True),
    "left to right": (left_right(3, must_arrive=False), True),
    "left to right, must arrive": (left_right(10, must_arrive=True), True),
    "emissions of scale 100": (random(100, 3), False),
    "transitions of scale 100": (random(10, 100), True),
    "hard zeros": (random(1, 1, zeros=0.5), False),
    "a dead end": (dead_end(), False),
    "out of reach": (out_of_reach(), True),
    "impossible observations": (random(3, 1, impossible=0.4), False),
}


@jax.jit
def passes(chain: Chain) -> tuple:
    return expected_counts(chain), filtered(chain)


@pytest.mark.parametrize("name", CASES)
def test_float32_is_exact(name: str) -> None:
    chain, _ = CASES[name]
    chain = on_device(chain)
    exact = [None if x is None else np.asarray(x, np.float64) for x in chain[:4]]
    exact.append(None if chain.lengths is None else np.asarray(chain.lengths))
    (log_partition, counts), (messages, normalizers) = passes(chain)
    nodes, edges = reference.node_marginals(exact), reference.edge_marginals(exact)
    assert_log_close(log_partition, reference.log_partition(exact), 1e-5)
    np.testing.assert_allclose(counts.emissions, nodes, atol=1e-5)
    assert_log_close(counts.transitions, np.sum(edges, axis=(0, 1)), 1e-5)
    expected = reference.filtered(exact)
    assert_log_close(messages, expected[0], 1e-5)
    assert_log_close(normalizers, expected[1], 1e-5)


@jax.jit
def harmed(potentials: Potentials) -> jax.Array:
    _, doubt = chain_exp_space.forward_backward(potentials)
    return doubt.raised & doubt.holds()


@pytest.mark.parametrize("name", CASES)
def test_the_exact_pass_runs_where_it_must_and_only_there(name: str) -> None:
    chain, harmful = CASES[name]
    potentials = prepare(on_device(chain))
    assert bool(harmed(potentials)) == harmful


def test_ten_thousand_steps_of_a_hundred_states() -> None:
    rng = np.random.default_rng(2)
    transitions = np.log(rng.dirichlet(np.ones(100), size=100))
    chain = on_device(Chain(100 * rng.normal(size=(1, 10_000, 100)), transitions))
    (sequence,) = reference.sequences([*map(np.asarray, chain[:2]), None, None, None])
    alpha = reference.forward(sequence)
    expected = reference.log_sum_exp(alpha[-1])
    log_partition, counts = jax.jit(expected_counts)(chain)
    assert_log_close(log_partition, [expected], 1e-5)
    scores = alpha + reference.backward(sequence) - expected
    np.testing.assert_allclose(counts.emissions[0], np.exp(scores), atol=1e-5)


def test_shared_transitions_are_never_copied_to_every_step() -> None:
    batch, time, states = 3, 50, 64
    chain = on_device(
        Chain(np.zeros((batch, time, states)), np.zeros((states, states)), None, None)
    )

    compiled = jax.jit(partial(expected_counts, method="scan")).lower(chain).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    assert used < 4 * batch * time * states * states
