"""Language modelling: predict the next token."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.data.corpus import TextData
from jaxseq.data.subwords import SubwordTokenizer
from jaxseq.data.tokenizers import Tokenizer
from jaxseq.decoding.generate import generate
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.decoding.stop_strings import StopStrings
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPTConfig, cut_vocabulary
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.ops.vocabulary_loss import (
    OutputMap,
    linear_cross_entropy,
    linear_cross_entropy_by_row,
)
from jaxseq.option_checks import check_range
from jaxseq.tasks.contract import Evaluator
from jaxseq.typing import Array, Float, Int, Key, PyTree


@runtime_checkable
class LanguageModelConfig(Protocol):
    """What a config of a language model offers: GPTConfig, RNNLMConfig, a fork's own."""

    separates_documents: ClassVar[bool]
    """The module takes `segments` and `positions`, and keeps packed documents apart."""

    def resolve(self, *, vocab_size: int, context: int) -> Any:
        """The config completed and checked; UserError names the option."""
        ...

    def build(self, deterministic: bool = True) -> Any:
        """The module, which maps tokens (B T) to logits (B T V)."""
        ...


@runtime_checkable
class InChunks(Protocol):
    """What a module offers so that its loss is computed a chunk of positions at a time."""

    def hidden(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """What the logits are made of; takes what the module takes."""
        ...

    def output_map(self) -> OutputMap:
        """What makes logits of `hidden`."""
        ...


class _Stopped(Exception):
    """Enough was written."""


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A batch holds `inputs`, `targets` (the tokens after them) and `mask` (targets that count).

    Packed batches hold `segments` and `positions` too.
    """

    loss_chunk: int = 0
    """Positions of each row that have logits at a time, on a device, in training and evaluation;
    0: all at once."""

    def resolve(
        self, model: LanguageModelConfig, data: TextData, tokenizer: Tokenizer
    ) -> LanguageModelConfig:
        """The model's config with the vocabulary and the context of the data filled in.

        Raises UserError for an option out of range, for packed documents where the model cannot
        keep them apart, and for a loss in chunks where it does not say what makes its logits.
        """
        check_range("task", self, "loss_chunk", least=0)
        if data.separate_documents and not model.separates_documents:
            raise UserError(
                f"{type(model).__name__} carries its state from one packed document into the "
                "next; drop --data.separate-documents, or train a GPT"
            )
        resolved = model.resolve(vocab_size=tokenizer.vocab_size, context=data.context)
        if self.loss_chunk and not isinstance(resolved.build(), InChunks):
            raise UserError(
                f"--task.loss-chunk needs a model whose logits can be made in parts; the module of "
                f"{type(model).__name__} has no hidden() and output_map(): drop the option"
            )
        return resolved

    def init(self, model: LanguageModelConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        return model.build().init(key, tokens)["params"]

    def loss(
        self,
        model: LanguageModelConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Cross-entropy in nats: (sum over targets that count, their number).

        Dropout is on where `dropout_key` is given. Layers with experts add their balance losses,
        which are sums over tokens too.
        """
        found, balance = self._forward(model, params, batch, dropout_key)
        where = batch["targets"], batch["mask"]
        if self.loss_chunk:
            loss, count = linear_cross_entropy(*found, *where, chunk=self.loss_chunk)
        else:
            loss, count = softmax_cross_entropy(found, *where)
        return loss + balance, count

    def evaluator(self, model: LanguageModelConfig, tokenizer: Tokenizer) -> Evaluator:
        """(params, batch) -> of each window: loss, tokens, and bytes of text that they spell."""
        byte_lengths = jnp.asarray(tokenizer.byte_lengths)

        @jax.jit
        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Array]:
            found, _ = self._forward(model, params, batch)
            where = batch["targets"], batch["mask"]
            if self.loss_chunk:
                loss, tokens = linear_cross_entropy_by_row(*found, *where, chunk=self.loss_chunk)
            else:
                loss, tokens = jax.vmap(softmax_cross_entropy)(found, *where)
            spelt = jnp.where(batch["mask"], byte_lengths[batch["targets"]], 0)
            return {"loss": loss, "tokens": tokens, "bytes": spelt.sum(axis=1)}

        return contributions

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """What the evaluator's contributions, summed over a whole split, say.

        loss = nats per token, perplexity = exp(loss), bits per byte = nats / (ln 2 x bytes of
        the text that the counted targets spell), the last comparable across tokenizers.
        """
        loss = totals["loss"] / totals["tokens"]
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": totals["loss"] / math.log(2) / totals["bytes"],
            "tokens": int(totals["tokens"]),
        }

    def write(
        self,
        model: LanguageModelConfig,
        params: PyTree,
        tokenizer: Tokenizer,
        prompt: str,
        max_new_tokens: int,
        sampling: SamplingConfig,
        seed: int,
        to: Callable[[str], None],
        stop: tuple[str, ...] = (),
    ) -> None:
        """Gives the prompt and then each piece of new text to `to`, as it comes.

        The text ends before the first string of `stop`, and where the model writes the token that
        ends a document. Raises UserError for a prompt with characters that the tokenizer does not
        know, an empty string to stop at, and those of `decoding.generate`.
        """
        unknown = tokenizer.unknown(prompt)
        if unknown:
            raise UserError(
                f"--prompt has what the model never saw: {', '.join(map(repr, unknown))}"
            )
        decoder, text = tokenizer.stream_decoder(), StopStrings(stop)
        lead = iter([prompt])  # shown with the first token, when nothing can be wrong any more
        end_token, tokens = None, tokenizer.encode(prompt)
        if isinstance(tokenizer, SubwordTokenizer):
            tokens = np.concatenate([tokenizer.before_text, tokens])
            end_token = tokenizer.special("end") if tokenizer.has("end") else None
        if isinstance(model, GPTConfig) and tokenizer.vocab_size < model.vocab_size:
            model, params = cut_vocabulary(model, params, tokenizer.vocab_size)

        def receive(tokens: np.ndarray) -> None:
            to(next(lead, "") + text.feed(decoder.decode(tokens)))
            if text.stopped:
                raise _Stopped

        with contextlib.suppress(_Stopped):
            generate(
                model.build(),
                params,
                jnp.asarray(tokens)[None],
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                key=jax.random.key(seed),
                end_token=end_token,
                on_tokens=receive,
            )
        to(text.feed(decoder.decode([], final=True), final=True))

    def show(
        self,
        model: LanguageModelConfig,
        params: PyTree,
        tokenizer: Tokenizer,
        inputs: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Prints 300 tokens behind each input; `folder` gets nothing."""
        for prompt in inputs:
            to = partial(print, end="", flush=True)
            self.write(model, params, tokenizer, prompt, 300, SamplingConfig(), 0, to)
            print()

    def _forward(
        self,
        model: LanguageModelConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Any, Float[Array, ""]]:
        """The logits, and the sum of what the layers want to have added to the loss.

        With `loss_chunk`, in place of the logits what they are made of: (hidden states, map).
        """
        module = model.build(deterministic=dropout_key is None)
        found, sown = module.apply(
            {"params": params},
            batch["inputs"],
            **{name: batch[name] for name in ("positions", "segments") if name in batch},
            rngs=None if dropout_key is None else {"dropout": dropout_key},
            mutable=["losses"],
            method=_hidden_and_map if self.loss_chunk else None,
        )
        dtype = jax.tree.leaves(found)[0].dtype
        return found, sum((x.sum() for x in jax.tree.leaves(sown)), jnp.zeros((), dtype))


def _hidden_and_map(
    module: InChunks, tokens: Int[Array, "B T"], **where: Array
) -> tuple[Array, OutputMap]:
    return module.hidden(tokens, **where), module.output_map()
