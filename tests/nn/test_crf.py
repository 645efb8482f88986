"""The CRF layer against every tagging written out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import check_parity, random_params

from jaxseq.errors import UserError
from jaxseq.nn.crf import CRF, check_tags
from jaxseq.reference import chain as reference

TAGS = ("O", "B-X", "I-X")
LENGTHS = np.array([4, 2, 0])
GOLD = np.array([[0, 1, 2, 0], [1, 2, 9, -1], [7, 7, 7, 7]])


def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 4, 3))


def params() -> dict:
    return random_params(CRF(TAGS), jnp.zeros((3, 4, 3)), jnp.asarray(LENGTHS))


def twin_loss(params: dict, logits: np.ndarray) -> tuple[float, float]:
    chain = logits, params["transitions"], params["initial"][None], params["final"][None], LENGTHS
    total = reference.enumerated_log_partition(chain) - reference.score(chain, GOLD)
    return float(np.sum(total)), 6.0


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_loss_equals_enumeration(dtype: str) -> None:
    def loss(params, logits):
        return CRF(TAGS).apply(
            {"params": params}, logits, jnp.asarray(GOLD), jnp.asarray(LENGTHS), method="loss"
        )

    check_parity(loss, twin_loss, params(), logits(), dtype=dtype)


def test_starts_as_a_softmax_over_each_word() -> None:
    layer = CRF(TAGS)
    x = jnp.asarray(logits(), jnp.float32)
    variables = layer.init(jax.random.key(0), x, jnp.asarray(LENGTHS))
    marginals = jax.jit(partial(layer.apply, method="marginals"))(variables, x, jnp.full(3, 4))
    np.testing.assert_allclose(marginals, jax.nn.softmax(x), atol=1e-6)


def test_decodes_legal_tags_alone() -> None:
    layer = CRF(TAGS, "bio")
    x = jnp.zeros((1, 4, 3)).at[..., 2].set(5.0)  # I-X everywhere, if it could
    variables = {"params": jax.tree.map(jnp.zeros_like, params())}
    lengths = jnp.array([4])

    @jax.jit
    def answers(variables, x):
        bound = layer.bind(variables)
        found = *bound.decode(x, lengths), *bound.k_best(x, lengths, 3)
        return *found, bound.marginals(x, lengths)

    best, score, several, scores, marginals = answers(variables, x)
    np.testing.assert_array_equal(best, [[1, 2, 2, 2]])
    np.testing.assert_array_equal(several[:, 0], best)
    np.testing.assert_allclose(scores[:, 0], score)
    assert marginals[0, 0, 2] == 0


def test_forbidden_gold_tags_count_neither_as_loss_nor_as_words() -> None:
    layer = CRF(TAGS, "bio")
    gold = jnp.array([[0, 1, 2, 0], [0, 2, 0, 0]])  # the second has I-X after O
    lengths = jnp.array([4, 2])
    both = jnp.asarray(logits()[:2], jnp.float32)

    @jax.jit
    def loss(params, x, gold, lengths):
        def total(params, x):
            return layer.apply({"params": params}, x, gold, lengths, method="loss")

        return jax.value_and_grad(total, (0, 1), has_aux=True)(params, x)

    values = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params())
    (total, weight), gradient = loss(values, both, gold, lengths)
    (alone, _), expected = loss(values, both, gold, lengths.at[1].set(0))
    assert weight == 4
    np.testing.assert_allclose(total, alone, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "lengths", "message"),
    [
        ([[0, 1], [0, 2]], [2, 2], "sentence 2, word 2: I-X after O is illegal under scheme bio"),
        ([[2, 0]], [2], "sentence 1, word 1: I-X at the start is illegal"),
        ([[0, 3]], [2], "sentence 1, word 2: tag number 3 is not one of 3 tags"),
        ([[-1, 0]], [2], "tag number -1"),
    ],
)
def test_bad_tags_are_named(rows: list, lengths: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_tags(np.array(rows), np.array(lengths), TAGS, "bio")


def test_good_tags_pass_and_padding_is_not_looked_at() -> None:
    check_tags(GOLD, LENGTHS, TAGS, "bio")
    check_tags(np.array([[2, 2]]), np.array([2]), TAGS, "none")
    with pytest.raises(UserError, match="B-X at the end is illegal under scheme bioes"):
        check_tags(np.array([[0, 1]]), np.array([2]), ("O", "B-X", "E-X"), "bioes")
