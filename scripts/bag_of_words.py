"""What a linear model of single words reaches: the reference that a text classifier must beat."""

from collections.abc import Sequence
from typing import Any


def bag_of_words_accuracy(
    train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]
) -> float:
    """The share of `test` that a logistic regression on the words of a text gets right.

    Rows are (text, label). Words are what stands between spaces, in lower case, there or not; the
    penalty is scikit-learn's default. Needs scikit-learn.
    """
    return linear_scores(train, test)["accuracy"]


def linear_scores(
    train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]], letters: bool = False
) -> dict[str, float]:
    """{"accuracy", "f1_macro"} on `test` of the same; with `letters` of all runs of one to four
    letters of a text, its ends counted as letters, in place of words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline

    options: dict[str, Any] = {"token_pattern": r"\S+"}
    if letters:
        options = {"analyzer": "char_wb", "ngram_range": (1, 4)}
    seen = CountVectorizer(binary=True, **options)
    fitted = make_pipeline(seen, LogisticRegression(max_iter=1000)).fit(*zip(*train, strict=True))
    texts, labels = zip(*test, strict=True)
    predicted = fitted.predict(texts)
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1_macro": float(f1_score(labels, predicted, average="macro")),
    }
