"""Counts and metrics of classes and spans: by hand, against scikit-learn and a plain conlleval."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.tasks.classification_metrics import (
    by_class,
    classification_metrics,
    label_counts,
    of_classes,
    span_counts,
    span_metrics,
    span_types,
)

count_labels = jax.jit(label_counts, static_argnums=3)


def summed(predicted, labels, names, mask=None):
    """The counts of rows, as a task's totals hold them."""
    predicted, labels = jnp.asarray(predicted), jnp.asarray(labels)
    mask = jnp.ones(labels.shape, bool) if mask is None else jnp.asarray(mask)
    named = by_class("label", count_labels(predicted, labels, mask, len(names)), names)
    totals = {"loss": 1.0} | {name: np.asarray(x).sum(axis=0) for name, x in named.items()}
    return of_classes("label", totals)


def test_two_classes_by_hand():
    """Labels p p p n, predictions p p n n; the fifth entry is padding."""
    labels, predicted = [[1, 1], [1, 0], [1, 1]], [[1, 1], [0, 0], [1, 0]]
    mask = [[True, True], [True, True], [False, False]]
    found = classification_metrics(summed(predicted, labels, ("no", "yes"), mask))
    expected = {
        "accuracy": 3 / 4,
        "precision[yes]": 1.0, "recall[yes]": 2 / 3, "f1[yes]": 4 / 5,
        "precision[no]": 1 / 2, "recall[no]": 1.0, "f1[no]": 2 / 3,
        "precision_macro": 3 / 4, "recall_macro": 5 / 6, "f1_macro": 11 / 15,
        "precision_micro": 3 / 4, "recall_micro": 3 / 4, "f1_micro": 3 / 4,
        "matthews": 2 / math.sqrt(2 * 2 * 3 * 1),
    }  # fmt: skip
    assert found == {name: pytest.approx(value) for name, value in expected.items()}


def test_rows_are_counted_apart():
    counts = count_labels(
        jnp.array([[0, 1], [1, 1]]), jnp.array([[0, 0], [1, 0]]), jnp.ones((2, 2), bool), 2
    )
    np.testing.assert_array_equal(counts[0], [[1, 2, 1], [0, 0, 1]])
    np.testing.assert_array_equal(counts[1], [[0, 1, 0], [1, 1, 2]])


@pytest.mark.parametrize("seed", range(6))
def test_scikit_learn_finds_the_same(seed):
    """Random labels, some right; the last seeds leave classes out of labels, predictions, both."""
    sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    rng = np.random.default_rng(seed)
    labels = rng.integers(5 - (seed > 3), size=(40, 1))
    predicted = np.where(rng.random((40, 1)) < 0.5, labels, rng.integers(4, size=(40, 1)))
    names = ("a", "b", "c", "d", "e")
    found = classification_metrics(summed(predicted, labels, names))
    y, p = labels[:, 0], predicted[:, 0]
    scores = {
        "precision": sklearn.precision_score,
        "recall": sklearn.recall_score,
        "f1": sklearn.f1_score,
    }
    expected = {"accuracy": sklearn.accuracy_score(y, p)}
    expected["matthews"] = sklearn.matthews_corrcoef(y, p)
    for metric, score in scores.items():
        for average in ("macro", "micro"):
            expected[f"{metric}_{average}"] = score(y, p, average=average, zero_division=0)
        each = score(y, p, labels=range(5), average=None, zero_division=0)
        expected |= {f"{metric}[{name}]": x for name, x in zip(names, each, strict=True)}
    assert found == {name: pytest.approx(float(x), abs=1e-12) for name, x in expected.items()}


def test_one_predicted_class_has_no_correlation():
    assert classification_metrics(summed([[0], [0]], [[0], [1]], ("a", "b")))["matthews"] == 0


# ---- spans ----------------------------------------------------------------------------------

TAGS = ("O", "B-P", "I-P", "B-L", "I-L", "E-P", "S-L")
count_spans = jax.jit(span_counts, static_argnums=3)


def test_types_of_spans():
    assert span_types(TAGS) == ("L", "P")
    assert span_types(("O", "B-a-b")) == ("a-b",)
    assert span_types(("NOUN", "O", "B-P")) == ()
    assert span_types(("O",)) == ()


def chunks(tags):
    """{(type, first, last)} of a path, word by word as conlleval goes."""
    found, start = set(), None
    pairs = [(None, None) if tag == "O" else tuple(tag.split("-", 1)) for tag in tags]
    pairs.append((None, None))
    for t, (mark, kind) in enumerate(pairs):
        before, kind_before = pairs[t - 1] if t else (None, None)
        ends = before in ("E", "S") or mark in ("B", "S", None) or kind != kind_before
        if start is not None and ends:
            found.add((kind_before, start, t - 1))
            start = None
        if mark is not None and start is None:
            start = t
    return found


def test_chunks_by_hand():
    """The cases of conlleval's own table."""
    assert chunks(["B-P", "I-P", "O", "B-P", "B-P"]) == {("P", 0, 1), ("P", 3, 3), ("P", 4, 4)}
    assert chunks(["I-P", "I-P", "I-L", "O", "I-L"]) == {("P", 0, 1), ("L", 2, 2), ("L", 4, 4)}
    assert chunks(["B-P", "E-P", "I-P", "S-L", "S-L"]) == {
        ("P", 0, 1), ("P", 2, 2), ("L", 3, 3), ("L", 4, 4)
    }  # fmt: skip


def test_spans_are_found_where_type_and_both_ends_agree():
    rng = np.random.default_rng(0)
    labels = rng.integers(len(TAGS), size=(200, 7))
    predicted = np.where(rng.random((200, 7)) < 0.7, labels, rng.integers(len(TAGS), size=(200, 7)))
    lengths = rng.integers(8, size=200)
    expected = np.zeros((200, 2, 3), int)
    for row, (y, p, length) in enumerate(zip(labels, predicted, lengths, strict=True)):
        gold, guess = (chunks([TAGS[tag] for tag in path[:length]]) for path in (y, p))
        for c, kind in enumerate(("L", "P")):
            sets = (gold & guess, gold, guess)
            expected[row, c] = [sum(one[0] == kind for one in found) for found in sets]
    # Whatever stands in the padding changes nothing.
    behind = np.arange(7)[None] >= lengths[:, None]
    for junk in (0, 1, -7, 99):
        y, p = (jnp.asarray(np.where(behind, junk, path)) for path in (labels, predicted))
        found = count_spans(p, y, jnp.asarray(lengths), TAGS)
        np.testing.assert_array_equal(found, expected)
    assert expected[..., 0].sum() > 100


def test_span_metrics_by_hand():
    found = span_metrics({"L": np.array([1, 2, 4]), "P": np.array([0, 2, 0])})
    assert found == {
        "span_precision": 1 / 4, "span_recall": 1 / 4, "span_f1": 1 / 4,
        "span_precision[L]": 1 / 4, "span_recall[L]": 1 / 2, "span_f1[L]": pytest.approx(1 / 3),
        "span_precision[P]": 0.0, "span_recall[P]": 0.0, "span_f1[P]": 0.0,
    }  # fmt: skip
