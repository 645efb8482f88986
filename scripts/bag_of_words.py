"""What a linear model of single words reaches: the reference that a text classifier must beat."""

from collections.abc import Sequence


def bag_of_words_accuracy(
    train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]]
) -> float:
    """The share of `test` that a logistic regression on the words of a text gets right.

    Rows are (text, label). Words are what stands between spaces, in lower case, there or not; the
    penalty is scikit-learn's default. Needs scikit-learn.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = CountVectorizer(binary=True, token_pattern=r"\S+")
    fitted = make_pipeline(words, LogisticRegression(max_iter=1000)).fit(*zip(*train, strict=True))
    return float(fitted.score(*zip(*test, strict=True)))
