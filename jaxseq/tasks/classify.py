"""Classification: a label for every text, or for every pair of texts."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxseq.data.batches import Batch
from jaxseq.data.code_points import text_of
from jaxseq.data.labelled import ClassCoder, LabelledBatches
from jaxseq.data.ragged import collate, room, room_for
from jaxseq.errors import UserError
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.padding import valid_steps
from jaxseq.option_checks import check_range
from jaxseq.tasks.classification_metrics import (
    by_class,
    classification_metrics,
    confusion_counts,
    confusion_details,
    label_counts,
    of_classes,
)
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.lines import GROUP, numbered_groups
from jaxseq.typing import Array, Float, Key, PyTree

MOST_LABELS = 64
"""Labels up to which it is counted which are taken for which: a number for each pair and text."""


@runtime_checkable
class ClassifierConfig(Protocol):
    """What a config of a classifier offers: BertConfig, a fork's own."""

    @property
    def context(self) -> int:
        """The most tokens that an input may have; 0: any number, or as many as the data has."""
        ...

    @property
    def num_labels(self) -> int:
        """The labels that the module tells apart; 0: as many as the data has."""
        ...

    def resolve(self, *, vocab_size: int, context: int, num_labels: int) -> Any:
        """The config completed and checked; UserError names the option."""
        ...

    def build(self, head: Literal["classification"], deterministic: bool = True) -> Any:
        """The module, which maps tokens (B T), with types= (B T) and segments= (B T; 1 where a
        token is, 0 in padding), to logits (B C)."""
        ...


@dataclasses.dataclass(frozen=True)
class Classify:
    """A batch holds what `ClassCoder.example` makes of a text, with a leading batch axis."""

    answer: ClassVar[str] = "label"

    label_smoothing: float = 0.0
    """The share of a label that training spreads over all labels alike (Szegedy et al. 2016)."""
    hidden_words: float = 0.0
    """Share of tokens that training replaces by number 0, a word tokenizer's unknown word and a
    subword tokenizer's padding, so that no single word decides (Iyyer et al. 2015, P15-1162)."""

    def resolve(
        self, model: ClassifierConfig, data: LabelledBatches, tokenizer: ClassCoder
    ) -> ClassifierConfig:
        """The model's config with the vocabulary, the positions and the labels filled in.

        Raises UserError for an option out of range, and, with its file and line, for an input
        that has more tokens than the model has positions.
        """
        check_range("task", self, "label_smoothing", "hidden_words", least=0, below=1)
        return resolve_labelled(model, tokenizer, len(tokenizer.labels))

    def init(self, model: ClassifierConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        return model.build("classification").init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def loss(
        self,
        model: ClassifierConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Cross-entropy in nats: (sum over texts, their number).

        Of smoothed labels where `label_smoothing` says so, which evaluation leaves away.
        """
        if self.hidden_words and dropout_key is not None:
            dropout_key, key = jax.random.split(dropout_key)
            hidden = jax.random.bernoulli(key, self.hidden_words, batch["tokens"].shape)
            batch = batch | {"tokens": jnp.where(hidden, 0, batch["tokens"])}
        logits = self._logits(model, params, batch, dropout_key)
        some = batch["lengths"] > 0
        return softmax_cross_entropy(logits, batch["labels"], some, self.label_smoothing)

    def evaluator(self, model: ClassifierConfig, tokenizer: ClassCoder) -> Evaluator:
        """(params, batch) -> of each text: loss, and counts of its label and the predicted one.

        "confusion" has them by (label, predicted), where labels are few enough to be looked at.
        """

        @jax.jit
        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Array]:
            logits = self._logits(model, params, batch)
            some = batch["lengths"] > 0
            losses, examples = jax.vmap(softmax_cross_entropy)(logits, batch["labels"], some)
            predicted = logits.argmax(axis=-1)
            counts = label_counts(
                predicted[:, None], batch["labels"][:, None], some[:, None], len(tokenizer.labels)
            )
            found = {"loss": losses, "examples": examples}
            found |= by_class("label", counts, tokenizer.labels)
            if len(tokenizer.labels) <= MOST_LABELS:
                found["confusion"] = confusion_counts(
                    predicted, batch["labels"], some, len(tokenizer.labels)
                )
            return found

        return contributions

    def metrics(self, totals: dict[str, Any]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = nats per text; the others are those of `classification_metrics`.
        """
        return {
            "loss": totals["loss"] / totals["examples"],
            **classification_metrics(of_classes("label", totals)),
            "examples": int(totals["examples"]),
        }

    def details(self, totals: dict[str, Any], tokenizer: ClassCoder) -> dict[str, Any]:
        """{"confusion": {"labels", "counts"}}: which labels were taken for which."""
        return confusion_details(totals, tokenizer.labels)

    def predict(
        self,
        model: ClassifierConfig,
        params: PyTree,
        tokenizer: ClassCoder,
        lines: Iterable[str],
    ) -> Iterator[dict[str, Any]]:
        """{"text", "label", "probabilities": {label: probability}} for each line.

        A pair is a line TEXT TAB TEXT. Raises UserError naming the line for one that is no pair
        where pairs are asked for, and for one with more tokens than the model has positions (the
        data's --data.max-length, which cut in training, cuts here too).
        """
        probabilities = self._probabilities(model)
        for group in numbered_groups(lines):
            examples = []
            for number, line in group:
                place = f"line {number} of the input"
                texts = line.split("\t") if tokenizer.pairs else [line]
                if len(texts) != 1 + tokenizer.pairs:
                    raise UserError(f"{place}: {line!r} is not TEXT TAB TEXT; mend the line")
                examples.append(tokenizer.example(texts))
                check_positions(model, int(examples[-1]["lengths"]), place)
            found = jax.device_get(probabilities(params, collate(examples, GROUP, room(examples))))
            for (_, line), row in zip(group, found, strict=False):
                shares = dict(zip(tokenizer.labels, map(float, row), strict=True))
                label = max(shares, key=lambda label: shares[label])
                rounded = {name: round(share, 6) for name, share in shares.items()}
                yield {"text": line, "label": label, "probabilities": rounded}

    def examples(
        self,
        model: ClassifierConfig,
        params: PyTree,
        tokenizer: ClassCoder,
        batch: Batch,
        folder: Path,
    ) -> list[dict[str, Any]]:
        """Each text with its label, the model's, and how sure the model is; no file is written."""
        shares = jax.device_get(self._probabilities(model)(params, batch))
        return [
            {
                "input": text_of(batch["text"][row]),
                "output": tokenizer.labels[share.argmax()],
                "reference": tokenizer.labels[batch["labels"][row]],
                "unit": "word",
                "probability": round(float(share.max()), 4),
            }
            for row, share in enumerate(shares)
            if batch["lengths"][row]
        ]

    def show(
        self,
        model: ClassifierConfig,
        params: PyTree,
        tokenizer: ClassCoder,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints each text with its label and how sure the model is; `folder` gets nothing."""
        for answer in self.predict(model, params, tokenizer, inputs):
            share = answer["probabilities"][answer["label"]]
            print(f"{answer['label']} ({share:.0%}): {answer['text']}")

    def _probabilities(
        self, model: ClassifierConfig
    ) -> Callable[[PyTree, Any], Float[Array, "B C"]]:
        return jax.jit(
            lambda params, batch: jax.nn.softmax(
                self._logits(model, params, batch).astype(jnp.float32), axis=-1
            )
        )

    def _logits(
        self,
        model: ClassifierConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B C"]:
        logits = model.build("classification", deterministic=dropout_key is None).apply(
            {"params": params},
            **encoder_inputs(model.context, batch),
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        assert isinstance(logits, Array)  # apply is typed for modules that return anything
        return logits


def encoder_inputs(context: int, batch: dict[str, Array]) -> dict[str, Array]:
    """tokens, types and segments (1 where a token is) of a batch of unpacked inputs.

    Padding beyond the model's `context` positions (0: any number) is left away: no input that was
    checked reaches so far.
    """
    tokens, types = (batch[name][:, : context or None] for name in ("tokens", "types"))
    segments = valid_steps(batch["lengths"], tokens.shape[1]).astype(jnp.int32)
    return {"tokens": tokens, "types": types, "segments": segments}


def check_positions(model: Any, length: int, place: str) -> None:
    """Raises UserError naming `place` for an input of more tokens than the model has positions."""
    if 0 < model.context < length:
        raise UserError(
            f"{place}: {length} tokens, but the model has {model.context} positions; shorten it, "
            f"or train with --data.max-length {model.context}, which cuts"
        )


def resolve_labelled(model: Any, coder: Any, num_labels: int) -> Any:
    """The config of a model of labels, completed by what the coder has seen of the data.

    Raises UserError for an option out of range, for another number of labels than the data's, and,
    with its file and line, for an input that has more tokens than the model has positions.
    """
    check_positions(model, coder.longest, coder.longest_at)
    resolved = model.resolve(
        vocab_size=coder.tokenizer.vocab_size,
        context=model.context or coder.max_length or room_for(coder.longest),
        num_labels=num_labels,
    )
    if resolved.num_labels != num_labels:
        raise UserError(
            f"--model.num-labels is {resolved.num_labels}, but the data has {num_labels}; leave "
            "it at 0 to follow the data"
        )
    return resolved
