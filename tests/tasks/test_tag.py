"""The tagging task: its loss, its counts, its answers to lines of text."""

import itertools
import math
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.data.ragged import Ragged, ragged_evaluation_batches
from jaxseq.data.tagged import TaggedData, TagTokenizer, read_tagged
from jaxseq.data.text import Document
from jaxseq.models.tagger import TaggerConfig
from jaxseq.reference.tagger import feature_scores, hidden_markov_model
from jaxseq.tasks.tag import Tag

SENTENCES = read_tagged(Document("t.tsv", "a\tX\nb\tY\n\nb\tY\nrare\tX\na\tX\n\nb\tX\n"))
TOKENIZER = TagTokenizer.train(SENTENCES, min_count=2)
TASK = Tag()
UNUSED = TaggedData(train=Path("a"), validation=Path("b"))


def resolve(**fields) -> TaggerConfig:
    return TASK.resolve(TaggerConfig(**fields), UNUSED, TOKENIZER)


def batch():
    examples = [TOKENIZER.example(sentence.words, sentence.tags) for sentence in SENTENCES]
    (found,) = ragged_evaluation_batches(Ragged(examples, "words", 5))
    return {name: jnp.asarray(array) for name, array in found.items()}


@pytest.fixture(scope="module")
def features():
    """A plain CRF on features with numbers of order 1, and the same as a twin reads them."""
    model = resolve(encoder="features")
    shapes = nn.unbox(jax.jit(partial(TASK.init, model))(jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    return model, params, jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def all_scores(twin, sentence):
    """The score of every tagging of a sentence under a CRF on features, by number."""
    example = TOKENIZER.example(sentence.words)
    emissions = feature_scores(twin, example["features"])
    crf, scores = twin["crf"], {}
    for path in np.ndindex((2,) * len(emissions)):
        total = crf["initial"][path[0]] + crf["final"][path[-1]]
        total += sum(emissions[t, tag] for t, tag in enumerate(path))
        total += sum(crf["transitions"][i, j] for i, j in itertools.pairwise(path))
        scores[path] = total
    return scores


def test_the_loss_is_minus_the_log_probability_of_the_tags(features):
    model, params, twin = features
    expected = 0.0
    for sentence in SENTENCES:
        scores = all_scores(twin, sentence)
        gold = tuple(TOKENIZER.tags.encode(sentence.tags).tolist())
        expected -= scores[gold] - math.log(sum(math.exp(score) for score in scores.values()))
    loss, weight = jax.jit(partial(TASK.loss, model))(params, batch())
    assert weight == 6  # words, not sentences: one batch is as good as several
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_counts_and_answers_are_those_of_the_best_paths(features):
    model, params, twin = features
    best = {}
    right = rare_right = whole = 0
    for sentence in SENTENCES:
        scores = all_scores(twin, sentence)
        best[sentence] = TOKENIZER.tags.decode(list(max(scores, key=lambda path: scores[path])))
        hits = [a == b for a, b in zip(best[sentence], sentence.tags, strict=True)]
        right += sum(hits)
        whole += all(hits)
        if "rare" in sentence.words:
            rare_right += hits[sentence.words.index("rare")]
    each = TASK.evaluator(model, TOKENIZER)(params, batch())
    assert {rows.shape for rows in each.values()} == {(5,)}
    assert not any(rows[3:].any() for rows in each.values())  # filler rows
    found = {name: float(rows.sum()) for name, rows in each.items()}
    assert found.pop("loss") > 0
    assert found == {
        "words": 6, "right": right, "rare": 1, "rare_right": rare_right,
        "sentences": 3, "sentences_right": whole,
    }  # fmt: skip
    lines = [" ".join(sentence.words) for sentence in SENTENCES]
    answers = list(TASK.predict(model, params, TOKENIZER, [lines[0], "", *lines[1:]]))
    assert answers[1] == {"words": [], "tags": []}
    del answers[1]
    for sentence, answer in zip(SENTENCES, answers, strict=True):
        assert answer["words"] == list(sentence.words)
        assert answer["tags"] == best[sentence]


def test_lines_are_answered_in_order_however_many(features):
    model, params, _ = features
    lines = [["a b", "b", "rare a b a", "b a"][i % 4] for i in range(70)]
    answers = list(TASK.predict(model, params, TOKENIZER, lines))
    assert [" ".join(answer["words"]) for answer in answers] == lines
    assert answers[:4] == answers[64:68]


def test_a_hidden_markov_model_is_trained_on_words_and_tags_together():
    model = resolve(encoder="words", output="hmm")
    params = nn.unbox(jax.jit(partial(TASK.init, model))(jax.random.key(0)))
    twin = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    expected = -sum(
        hidden_markov_model(
            twin, TOKENIZER.example(sentence.words)["words"], TOKENIZER.tags.encode(sentence.tags)
        )
        for sentence in SENTENCES
    )
    loss, _ = jax.jit(partial(TASK.loss, model))(params, batch())
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_metrics_are_their_formulas():
    totals = {"loss": 20.0, "words": 10.0, "right": 9.0, "rare": 4.0, "rare_right": 3.0}
    found = TASK.metrics({**totals, "sentences": 5.0, "sentences_right": 2.0})
    assert found == {
        "loss": 2.0, "accuracy": 0.9, "accuracy_on_rare_words": 0.75,
        "sentences_all_right": 0.4, "words": 10.0,
    }  # fmt: skip


def test_show_prints_words_with_tags(features, capsys, tmp_path):
    model, params, _ = features
    TASK.show(model, params, TOKENIZER, ("a b",), tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert [pair.split("/")[0] for pair in line.split()] == ["a", "b"]
    assert list(tmp_path.iterdir()) == []
