"""Taggers: every rung of the ladder is a chain, and nothing in the padding reaches it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, random_params

from jaxseq.errors import UserError
from jaxseq.models.tagger import Tagger, TaggerConfig, shift
from jaxseq.ops.chain import log_partition, score
from jaxseq.ops.chain_paths import viterbi
from jaxseq.reference.tagger import feature_scores, hidden_markov_model

SIZES = {"num_words": 7, "num_characters": 6, "num_features": 9}
TAGS = ("A", "B", "C")
RUNGS = {
    "crf": TaggerConfig(width=4, word_width=3, character_width=4),
    "softmax": TaggerConfig(output="softmax", characters="lstm", width=4, character_width=4),
    "features": TaggerConfig(encoder="features"),
    "hmm": TaggerConfig(encoder="words", output="hmm"),
}
LENGTHS = jnp.array([4, 0, 2])


def sentences(seed=0):
    """words (3, 4), characters (3, 4, 5), features (3, 4, 2) and lengths."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 7, (3, 4))
    characters = rng.integers(0, 6, (3, 4, 5))
    features = rng.integers(0, 9, (3, 4, 2))
    return [jnp.asarray(x) for x in (words, characters, features)] + [LENGTHS]


def build(rung: str, **fields):
    config = RUNGS[rung].resolve(TAGS, **SIZES)
    module = Tagger(config, **fields)
    params = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32), random_params(Tagger(config), *sentences())
    )
    return module, params


@pytest.mark.parametrize("rung", RUNGS)
def test_nothing_in_the_padding_matters(rung):
    """Neither another number nor one outside of the tables changes a score or a gradient."""
    module, params = build(rung)
    inside = np.arange(4) < np.asarray(LENGTHS)[:, None]
    clean = sentences()
    junk = [
        jnp.asarray(np.where(inside.reshape(3, 4, *[1] * (x.ndim - 2)), x, 999)) for x in clean[:3]
    ]

    @jax.jit
    def value_and_gradient(params, words, characters, features):
        def total(params):
            chain = module.apply({"params": params}, words, characters, features, LENGTHS)
            return log_partition(chain).sum() + score(chain, jnp.zeros((3, 4), jnp.int32)).sum()

        return jax.value_and_grad(total)(params)

    expected = value_and_gradient(params, *clean[:3])
    assert_same(value_and_gradient(params, *junk), expected)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(expected[1]))


@pytest.mark.parametrize("rung", ["features", "hmm"])
def test_equals_its_twin(rung):
    module, params = build(rung)
    words, _, features, lengths = inputs = sentences()
    chain = jax.jit(module.apply)({"params": params}, *inputs)
    twin = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    tags = np.array([0, 2, 1, 1])
    joint = jax.jit(score)(chain, jnp.broadcast_to(jnp.asarray(tags), (3, 4)))
    for b in (0, 2):
        length = int(lengths[b])
        if rung == "features":
            expected = feature_scores(twin, np.asarray(features[b, :length]))
            actual = chain.emissions[b, :length]
        else:
            expected = hidden_markov_model(twin, np.asarray(words[b, :length]), tags[:length])
            actual = joint[b]
        assert_close(actual, np.asarray(expected), "float32")


def test_a_hidden_markov_model_is_a_distribution_over_words_and_tags():
    """All sentences of one and of two words, and their ends, have probability below 1 in sum, and
    1 minus it is the probability of going on."""
    module, params = build("hmm")

    @jax.jit
    def probability(words):
        blank = jnp.zeros((*words.shape, 1), jnp.int32)
        lengths = jnp.full(len(words), words.shape[1], jnp.int32)
        chain = module.apply({"params": params}, words, blank, blank, lengths)
        return jnp.exp(log_partition(chain)).sum()

    total = 0.0
    for length in (1, 2):
        grid = np.stack(np.meshgrid(*[np.arange(7)] * length), -1).reshape(-1, length)
        total += float(probability(jnp.asarray(grid)))
    onward = jax.nn.softmax(params["transitions"])
    first = jax.nn.softmax(params["initial"])
    going_on = first @ onward[:, :3] @ onward[:, :3].sum(axis=1)
    assert total == pytest.approx(1 - float(going_on), rel=1e-5)


def test_a_softmax_is_a_chain_without_transitions():
    module, params = build("softmax")
    chain = jax.jit(module.apply)({"params": params}, *sentences())
    paths, _ = jax.jit(viterbi)(chain)
    inside = np.arange(4) < np.asarray(LENGTHS)[:, None]
    best = np.argmax(chain.emissions, axis=-1)
    np.testing.assert_array_equal(np.asarray(paths)[inside], best[inside])


def test_dropout_and_word_dropout_draw_from_the_key():
    module, params = build("crf", deterministic=False)

    @jax.jit
    def emissions(key):
        return module.apply({"params": params}, *sentences(), rngs={"dropout": key}).emissions

    one, other = jax.random.key(1), jax.random.key(2)
    np.testing.assert_array_equal(emissions(one), emissions(one))
    assert not np.array_equal(emissions(one), emissions(other))


def test_shifting_moves_zeros_in():
    x = jnp.arange(1.0, 4.0)[None, :, None]
    assert shift(x, 1)[0, :, 0].tolist() == [0, 1, 2]
    assert shift(x, -1)[0, :, 0].tolist() == [2, 3, 0]
    assert shift(x, 0) is x


def test_a_scheme_forbids_its_illegal_paths():
    config = TaggerConfig(width=4, characters="none", scheme="bio")
    config = config.resolve(("O", "B-X", "I-X"), **SIZES)
    module = Tagger(config)
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), *sentences())["params"])
    chain = jax.jit(module.apply)({"params": params}, *sentences())
    of_path = jax.jit(score)
    assert np.isneginf(of_path(chain, jnp.full((3, 4), 2))[0])  # a sentence of I-X alone
    assert np.isfinite(of_path(chain, jnp.array([[1, 2, 2, 0]] * 3))[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output": "hmm"}, "--model.output hmm does not go with --model.encoder recurrent"),
        ({"encoder": "words"}, "--model.encoder words"),
        ({"width": 0}, "--model.width is 0"),
        ({"characters": "lstm", "character_width": 5}, "--model.character-width 5 is odd"),
        ({"word_dropout": 1.0}, "--model.word-dropout is 1.0"),
        ({"scheme": "bio", "output": "softmax"}, "--model.scheme"),
    ],
)
def test_options_that_do_not_go_together_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        TaggerConfig(**fields).resolve(TAGS, **SIZES)
