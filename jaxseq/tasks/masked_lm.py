"""Masked language modelling: predict the tokens that were hidden, and whether B follows A."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data.masked_text import MaskedText
from jaxseq.data.ragged import collate, room
from jaxseq.data.subwords import ROLE_TOKENS, SubwordTokenizer
from jaxseq.errors import UserError
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.option_checks import check_range
from jaxseq.tasks.contract import Evaluator
from jaxseq.tasks.lines import GROUP, numbered_groups
from jaxseq.typing import Array, Float, Int, Key, PyTree

_MASK = re.compile(r"[ \t]*(?:" + "|".join(map(re.escape, ROLE_TOKENS["mask"])) + ")")
_EVERY = 7
"""`show` hides one word in so many."""


@runtime_checkable
class PretrainingConfig(Protocol):
    """What a config of a pretraining model offers: BertConfig, a fork's own."""

    @property
    def context(self) -> int:
        """The most tokens that an input may have; 0: as many as the data has."""
        ...

    def resolve(self, *, vocab_size: int, context: int) -> Any:
        """The config completed and checked; UserError names the option."""
        ...

    def build(self, head: Literal["pretraining"], deterministic: bool = True) -> Any:
        """The module, which maps tokens (B T), masked_positions= (B M), types=, segments= (B T)
        and perhaps positions= (B T) to logits (B M V) of tokens and (B 2) of what follows what."""
        ...


@dataclasses.dataclass(frozen=True)
class MaskedLM:
    """A batch holds what `data.masked_text.MaskedBatches` gives."""

    likeliest: int = 5
    """Tokens that `jaxseq predict` gives for each [MASK]."""

    def resolve(
        self, model: PretrainingConfig, data: MaskedText, tokenizer: SubwordTokenizer
    ) -> PretrainingConfig:
        """The model's config with the vocabulary and the context of the data filled in.

        Raises UserError for an option out of range.
        """
        check_range("task", self, "likeliest", least=1, most=tokenizer.vocab_size)
        return model.resolve(vocab_size=tokenizer.vocab_size, context=data.context)

    def init(self, model: PretrainingConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        one = jnp.zeros((1, 1), jnp.int32)
        return model.build("pretraining").init(key, one, masked_positions=one)["params"]

    def loss(
        self,
        model: PretrainingConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """(sum over masked tokens, their number), in nats; with row i's masked tokens m_i,

            sum    = sum_i  [ sum over masked t of  -log p(token_t)  -  m_i log p(does B follow) ]
            weight = sum_i  m_i

        so that every masked token carries the next-sentence loss of its row along. Both are sums
        over rows: micro-batches and devices add up to the one batch. Where all rows have as many
        masked tokens, sum / weight is the sum of the two means that BERT minimises (Devlin et al.
        2018, arXiv:1810.04805, A.2); else a row's say in the second mean grows with its length.
        Without next-sentence pairs the second term is absent.
        """
        found = self._contributions(model, params, batch, dropout_key)
        return found["loss"].sum(), found["tokens"].sum()

    def evaluator(self, model: PretrainingConfig, tokenizer: SubwordTokenizer) -> Evaluator:
        """(params, batch) -> of each row: losses, masked tokens, how much of both was right."""

        @jax.jit
        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Array]:
            return self._contributions(model, params, batch)

        return contributions

    def metrics(self, totals: dict[str, Any]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = what is minimised; masked_accuracy and perplexity = exp(nats per token), of the
        masked tokens; next_sentence_accuracy of pairs (half are right by chance).
        """
        tokens = totals["tokens"]
        found = {
            "loss": totals["loss"] / tokens,
            "perplexity": math.exp(min(totals["masked_loss"] / tokens, 700.0)),
            "masked_accuracy": totals["right"] / tokens,
        }
        if "pairs_right" in totals:
            found["next_sentence_accuracy"] = totals["pairs_right"] / totals["rows"]
        return found | {"masked_tokens": int(tokens), "rows": int(totals["rows"])}

    def predict(
        self,
        model: PretrainingConfig,
        params: PyTree,
        tokenizer: SubwordTokenizer,
        lines: Iterable[str],
    ) -> Iterator[dict[str, Any]]:
        """{"text", "masks"} for each line: the likeliest tokens for each [MASK] in it, best first.

        A mask is [{"token", "probability"}, ...], one entry for each of `likeliest`. Raises
        UserError for a line that has more tokens than the model has positions.
        """

        @jax.jit
        def best(params: PyTree, batch: dict[str, Array]) -> tuple[Array, Array]:
            logits, _ = self._logits(model, params, batch)
            # Behind the tokenizer's last token, rows of a padded table stand for nothing.
            logits = logits[..., : tokenizer.vocab_size]
            odds, tokens = jax.lax.top_k(jax.nn.softmax(logits), self.likeliest)
            return odds, tokens

        for group in numbered_groups(lines):
            examples = [_example(line, tokenizer, model.context, number) for number, line in group]
            batch = collate(examples, GROUP, room(examples))
            found = jax.device_get(best(params, batch))
            for (_, line), example, *row in zip(group, examples, *found, strict=False):
                masks = len(example["masked_positions"])
                yield {
                    "text": line,
                    "masks": [
                        [
                            {
                                "token": tokenizer.decode([token]).strip(),
                                "probability": float(f"{p:.4g}"),
                            }
                            for p, token in zip(odds.tolist(), tokens.tolist(), strict=True)
                        ]
                        for odds, tokens, _ in zip(*row, range(masks), strict=False)
                    ],
                }

    def show(
        self,
        model: PretrainingConfig,
        params: PyTree,
        tokenizer: SubwordTokenizer,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints each sentence with every seventh word hidden and filled in; `folder` stays empty.

        [was -> is] where the model finds another word.
        """
        hidden = []
        for text in inputs:
            words = text.split()[: model.context // 4]  # as good as certain to find room
            places = range(len(words) // 2 % _EVERY, len(words), _EVERY)
            hidden.append((words, [i for i in places if len(tokenizer.encode(words[i])) == 1]))
        lines = [
            " ".join("[MASK]" if i in places else word for i, word in enumerate(words))
            for words, places in hidden
        ]
        answers = self.predict(model, params, tokenizer, lines)
        for (words, places), answer in zip(hidden, answers, strict=True):
            for place, mask in zip(places, answer["masks"], strict=True):
                found = mask[0]["token"]
                same = found.lower() == words[place].lower()
                words[place] = f"[{found}]" if same else f"[{words[place]} -> {found}]"
            print(" ".join(words))

    def _contributions(
        self,
        model: PretrainingConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> dict[str, Float[Array, "B"]]:
        logits, next_logits = self._logits(model, params, batch, dropout_key)
        targets = batch["masked_targets"]
        masked = jnp.arange(targets.shape[1])[None] < batch["masked_count"][:, None]
        losses, tokens = jax.vmap(softmax_cross_entropy)(logits, targets, masked)
        some = batch["segments"][:, 0] > 0
        right = (logits.argmax(axis=-1) == targets) & masked
        found = {
            "loss": losses,
            "masked_loss": losses,
            "tokens": tokens,
            "right": right.sum(axis=1).astype(losses.dtype),
            "rows": some.astype(losses.dtype),
        }
        if "next_sentence" in batch:
            label = batch["next_sentence"]
            next_losses, _ = jax.vmap(softmax_cross_entropy)(next_logits, label, some)
            found["loss"] = losses + tokens * next_losses
            right = (next_logits.argmax(axis=-1) == label) & some
            found["pairs_right"] = right.astype(losses.dtype)
        return found

    def _logits(
        self,
        model: PretrainingConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B M V"], Float[Array, "B 2"]]:
        module = model.build("pretraining", deterministic=dropout_key is None)
        names = ("types", "segments", "positions", "masked_positions")
        return module.apply(
            {"params": params},
            batch["tokens"],
            **{name: batch[name] for name in names if name in batch},
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )


def _example(
    line: str, tokenizer: SubwordTokenizer, context: int, number: int
) -> dict[str, Int[np.ndarray, "..."]]:
    """[CLS] line [SEP] and the places of its masks; UserError where it is too long."""
    start, stop, mask = (tokenizer.special(role) for role in ("classify", "separate", "mask"))
    # A special token is never found in a text, and the space before a word is the word's.
    parts = [tokenizer.encode(part) for part in _MASK.split(line)]
    lengths = [len(part) for part in parts]
    tokens = np.concatenate([[start], *(x for part in parts for x in (part, [mask]))])
    tokens[-1] = stop
    if len(tokens) > context:
        raise UserError(
            f"line {number} has {len(tokens)} tokens with [CLS] and [SEP], more than the model's "
            f"{context} positions; shorten it"
        )
    return {
        "tokens": tokens.astype(np.int32),
        "segments": np.ones(len(tokens), np.int32),
        "masked_positions": (np.cumsum(lengths) + np.arange(len(parts)) + 1)[:-1].astype(np.int32),
    }
