"""How the next token is drawn from the logits: greedy, temperature, top-k, top-p, min-p."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxseq.errors import UserError
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int, Key

MIN_TEMPERATURE = 1e-6


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn. Raises UserError naming the option that is out of range."""

    temperature: float = 0.8
    """Below 1 sharpens the distribution, above 1 flattens it; 0: always the likeliest token."""
    top_k: int = 0
    """Draw among the k likeliest tokens alone; 0: among all."""
    top_p: float = 1.0
    """Draw among the fewest tokens that together have probability p; 1: among all."""
    min_p: float = 0.0
    """Draw among the tokens that are at least p times as likely as the likeliest; 0: among all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that are already in the text less likely; 1: off."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise UserError(
                f"--temperature is {self.temperature}; it must be 0 (greedy) or a number from "
                f"{MIN_TEMPERATURE} up"
            )
        if self.top_k < 0:
            raise UserError(f"--top-k is {self.top_k}; it must be 0 (off) or at least 1")
        if not 0.0 < self.top_p <= 1.0:
            raise UserError(f"--top-p is {self.top_p}; it must be above 0 and at most 1 (off)")
        if not 0.0 <= self.min_p <= 1.0:
            raise UserError(f"--min-p is {self.min_p}; it must be from 0 (off) to 1")
        if not 0.0 < self.repetition_penalty < math.inf:
            raise UserError(
                f"--repetition-penalty is {self.repetition_penalty}; it must be a number above 0 "
                "(1: off)"
            )


def sample_token(
    key: Key[Array, ""],
    logits: Float[Array, "B V"],
    seen: Bool[Array, "B V"] | None = None,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> Int[Array, "B"]:
    """One token for each row, drawn from its `candidates`.

    Temperature 0 is argmax, the lowest number among equals, and needs no randomness. `seen` says
    which tokens are in the text already; without it there is no repetition penalty. What a row
    draws depends on its number and not on the other rows.
    """
    if seen is not None:
        logits = penalize(logits, seen, repetition_penalty)
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits, tokens = candidates(
        logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    drawn = jax.random.categorical(key, logits)
    return jnp.take_along_axis(tokens, drawn[:, None], axis=-1)[:, 0]


def penalize(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: float
) -> Float[Array, "B V"]:
    """Logits x of the `seen` tokens made less likely: x / penalty where x > 0, else x penalty.

    (Keskar et al. 2019, arXiv:1909.05858, section 4.1, in the form of transformers, which keeps a
    negative logit from becoming likelier.)
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def candidates(
    logits: Float[Array, "B V"],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> tuple[Float[Array, "B C"], Int[Array, "B C"]]:
    """The tokens that may be drawn, with their logits; -infinity where one may not.

        softmax(logits / temperature), cut to the top_k likeliest and renormalised,
        cut to the nucleus of top_p and renormalised,
        cut to what has min_p times the largest probability or more (Nguyen et al. 2024,
        arXiv:2407.01082) and renormalised

    Among equals the lower numbers are kept by top_k and top_p. Computed in float32 or wider. The
    options are Python numbers and the temperature is above 0; without top_k and top_p nothing is
    sorted, with top_k no more than k tokens are.
    """
    vocab_size = logits.shape[-1]
    logits = logits.astype(accumulator(logits.dtype))
    # Without the shift a small temperature would overflow.
    logits = (logits - logits.max(axis=-1, keepdims=True)) / temperature
    if top_k == 0 and top_p == 1.0:
        tokens = jnp.broadcast_to(jnp.arange(vocab_size, dtype=jnp.int32), logits.shape)
    else:
        logits, tokens = jax.lax.top_k(logits, min(top_k or vocab_size, vocab_size))
        if top_p < 1.0:
            logits = jnp.where(nucleus(logits, top_p), logits, -jnp.inf)
    if min_p > 0.0:
        # The largest logit is 0 here.
        logits = jnp.where(logits >= math.log(min_p), logits, -jnp.inf)
    return logits, tokens


def nucleus(logits: Float[Array, "B C"], p: float) -> Bool[Array, "B C"]:
    """The fewest of the likeliest tokens whose probability reaches p (Holtzman et al. 2019,
    arXiv:1904.09751), for logits that fall from left to right.

        token v is in it   where   sum_{u < v} softmax(logits)_u < p

    so the first always is, and among equals the ones on the left.
    """
    before = jnp.cumsum(jax.nn.softmax(logits), axis=-1)[:, :-1]
    return jnp.pad(before, ((0, 0), (1, 0))) < p
