"""What a batch of texts being written must remember from one draw to the next."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from jaxseq.decoding.sampling import SamplingConfig, sample_token
from jaxseq.typing import Array, Bool, Float, Int, Key


class Progress(NamedTuple):
    """Which rows have ended, and which tokens stand in each; None where nothing depends on it."""

    ended: Bool[Array, "B"] | None
    seen: Bool[Array, "B V"] | None

    def draw(
        self,
        key: Key[Array, ""],
        logits: Float[Array, "B V"],
        sampling: SamplingConfig,
        end_token: int | None,
    ) -> tuple[Int[Array, "B"], "Progress"]:
        """The next token of each row, `end_token` where it has ended, and the progress with it."""
        ended, seen = self
        tokens = sample_token(key, logits, seen, **dataclasses.asdict(sampling))
        if ended is not None and end_token is not None:
            tokens = jnp.where(ended, end_token, tokens)
            ended = ended | (tokens == end_token)
        if seen is not None:
            seen = seen.at[jnp.arange(tokens.size), tokens].set(True)
        return tokens, Progress(ended, seen)

    def goes_on(self) -> Bool[Array, ""]:
        """Some row has not ended."""
        return jnp.bool_(True) if self.ended is None else ~jnp.all(self.ended)


def start_progress(
    prompt: Int[Array, "B P"],
    valid: Bool[Array, "B P"] | None,
    vocab_size: int,
    sampling: SamplingConfig,
    end_token: int | None,
) -> Progress:
    """Before the first draw behind `prompt`, of which `valid` tokens count (all)."""
    batch, ended, seen = prompt.shape[0], None, None
    if end_token is not None:
        ended = jnp.zeros(batch, jnp.bool_)
    if sampling.repetition_penalty != 1.0:
        # What does not count is written outside of the table, that is, nowhere.
        tokens = prompt if valid is None else jnp.where(valid, prompt, vocab_size)
        nothing = jnp.zeros((batch, vocab_size), jnp.bool_)
        seen = nothing.at[jnp.arange(batch)[:, None], tokens].set(True, mode="drop")
    return Progress(ended, seen)
