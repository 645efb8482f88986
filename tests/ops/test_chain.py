"""Sums over the paths of a chain, against every path written out and against plain loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_cases import FINITE, assert_log_close, finite, on_device, ragged
from compare import VALUE_TOLERANCES, assert_same, check_parity

from jaxseq.ops import chain as ops
from jaxseq.ops.chain import Chain
from jaxseq.reference import chain as reference

expected_counts = jax.jit(ops.expected_counts, static_argnames="method")


@partial(jax.jit, static_argnames="method")
def everything(chain: Chain, method: ops.Method) -> dict:
    def weighted(potentials):
        total = ops.log_partition(Chain(*potentials, chain.lengths), method=method)
        return jnp.sum(jnp.where(total > -jnp.inf, total, 0)), total

    gradient, log_partition = jax.grad(weighted, has_aux=True)(chain[:4])
    states = jnp.zeros(chain.emissions.shape[:2], jnp.int32).at[:, 1].set(2)
    return {
        "log_partition": log_partition,
        "gradient": gradient,
        "nodes": ops.node_marginals(chain, method=method),
        "edges": ops.edge_marginals(chain, method=method),
        "filtered": ops.filtered(chain, method=method),
        "entropy": ops.entropy(chain, method=method),
        "score": ops.score(chain, states),
    }


@pytest.mark.parametrize("method", ["scan", "associative"])
@pytest.mark.parametrize("per_step", [False, True], ids=["shared", "per step"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ragged_batch_equals_enumeration(dtype: str, per_step: bool, method: ops.Method) -> None:
    with jax.enable_x64(dtype == "float64"):
        chain = on_device(ragged(per_step=per_step), dtype)
        found = everything(chain, method)
        assert_same(
            everything(on_device(ragged(per_step=per_step, junk=False), dtype), method), found
        )
    close = partial(assert_log_close, tolerance=VALUE_TOLERANCES[dtype])
    exact = Chain(*(np.asarray(x) for x in chain))
    close(found["log_partition"], reference.enumerated_log_partition(exact))
    nodes = reference.enumerated_node_marginals(exact)
    edges = reference.enumerated_edge_marginals(exact)
    close(found["nodes"], nodes)
    close(found["edges"], edges)
    close(found["entropy"], reference.enumerated_entropy(exact))
    for actual, expected in zip(found["filtered"], reference.filtered(exact), strict=True):
        close(actual, expected)
    path = np.zeros(nodes.shape[:2], int)
    path[:, 1] = 2
    close(found["score"], reference.score(exact, path))

    emissions, transitions, initial, final = found["gradient"]
    last = np.zeros_like(nodes[:, 0])
    for b, length in enumerate(np.minimum(exact.lengths, nodes.shape[1])):
        last[b] = nodes[b, length - 1] if length else 0
    close(emissions, nodes)
    close(transitions, edges if per_step else np.sum(edges, axis=(0, 1)))
    close(initial, np.sum(nodes[:, :1], axis=0))
    close(final, last)


@pytest.mark.parametrize("per_step", [False, True], ids=["shared", "per step"])
def test_plain_loops_equal_enumeration(per_step: bool) -> None:
    chain = ragged(per_step=per_step)
    close = partial(assert_log_close, tolerance=1e-12)
    close(reference.log_partition(chain), reference.enumerated_log_partition(chain))
    close(reference.node_marginals(chain), reference.enumerated_node_marginals(chain))
    close(reference.edge_marginals(chain), reference.enumerated_edge_marginals(chain))
    close(reference.viterbi(chain)[1], reference.enumerated_k_best(chain, 1)[1][:, 0])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["log_partition", "entropy", "score"])
def test_gradients_equal_central_differences(name: str, dtype: str) -> None:
    for per_step in (False, True):
        path = () if name != "score" else (np.array([[0, 1, 2, 2], [9, 9, 9, 9], [2, 0, 7, -1]]),)
        twin = reference.enumerated_entropy if name == "entropy" else getattr(reference, name)
        check_parity(
            lambda *potentials, path=path: getattr(ops, name)(
                Chain(*potentials, jnp.asarray(FINITE)), *(jnp.asarray(p) for p in path)
            ),
            lambda *potentials, path=path, twin=twin: twin((*potentials, FINITE), *path),
            *finite(per_step=per_step),
            dtype=dtype,
        )


def test_entropy_of_the_associative_form_has_the_same_gradient() -> None:
    chain = on_device(ragged())

    @partial(jax.jit, static_argnames="method")
    def gradient(potentials, method):
        return jax.grad(lambda p: jnp.sum(ops.entropy(Chain(*p, chain.lengths), method=method)))(
            potentials
        )

    for a, b in zip(gradient(chain[:4], "scan"), gradient(chain[:4], "associative"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_expected_counts_are_the_gradient() -> None:
    chain = on_device(ragged())
    log_partition, counts = expected_counts(chain)
    found = everything(chain, "scan")
    np.testing.assert_allclose(log_partition, found["log_partition"], rtol=1e-6)
    for actual, expected in zip(counts[:4], found["gradient"], strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)
    np.testing.assert_array_equal(counts.lengths, chain.lengths)


def test_gradient_weighs_each_sequence() -> None:
    chain = on_device(ragged()._replace(final=None, initial=None))
    weights = np.arange(7.0)

    @jax.jit
    def gradient(transitions, weights):
        def total(transitions):
            log_partition = ops.log_partition(chain._replace(transitions=transitions))
            return jnp.sum(jnp.where(log_partition > -jnp.inf, weights * log_partition, 0))

        return jax.grad(total)(transitions)

    edges = reference.edge_marginals([None if x is None else np.asarray(x) for x in chain])
    expected = np.einsum("b,btij->ij", weights, edges)
    np.testing.assert_allclose(
        gradient(chain.transitions, jnp.asarray(weights)), expected, atol=1e-5
    )


def test_impossible_sequence_has_finite_gradients_whatever_the_loss() -> None:
    chain = on_device(ragged())
    gradient = jax.jit(jax.grad(lambda p: -jnp.sum(ops.log_partition(Chain(*p, chain.lengths)))))
    for each in gradient(chain[:4]):
        assert np.isfinite(each).all()


@pytest.mark.parametrize(("time", "states"), [(1, 3), (1, 1), (4, 1)])
def test_one_step_or_one_state(time: int, states: int) -> None:
    rng = np.random.default_rng(2)
    chain = Chain(rng.normal(size=(2, time, states)), rng.normal(size=(states, states)))
    for method in ("scan", "associative"):
        log_partition, counts = expected_counts(on_device(chain), method=method)
        assert_log_close(log_partition, reference.enumerated_log_partition(chain), 1e-6)
        assert_log_close(counts.emissions, reference.enumerated_node_marginals(chain), 1e-6)


def test_all_padding() -> None:
    chain = on_device(ragged())._replace(lengths=jnp.zeros(7, jnp.int32))
    found = everything(chain._replace(emissions=jnp.full((7, 4, 3), jnp.nan)), "scan")
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(found))


def test_auto_equals_scan_for_few_states_and_many_steps() -> None:
    rng = np.random.default_rng(3)
    chain = Chain(rng.normal(size=(2, 300, 4)), rng.normal(size=(4, 4)), None, None)
    chain = on_device(chain._replace(lengths=np.array([300, 171])))
    for a, b in zip(
        jax.tree.leaves(expected_counts(chain, method="auto")),
        jax.tree.leaves(expected_counts(chain, method="scan")),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_summed_in_float32() -> None:
    chain = on_device(ragged(), "bfloat16")
    log_partition, counts = expected_counts(chain)
    assert log_partition.dtype == jnp.float32
    assert counts.emissions.dtype == counts.transitions.dtype == jnp.bfloat16
    exact = [np.asarray(x.astype(jnp.float32), np.float64) for x in chain]
    assert_log_close(log_partition, reference.log_partition(exact), 1e-5)


def test_shapes_that_do_not_fit_are_named() -> None:
    emissions, transitions = jnp.zeros((2, 3, 4)), jnp.zeros((4, 4))
    for wrong, name in [
        (Chain(emissions, transitions[:3]), "transitions"),
        (Chain(emissions, transitions, jnp.zeros((3, 4))), "initial"),
        (Chain(emissions, transitions, None, jnp.zeros((2, 5))), "final"),
        (Chain(emissions, transitions, lengths=jnp.zeros(3, jnp.int32)), "lengths"),
        (Chain(emissions[:, :0], transitions), "no step"),
    ]:
        with pytest.raises(ValueError, match=name):
            ops.log_partition(wrong)
