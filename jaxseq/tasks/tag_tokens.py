"""Token classification: a label for every word, at its first subword."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from jaxseq.data.ragged import collate, room
from jaxseq.data.tagged_subwords import SubwordTagCoder, TaggedSubwords
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.padding import valid_steps
from jaxseq.tasks.classification_metrics import (
    by_class,
    classification_metrics,
    label_counts,
    of_classes,
    span_counts,
    span_metrics,
    span_types,
)
from jaxseq.tasks.classify import check_positions, encoder_inputs, resolve_labelled
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.lines import GROUP, grouped, numbered_groups
from jaxseq.typing import Array, Float, Key, PyTree


@runtime_checkable
class TokenClassifierConfig(Protocol):
    """What a config of a token classifier offers: BertConfig, a fork's own."""

    @property
    def context(self) -> int:
        """The most tokens that an input may have; 0: any number, or as many as the data has."""
        ...

    @property
    def num_labels(self) -> int:
        """The tags that the module tells apart; 0: as many as the data has."""
        ...

    def resolve(self, *, vocab_size: int, context: int, num_labels: int) -> Any:
        """The config completed and checked; UserError names the option."""
        ...

    def build(self, head: Literal["tagging"], deterministic: bool = True) -> Any:
        """The module, which maps tokens (B T), with types= (B T) and segments= (B T; 1 where a
        token is, 0 in padding), to logits (B T C)."""
        ...


@dataclasses.dataclass(frozen=True)
class TagTokens:
    """A batch holds what `SubwordTagCoder.pieces` makes of sentences, with a leading batch axis."""

    answer: ClassVar[str] = "tags"

    def resolve(
        self, model: TokenClassifierConfig, data: TaggedSubwords, tokenizer: SubwordTagCoder
    ) -> TokenClassifierConfig:
        """The model's config with the vocabulary, the positions and the tags filled in.

        Raises UserError for an option out of range, and, with its file and line, for a sentence
        that has more tokens than the model has positions.
        """
        return resolve_labelled(model, tokenizer, len(tokenizer.tags))

    def init(self, model: TokenClassifierConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        return model.build("tagging").init(key, jnp.zeros((1, 1), jnp.int32))["params"]

    def loss(
        self,
        model: TokenClassifierConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Cross-entropy in nats: (sum over words, their number)."""
        logits = self._logits(model, params, batch, dropout_key)
        return softmax_cross_entropy(logits, batch["tags"], _words(batch))

    def evaluator(self, model: TokenClassifierConfig, tokenizer: SubwordTagCoder) -> Evaluator:
        """(params, batch) -> of each sentence: loss, words, right ones, and counts by class.

        The classes are the types of spans where the tags mark spans (BIO, BIOES), else the tags.
        """
        tags = tokenizer.tags
        types = span_types(tags)

        @jax.jit
        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Array]:
            logits = self._logits(model, params, batch)
            inside = _words(batch)
            losses, words = jax.vmap(softmax_cross_entropy)(logits, batch["tags"], inside)
            found = logits.argmax(axis=-1)
            if types:
                counts = span_counts(found, batch["tags"], batch["words"], tags)
                named = by_class("span", counts, types)
            else:
                counts = label_counts(found, batch["tags"], inside, len(tags))
                named = by_class("tag", counts, tags)
            right = ((found == batch["tags"]) & inside).sum(axis=1)
            return {"loss": losses, "words": words, "right": right} | named

        return contributions

    def metrics(self, totals: dict[str, Any]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = nats per word; accuracy = the share of words with the right tag; then those of
        `span_metrics` where the tags mark spans, else those of `classification_metrics`.
        """
        found = {
            "loss": totals["loss"] / totals["words"],
            "accuracy": totals["right"] / totals["words"],
        }
        spans, tags = of_classes("span", totals), of_classes("tag", totals)
        found |= span_metrics(spans) if spans else classification_metrics(tags)
        return found | {"words": int(totals["words"])}

    def predict(
        self,
        model: TokenClassifierConfig,
        params: PyTree,
        tokenizer: SubwordTagCoder,
        lines: Iterable[str],
    ) -> Iterator[dict[str, Any]]:
        """{"words": [...], "tags": [...]} for each line; words are what stands between spaces.

        Raises UserError naming the line for one with more tokens than the model has positions
        (where training had --data.max-length, a longer one is read in pieces).
        """
        best = jax.jit(lambda params, batch: self._logits(model, params, batch).argmax(axis=-1))

        def pieces(group: list[tuple[int, str]]) -> Iterator[tuple[list[str], int, Any]]:
            for number, line in group:
                words = line.split()
                for piece in tokenizer.pieces(words):
                    check_positions(
                        model, int(piece.example["lengths"]), f"line {number} of the input"
                    )
                    yield words, piece.stop, piece.example

        tags: list[str] = []
        parts = (part for group in numbered_groups(lines) for part in grouped(pieces(group)))
        for part in parts:
            examples = [example for _, _, example in part]
            found = jax.device_get(best(params, collate(examples, GROUP, room(examples))))
            for (words, stop, example), row in zip(part, found, strict=False):
                tags += [tokenizer.tags[tag] for tag in row[: example["words"]]]
                if stop == len(words):
                    yield {"words": words, "tags": tags}
                    tags = []

    def show(
        self,
        model: TokenClassifierConfig,
        params: PyTree,
        tokenizer: SubwordTagCoder,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints each sentence with its tags; `folder` gets nothing."""
        for answer in self.predict(model, params, tokenizer, inputs):
            pairs = zip(answer["words"], answer["tags"], strict=True)
            print(" ".join(f"{word}/{tag}" for word, tag in pairs))

    def _logits(
        self,
        model: TokenClassifierConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B W C"]:
        """Logits of each word's tag: those of its first subword."""
        logits = model.build("tagging", deterministic=dropout_key is None).apply(
            {"params": params},
            **encoder_inputs(model.context, batch),
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        assert isinstance(logits, Array)  # apply is typed for modules that return anything
        return jnp.take_along_axis(logits, batch["firsts"][..., None], axis=1)


def _words(batch: dict[str, Array]) -> Array:
    return valid_steps(batch["words"], batch["tags"].shape[1])
