"""Language modelling: predict the next token."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxseq.data.tokenizers import Tokenizer
from jaxseq.decoding.generate import generate
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT, GPTConfig
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.typing import Array, Float, Key, PyTree


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A batch holds `inputs`, `targets` (the tokens after them) and `mask` (targets that count).

    Packed batches hold `segments` and `positions` too.
    """

    def resolve(self, model: GPTConfig, tokenizer: Tokenizer, context: int) -> GPTConfig:
        """The model's config with the vocabulary and the context of the data filled in."""
        return model.resolve(vocab_size=tokenizer.vocab_size, context=context)

    def init(self, model: GPTConfig, key: Key[Array, ""]) -> PyTree:
        """Fresh parameters, each in a box with the names of its axes."""
        tokens = jnp.zeros((1, 1), jnp.int32)
        return GPT(model).init(key, tokens)["params"]

    def loss(
        self,
        model: GPTConfig,
        params: PyTree,
        batch: dict[str, Array],
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Cross-entropy in nats: (sum over targets that count, their number).

        Dropout is on where `dropout_key` is given.
        """
        module = GPT(model, deterministic=dropout_key is None)
        logits = module.apply(
            {"params": params},
            batch["inputs"],
            positions=batch.get("positions"),
            segments=batch.get("segments"),
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        assert isinstance(logits, Array)  # apply is typed for modules that return anything
        return softmax_cross_entropy(logits, batch["targets"], batch["mask"])

    def metrics(self, loss_sum: float, tokens: float, text_bytes: float) -> dict[str, float]:
        """What a loss summed over a whole split says.

        loss = nats per token, perplexity = exp(loss), bits per byte = nats / (ln 2 x bytes of
        the text that the counted targets spell), the last comparable across tokenizers.
        """
        loss = loss_sum / tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": loss_sum / math.log(2) / text_bytes,
            "tokens": tokens,
        }

    def write(
        self,
        model: GPTConfig,
        params: PyTree,
        tokenizer: Tokenizer,
        prompt: str,
        max_new_tokens: int,
        sampling: SamplingConfig,
        seed: int,
        show: Callable[[str], None],
    ) -> None:
        """Gives the prompt and then each piece of new text to `show`, as it comes.

        Raises UserError for a prompt with characters that the tokenizer does not know, and those
        of `decoding.generate`.
        """
        unknown = tokenizer.unknown(prompt)
        if unknown:
            raise UserError(
                f"--prompt has characters that the model never saw: {', '.join(map(repr, unknown))}"
            )
        decoder = tokenizer.stream_decoder()
        lead = iter([prompt])  # shown with the first token, when nothing can be wrong any more
        generate(
            GPT(model),
            params,
            jnp.asarray(tokenizer.encode(prompt))[None],
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            key=jax.random.key(seed),
            on_tokens=lambda tokens: show(next(lead, "") + decoder.decode(tokens)),
        )
        show(decoder.decode([], final=True))
