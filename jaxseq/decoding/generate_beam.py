"""Beam search for the likeliest texts that a GPT writes behind a prompt."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.decoding.beam import beam_search, repeat_rows
from jaxseq.decoding.cache import layer_by_layer, left_padded, read_ahead
from jaxseq.decoding.generate import cut_prompt
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int, PyTree


def beam_generate(
    model: GPT,
    params: PyTree,
    prompt: Int[Array, "B P"],
    *,
    max_new_tokens: int,
    beam_size: int,
    end_token: int,
    prompt_lengths: Int[Array, "B"] | None = None,
    length_penalty: float = 0.0,
    early_stopping: bool = False,
    num_return: int = 1,
) -> tuple[Int[Array, "B R L"], Int[Array, "B R"], Float[Array, "B R"]]:
    """The `num_return` (R) best continuations of each prompt: (tokens, lengths, scores).

    Best first, as `decoding.beam.beam_search` finds and scores them; the prompt is given and its
    probability does not count. Row b's prompt is its first `prompt_lengths[b]` tokens (all P). L is
    `max_new_tokens`; `lengths` counts tokens before the end token, and behind them stands
    `end_token`. With a beam as wide as the number of all continuations the search is exhaustive.

    `params` is the "params" collection. Each new shape compiles anew. Raises UserError when a
    prompt is empty or when it and the new tokens do not fit the context together; ValueError
    naming the argument that is out of range.
    """
    prompt, prompt_lengths = cut_prompt(prompt, prompt_lengths)
    if not 1 <= num_return <= beam_size:
        raise ValueError(f"num_return is {num_return}; it must be from 1 to beam_size, {beam_size}")
    check_fits(model, prompt.shape[1], max_new_tokens)
    found = _search(
        model,
        max_new_tokens,
        beam_size,
        end_token,
        length_penalty,
        early_stopping,
        params,
        prompt,
        prompt_lengths,
    )
    tokens, lengths, scores = found
    return tokens[:, :num_return], lengths[:, :num_return], scores[:, :num_return]


def check_fits(model: GPT, prompt_length: int, max_new_tokens: int) -> None:
    """UserError when a text does not fit the context to its end, its last token not counted."""
    context = model.config.context
    over = prompt_length + max_new_tokens - 1 - context
    if over > 0:
        raise UserError(
            f"a prompt of {prompt_length} tokens and {max_new_tokens} new ones do not fit the "
            f"model's context of {context}; take --max-new-tokens down by {over}"
        )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _search(
    model,
    max_new_tokens,
    beam_size,
    end_token,
    length_penalty,
    early_stopping,
    params,
    prompt,
    prompt_lengths,
):
    batch, length = prompt.shape
    params = nn.meta.unbox(params)
    first = None
    if prompt_lengths is not None:
        prompt, first = left_padded(prompt, prompt_lengths)
    slots = length + max_new_tokens - 1
    caches = read_ahead(model, params, prompt[:, :-1], slots, first)
    caches = repeat_rows(caches, beam_size)
    model, params = layer_by_layer(model, params)
    first = None if first is None else jnp.repeat(first, beam_size)

    def step(tokens, carry):
        at, caches = carry
        logits, caches = model.apply(
            {"params": params}, tokens[:, None], caches, at, first, method="decode"
        )
        logits = logits[:, 0].astype(accumulator(logits.dtype))
        return jax.nn.log_softmax(logits), (at + 1, caches)

    def reorder(carry, rows):
        # The prompt is the same in all hypotheses of a row: only what is new changes places.
        at, caches = carry

        def take(cache):
            new = jnp.take(cache[:, length - 1 :], rows, axis=0, mode="clip")
            return lax.dynamic_update_slice(cache, new, (0, length - 1, 0, 0))

        return at, jax.tree.map(take, caches)

    return beam_search(
        step,
        (jnp.int32(length - 1), caches),
        batch_size=batch,
        beam_size=beam_size,
        max_length=max_new_tokens,
        start_token=prompt[:, -1],
        end_token=end_token,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        reorder=reorder,
    )
