"""What the training room asks of a task, of its model's config and of its data.

Nothing inherits from these: an experiment's parts offer the methods, and a type checker compares.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from jaxseq.typing import Array, Float, Key, PyTree

Evaluator = Callable[[PyTree, dict[str, Array]], dict[str, Any]]
"""(params, batch) -> arrays by name whose leading axis is the batch: what each example adds to the
sums that `metrics` takes. Further axes are allowed (counts by class). A filler row adds 0 to all of
them. Because examples are apart, `jaxseq evaluate` can say how sure a metric is without running
the model again."""


class Task(Protocol):
    """What a batch means."""

    def resolve(self, model: Any, data: Any, tokenizer: Any) -> Any:
        """The model's config completed by the data and checked; UserError names the option."""
        ...

    def init(self, model: Any, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        ...

    def loss(
        self, model: Any, params: PyTree, batch: dict[str, Array], dropout_key: Any = None
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(sum of losses, how many were summed); dropout is on where a key is given."""
        ...

    def evaluator(self, model: Any, tokenizer: Any) -> Evaluator:
        """The function that finds what `metrics` needs; it compiles what it wants compiled."""
        ...

    def metrics(self, totals: dict[str, Any]) -> dict[str, float]:
        """The metrics of a split from the sums over its examples, which are floats, or arrays
        where the evaluator gave more axes.

        One of them is "loss". An int is a count of what there was (words), and gets no interval.
        """
        ...

    def show(
        self, model: Any, params: PyTree, tokenizer: Any, inputs: tuple[str, ...], folder: Path
    ) -> None:
        """Prints what the trained model makes of some held-out inputs; pictures go to `folder`."""
        ...


class Predictor(Protocol):
    """A task that answers lines of text."""

    @property
    def answer(self) -> str:
        """The key of an answer's main part, which alone is printed where text is asked for."""
        ...

    def predict(
        self, model: Any, params: PyTree, tokenizer: Any, lines: Iterable[str]
    ) -> Iterator[dict[str, Any]]:
        """One JSON object a line, in order; `tasks.lines.grouped` makes batches of them."""
        ...


class Exhibitor(Protocol):
    """A task that has more to show of a held-out split than its metrics."""

    def examples(
        self, model: Any, params: PyTree, tokenizer: Any, batch: Any, folder: Path
    ) -> list[dict[str, Any]]:
        """What the model makes of the examples of an evaluation batch, filler rows left out.

        "input", "output" and "reference" are texts, the last perhaps a list of several; "unit" is
        "word" or "character", by which outputs and references are compared. "files" names what was
        written into `folder`, by kind: "attention", "alignment", "spectrogram", "audio",
        "reference_audio", "reference_spectrogram". Any other key is a figure of the example.
        """
        ...

    def details(self, totals: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
        """What the evaluator's contributions, summed over a split, say beside the metrics.

        "confusion" is {"labels": [...], "counts": one row a true label, one column a predicted
        one}; anything else that JSON can hold is shown as it is.
        """
        ...
