"""Tagging: a label for every word of a sentence."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxseq.data.ragged import collate, room
from jaxseq.data.tagged import TaggedData, TagTokenizer
from jaxseq.models.tagger import Tagger, TaggerConfig
from jaxseq.ops.chain import Chain, log_partition, score
from jaxseq.ops.chain_paths import viterbi
from jaxseq.ops.padding import valid_steps
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.lines import GROUP, grouped
from jaxseq.typing import Array, Float, Key, PyTree


@dataclasses.dataclass(frozen=True)
class Tag:
    """A batch holds what `TagTokenizer.example` makes of a sentence, with a leading batch axis."""

    answer: ClassVar[str] = "tags"

    def resolve(self, model: TaggerConfig, data: TaggedData, tokenizer: TagTokenizer) -> Any:
        """The model's config with the sizes of the vocabularies filled in."""
        return model.resolve(
            tokenizer.tags.entries,
            num_words=len(tokenizer.words),
            num_characters=len(tokenizer.characters) + 1,
            num_features=len(tokenizer.features),
        )

    def init(self, model: TaggerConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        one = jnp.ones((1, 1), jnp.int32)
        return Tagger(model).init(key, one, one[..., None], one[..., None], one[0])["params"]

    def loss(
        self,
        model: TaggerConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Negative log-likelihood in nats: (sum over sentences, words in them).

        log p(tags | words)  = score(tags) - log sum over all paths of exp(score)
        log p(tags, words)   = score(tags)       for a hidden Markov model
        """
        losses = self._losses(model, self._chain(model, params, batch, dropout_key), batch)
        return losses.sum(), batch["lengths"].sum().astype(losses.dtype)

    def evaluator(self, model: TaggerConfig, tokenizer: TagTokenizer) -> Evaluator:
        """(params, batch) -> of each sentence: loss, words, right ones, whether all are right."""

        @jax.jit
        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Array]:
            chain = self._chain(model, params, batch)
            found, _ = viterbi(chain)
            inside = valid_steps(batch["lengths"], found.shape[1])
            right = (found == batch["tags"]) & inside
            rare = (batch["words"] == 0) & inside
            some = batch["lengths"] > 0
            return {
                "loss": self._losses(model, chain, batch),
                "words": batch["lengths"],
                "right": right.sum(axis=1),
                "rare": rare.sum(axis=1),
                "rare_right": (right & rare).sum(axis=1),
                "sentences": some,
                "sentences_right": some & (right | ~inside).all(axis=1),
            }

        return contributions

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = nats per word; accuracy over words, over words that training had too rarely to be
        in its vocabulary, and over whole sentences.
        """
        return {
            "loss": totals["loss"] / totals["words"],
            "accuracy": totals["right"] / totals["words"],
            "accuracy_on_rare_words": totals["rare_right"] / max(totals["rare"], 1),
            "sentences_all_right": totals["sentences_right"] / totals["sentences"],
            "words": int(totals["words"]),
        }

    def predict(
        self, model: TaggerConfig, params: PyTree, tokenizer: TagTokenizer, lines: Iterable[str]
    ) -> Iterator[dict[str, Any]]:
        """{"words": [...], "tags": [...]} for each line; words are what stands between spaces."""
        best = jax.jit(lambda params, batch: viterbi(self._chain(model, params, batch))[0])
        for group in grouped(lines):
            sentences = [line.split() for line in group]
            examples = [tokenizer.example(words) for words in sentences]
            found = jax.device_get(best(params, collate(examples, GROUP, room(examples))))
            for words, tags in zip(sentences, found, strict=False):
                yield {"words": words, "tags": tokenizer.tags.decode(tags[: len(words)])}

    def show(
        self,
        model: TaggerConfig,
        params: PyTree,
        tokenizer: TagTokenizer,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints each sentence with its tags; `folder` gets nothing."""
        for answer in self.predict(model, params, tokenizer, inputs):
            pairs = zip(answer["words"], answer["tags"], strict=True)
            print(" ".join(f"{word}/{tag}" for word, tag in pairs))

    def _losses(
        self, model: TaggerConfig, chain: Chain, batch: dict[str, Array]
    ) -> Float[Array, "B"]:
        """Negative log-likelihood of each sentence in nats."""
        log_likelihood = score(chain, batch["tags"])
        if model.output != "hmm":
            log_likelihood = log_likelihood - log_partition(chain)
        return -log_likelihood

    def _chain(
        self,
        model: TaggerConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Chain:
        module = Tagger(model, deterministic=dropout_key is None)
        chain = module.apply(
            {"params": params},
            *(batch[name] for name in ("words", "characters", "features", "lengths")),
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        assert isinstance(chain, Chain)  # apply is typed for modules that return anything
        return chain
