"""Which tags may follow which, and chains held to it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_cases import on_device

from jaxseq.ops.chain import Chain, node_marginals
from jaxseq.ops.chain_constraints import Allowed, bio_transitions, bioes_transitions, constrain
from jaxseq.ops.chain_paths import k_best, sample, viterbi

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIOES = ("O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "E-LOC")


def spans_are_whole(tags: list[str], scheme: str) -> bool:
    """A second reading of the schemes: spans taken off one after the other."""
    rest = list(tags)
    while rest:
        letter, _, kind = rest.pop(0).partition("-")
        if letter in ("I", "E"):
            return False
        if letter != "B":
            continue
        while rest and rest[0] == f"I-{kind}":
            rest.pop(0)
        if scheme == "bioes" and not (rest and rest.pop(0) == f"E-{kind}"):
            return False
    return True


def legal(allowed: Allowed, path: tuple[int, ...]) -> bool:
    steps = itertools.pairwise(path)
    return bool(
        allowed.initial[path[0]]
        and all(allowed.transitions[a, b] for a, b in steps)
        and allowed.final[path[-1]]
    )


@pytest.mark.parametrize(("scheme", "tags"), [("bio", BIO), ("bioes", BIOES)])
def test_legality_is_that_of_whole_spans(scheme: str, tags: tuple[str, ...]) -> None:
    allowed = (bio_transitions if scheme == "bio" else bioes_transitions)(tags)
    allowed = Allowed(*(np.asarray(each) for each in allowed))
    for length in (1, 2, 3):
        for path in itertools.product(range(len(tags)), repeat=length):
            expected = spans_are_whole([tags[i] for i in path], scheme)
            assert legal(allowed, path) == expected, [tags[i] for i in path]


@pytest.mark.parametrize("tag", ["I", "X-PER", "B-", "E-PER", "o", ""])
def test_unknown_tags_are_named(tag: str) -> None:
    with pytest.raises(ValueError, match=f"tag '{tag}' is not of the scheme BIO"):
        bio_transitions(("O", tag))


def constrained() -> Chain:
    rng = np.random.default_rng(0)
    size = len(BIO)
    chain = Chain(rng.normal(size=(2, 4, size)), rng.normal(size=(size, size)), None, None)
    allowed = bio_transitions(BIO)
    return constrain(
        on_device(chain),
        allowed_initial=allowed.initial,
        allowed_transitions=allowed.transitions,
        allowed_final=allowed.final,
        allowed_states=jnp.ones((2, 4, size), bool).at[0, 2, 0].set(False),
    )


def answers(chain: Chain) -> tuple:
    draws = sample(jax.random.key(0), chain, 40)
    return viterbi(chain)[0], *k_best(chain, 40), draws, node_marginals(chain)


def test_every_path_is_legal() -> None:
    chain, allowed = constrained(), bio_transitions(BIO)
    best, several, scores, draws, marginals = jax.jit(answers)(chain)
    assert np.all(np.asarray(scores) > -np.inf)
    for states in (best[None], jnp.swapaxes(several, 0, 1), draws):
        for b in range(2):
            for path in np.asarray(states[:, b]):
                assert legal(allowed, tuple(path))
        assert np.all(np.asarray(states)[:, 0, 2] != 0)
    assert marginals[0, 2, 0] == 0
    assert np.all(np.asarray(marginals)[:, 0, [2, 4]] == 0)


def test_per_step_transitions_and_own_vectors_are_kept_where_allowed() -> None:
    chain = Chain(jnp.zeros((2, 3, 5)), jnp.ones((2, 2, 5, 5)), jnp.full((2, 5), 3.0), None)
    held = constrain(
        chain,
        allowed_initial=bio_transitions(BIO).initial,
        allowed_transitions=bio_transitions(BIO).transitions,
    )
    assert held.transitions[1, 1, 0, 2] == -np.inf
    assert held.transitions[1, 1, 1, 2] == 1
    np.testing.assert_array_equal(held.initial[1], [3, 3, -np.inf, 3, -np.inf])
    assert held.final is None
    assert held.emissions is chain.emissions
