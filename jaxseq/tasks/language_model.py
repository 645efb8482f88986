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
from jaxseq.tasks.contract import Evaluator
from jaxseq.typing import Array, Float, Key, PyTree


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


class _Stopped(Exception):
    """Enough was written."""


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A batch holds `inputs`, `targets` (the tokens after them) and `mask` (targets that count).

    Packed batches hold `segments` and `positions` too.
    """

    def resolve(
        self, model: LanguageModelConfig, data: TextData, tokenizer: Tokenizer
    ) -> LanguageModelConfig:
        """The model's config with the vocabulary and the context of the data filled in.

        Raises UserError for an option out of range, and for packed documents where the model
        cannot keep them apart.
        """
        if data.separate_documents and not model.separates_documents:
            raise UserError(
                f"{type(model).__name__} carries its state from one packed document into the "
                "next; drop --data.separate-documents, or train a GPT"
            )
        return model.resolve(vocab_size=tokenizer.vocab_size, context=data.context)

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
        each times that number: what they add to the mean does not depend on it.
        """
        logits, balance = self._forward(model, params, batch, dropout_key)
        loss, count = softmax_cross_entropy(logits, batch["targets"], batch["mask"])
        return loss + count * balance, count

    def evaluator(self, model: LanguageModelConfig, tokenizer: Tokenizer) -> Evaluator:
        """(params, batch) -> of each window: loss, tokens, and bytes of text that they spell."""
        byte_lengths = jnp.asarray(tokenizer.byte_lengths)

        @jax.jit
        def contributions(params: PyTree, batch: dict[str, Array]) -> dict[str, Array]:
            logits, _ = self._forward(model, params, batch)
            each_window = jax.vmap(softmax_cross_entropy)
            loss, tokens = each_window(logits, batch["targets"], batch["mask"])
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
    ) -> tuple[Float[Array, "B T V"], Float[Array, ""]]:
        """The logits, and the sum of what the layers want to have added to the mean loss."""
        module = model.build(deterministic=dropout_key is None)
        logits, sown = module.apply(
            {"params": params},
            batch["inputs"],
            **{name: batch[name] for name in ("positions", "segments") if name in batch},
            rngs=None if dropout_key is None else {"dropout": dropout_key},
            mutable=["losses"],
        )
        assert isinstance(logits, Array)  # apply is typed for modules that return anything
        return logits, sum((x.sum() for x in jax.tree.leaves(sown)), jnp.zeros((), logits.dtype))
