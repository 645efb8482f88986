"""Counts of right and wrong labels and spans by class, and what precision, recall, F1 and
Matthews make of their sums.

Counts of a class are three numbers, (right, labelled, predicted):

    precision = right / predicted,   recall = right / labelled
    F1 = 2 right / (labelled + predicted)

each 0 where there is nothing to divide by, as in scikit-learn with `zero_division=0`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.typing import Array, Bool, Int, Shaped

Counts = Shaped[np.ndarray, "3"]


def label_counts(
    predicted: Int[Array, "B W"],
    labels: Int[Array, "B W"],
    mask: Bool[Array, "B W"],
    num_classes: int,
) -> Int[Array, "B C 3"]:
    """Of each row: how often each class is right, is the label, and is predicted, under `mask`."""
    classes = jnp.arange(num_classes)
    is_label = (labels[..., None] == classes[None, None]) & mask[..., None]
    is_predicted = (predicted[..., None] == classes[None, None]) & mask[..., None]
    counted = jnp.stack([is_label & is_predicted, is_label, is_predicted], axis=-1)
    return counted.sum(axis=1)


def confusion_counts(
    predicted: Int[Array, "B"], labels: Int[Array, "B"], mask: Bool[Array, "B"], num_classes: int
) -> Int[Array, "B C C"]:
    """Of each row: 1 at (its label, the predicted one), under `mask`; else 0."""
    classes = jnp.arange(num_classes)
    is_label = (labels[:, None] == classes[None]) & mask[:, None]
    is_predicted = predicted[:, None] == classes[None]
    return (is_label[:, :, None] & is_predicted[:, None, :]).astype(jnp.int32)


def confusion_details(totals: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """{"confusion": {"labels", "counts"}} of summed `confusion_counts`, {} where there are none.

    A row of "counts" is a class of the reference, a column one that was predicted.
    """
    if "confusion" not in totals:
        return {}
    counts = np.asarray(totals["confusion"]).astype(int).tolist()
    return {"confusion": {"labels": list(classes), "counts": counts}}


def by_class(
    name: str, counts: Int[Array, "B C 3"], classes: Sequence[str]
) -> dict[str, Int[Array, "B 3"]]:
    """The counts of each class under a name of its own, "name[class]": sums say whose they are."""
    return {f"{name}[{label}]": counts[:, c] for c, label in enumerate(classes)}


def of_classes(name: str, totals: Mapping[str, Any]) -> dict[str, Counts]:
    """The sums of what `by_class` named, by class."""
    start = f"{name}["
    return {
        key.removeprefix(start)[:-1]: np.asarray(total, np.float64)
        for key, total in totals.items()
        if key.startswith(start)
    }


def precision_recall_f1(counts: Counts) -> dict[str, float]:
    """{"precision", "recall", "f1"} of one class, or of several whose counts were added."""
    right, labelled, predicted = (float(count) for count in counts)
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / labelled if labelled else 0.0,
        "f1": 2 * right / (labelled + predicted) if labelled + predicted else 0.0,
    }


def classification_metrics(counts: Mapping[str, Counts]) -> dict[str, float]:
    """Accuracy, Matthews, and precision, recall and F1 of all classes and of each.

    "f1_macro" is the mean of the F1 of the classes that occur as a label or a prediction,
    "f1_micro" the F1 of their counts added (with one label an example it is the accuracy),
    "f1[NAME]" that of one class; likewise for precision and recall. "matthews" is the correlation
    of labels and predictions over K classes (Gorodkin 2004, Computational Biology
    and Chemistry 28):

        (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))

    of s examples, c right ones, t_k with label k and p_k predicted to have it; 0 where a square
    root is 0. All but it lie in [0, 1].
    """
    each = {label: precision_recall_f1(count) for label, count in counts.items()}
    occurring = [each[label] for label, (_, t, p) in counts.items() if t or p]
    together = np.sum(list(counts.values()), axis=0)
    found = {"accuracy": precision_recall_f1(together)["recall"], "matthews": _matthews(counts)}
    for name in ("precision", "recall", "f1"):
        found[f"{name}_macro"] = sum(one[name] for one in occurring) / len(occurring)
    for name, value in precision_recall_f1(together).items():
        found[f"{name}_micro"] = value
    for label, one in each.items():
        found |= {f"{name}[{label}]": value for name, value in one.items()}
    return found


def _matthews(counts: Mapping[str, Counts]) -> float:
    right, labelled, predicted = np.array(list(counts.values())).T
    s = labelled.sum()
    spread = (s**2 - predicted @ predicted) * (s**2 - labelled @ labelled)
    if spread <= 0:
        return 0.0
    return float((right.sum() * s - predicted @ labelled) / math.sqrt(spread))


# ---- spans ----------------------------------------------------------------------------------

_SPAN_TAG = re.compile(r"([BIES])-(.+)")


def span_types(tags: Sequence[str]) -> tuple[str, ...]:
    """The types of the spans that `tags` mark, in order: ("LOC", "PER") of B-PER, I-PER, B-LOC, O.

    () where the tags mark no spans: some tag is neither "O" nor B-, I-, E- or S- before a type.
    """
    marks = [_SPAN_TAG.fullmatch(tag) for tag in tags if tag != "O"]
    found = {mark[2] for mark in marks if mark}
    return tuple(sorted(found)) if all(marks) else ()


def span_counts(
    predicted: Int[Array, "B W"],
    labels: Int[Array, "B W"],
    lengths: Int[Array, "B"],
    tags: Sequence[str],
) -> Int[Array, "B C 3"]:
    """Of each row and type of `span_types`: spans found exactly, spans labelled, spans predicted.

    A span is what conlleval takes for one (Tjong Kim Sang and Buchholz 2000, W00-0726), under BIO
    and BIOES and whatever a model makes of them: a word other than O begins one where its tag is
    B or S, where the word before it is O, E or S, or where that is of another type. It is found
    where a predicted one has the same type, first word and last word.
    """
    types = span_types(tags)
    marks = [_SPAN_TAG.fullmatch(tag) for tag in tags]
    kind = jnp.array(["OBIES".index(mark[1] if mark else "O") for mark in marks])
    type_of = jnp.array([types.index(mark[2]) if mark else -1 for mark in marks])
    inside = jnp.arange(labels.shape[1])[None] < lengths[:, None]

    def spans(path: Array) -> tuple[Array, Array, Array]:
        """(whether a span begins here, its type, where the span ends that this word is in)."""
        path = jnp.where(inside, path, 0)
        kinds = jnp.where(inside, kind[path], 0)
        of_type = jnp.where(inside, type_of[path], -1)
        before = jnp.pad(kinds, ((0, 0), (1, 0)))[:, :-1]
        type_before = jnp.pad(of_type, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        opens = (kinds == 1) | (kinds == 4) | (before == 0) | (before >= 3)
        begins = (kinds != 0) & (opens | (type_before != of_type))
        # A span goes on until the next word that begins one or is O.
        stops = jnp.pad(begins | (kinds == 0), ((0, 0), (0, 1)), constant_values=True)[:, 1:]
        steps = jnp.arange(path.shape[1])[None]
        ends = jax.lax.cummin(jnp.where(stops, steps, path.shape[1]), axis=1, reverse=True)
        return begins, of_type, ends

    begins, of_type, ends = spans(labels)
    found, found_type, found_ends = spans(predicted)
    right = begins & found & (of_type == found_type) & (ends == found_ends)
    each = jnp.arange(len(types))[None, None]
    is_type, is_found_type = of_type[..., None] == each, found_type[..., None] == each
    counted = jnp.stack(
        [
            right[..., None] & is_type,
            begins[..., None] & is_type,
            found[..., None] & is_found_type,
        ],
        axis=-1,
    )
    return counted.sum(axis=1)


def span_metrics(counts: Mapping[str, Counts]) -> dict[str, float]:
    """Precision, recall and F1 of all spans ("span_f1"), and of each type ("span_f1[PER]")."""
    together = np.sum(list(counts.values()), axis=0)
    found = {f"span_{name}": value for name, value in precision_recall_f1(together).items()}
    for label, count in counts.items():
        found |= {f"span_{n}[{label}]": value for n, value in precision_recall_f1(count).items()}
    return found
