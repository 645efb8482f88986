"""Text generation: prompt in, new tokens out, the whole of it in one compiled program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseq.decoding.cache import layer_by_layer, left_padded, read_ahead
from jaxseq.decoding.progress import Progress, start_progress
from jaxseq.decoding.recurrent import generate_with_carry
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.decoding.streaming import receive, send
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT
from jaxseq.nn.transformer import BlockCache
from jaxseq.typing import Array, Bool, Int, Key, PyTree


@runtime_checkable
class Carrying(Protocol):
    """A model that is read token by token: a module whose state has one size at any length."""

    def zero_carry(self, batch_size: int) -> PyTree:
        """The state before the first token."""
        ...

    def read(self, tokens: Int[Array, "B T"], carry: PyTree) -> tuple[Array, PyTree]:
        """Logits (B T V) of new tokens, and the state after them."""
        ...


def generate(
    model: GPT | Carrying,
    params: PyTree,
    prompt: Int[Array, "B P"],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig,
    key: Key[Array, ""],
    prompt_lengths: Int[Array, "B"] | None = None,
    end_token: int | None = None,
    on_tokens: Callable[[np.ndarray], None] | None = None,
) -> Int[Array, "B {max_new_tokens}"]:
    """The `max_new_tokens` tokens that the model writes behind each prompt.

    New token i is drawn with `fold_in(key, i)`. When a text outgrows the context C, the model
    goes on from the last C // 2 tokens of it, read anew at positions 0, 1, ...:

        window = prompt
        for i in range(max_new_tokens):
            if len(window) > C: window = window[-max(1, C // 2):]
            window += sample(fold_in(key, i), model(window)[-1])

    Row b's prompt is its first `prompt_lengths[b]` tokens (all P). Every row is written as it
    would be alone, with its own window; where tokens are drawn and not the likeliest taken, the
    draws of a row depend on its number in the batch and not on the other rows. Prompts of unequal
    lengths outgrow the context at different times, and each time all rows are read anew.

    A row that has written `end_token` has ended: from then on it writes nothing else. When all
    rows have, so has the work.

    `on_tokens` gets each step's tokens (an array of shape B) as soon as they are drawn, the last
    ones before this returns. It is called in the calling thread; an exception out of it, or
    Ctrl-C, stops the generation at the next token and goes on to the caller.

    A model that carries a state has no context to outgrow: its window is all of the text.

    `params` is the "params" collection. Each new prompt length or `max_new_tokens` compiles anew.
    Raises UserError when a prompt is empty or longer than the context, or `max_new_tokens` is
    below 1; ValueError for `prompt_lengths` beyond P.
    """
    prompt, prompt_lengths = cut_prompt(prompt, prompt_lengths)
    length = prompt.shape[1]
    if isinstance(model, GPT) and length > model.config.context:
        context = model.config.context
        raise UserError(
            f"the prompt is {length} tokens long and the model's context {context}; "
            f"shorten --prompt by {length - context} tokens"
        )
    if max_new_tokens < 1:
        raise UserError(f"--max-new-tokens is {max_new_tokens}; it must be at least 1")
    program: Any = generate_with_cache if isinstance(model, GPT) else generate_with_carry
    fixed = model, max_new_tokens, sampling, end_token
    arguments = params, prompt, prompt_lengths, key
    if on_tokens is None:
        return program(*fixed, *arguments, None)
    # Compiled here and not in the thread that will run it: jax.set_mesh and the like are settings
    # of this thread.
    compiled = program.lower(*fixed, *arguments, np.int32(0)).compile()
    return receive(functools.partial(compiled, *arguments), on_tokens)


def cut_prompt(
    prompt: Int[Array, "B P"], prompt_lengths: Int[Array, "B"] | None
) -> tuple[Int[Array, "B Q"], Int[Array, "B"] | None]:
    """The prompts cut to the longest; no lengths where all are equal.

    Raises UserError when one is empty, ValueError when one is longer than P.
    """
    longest = shortest = prompt.shape[1]
    if prompt_lengths is not None:
        lengths = np.asarray(prompt_lengths)
        if lengths.max(initial=0) > longest:
            raise ValueError(f"prompt_lengths has {lengths.max()}; prompt holds {longest} tokens")
        longest, shortest = lengths.max(initial=0), lengths.min(initial=longest)
    if shortest < 1:
        raise UserError("the prompt is empty; --prompt must give at least one token")
    return prompt[:, :longest], None if longest == shortest else prompt_lengths


class _State(NamedTuple):
    """Where a generation stands. The window is `text` from `start` up to `at`.

    Where prompts are of unequal length each row has its own, from `first`; `start` is the least.
    """

    at: Int[Array, ""]
    start: Int[Array, ""]
    first: Int[Array, "B"] | None
    text: Int[Array, "B L"]
    caches: tuple[BlockCache, ...]
    progress: Progress
    listening: Bool[Array, ""]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def generate_with_cache(
    model, max_new_tokens, sampling, end_token, params, prompt, prompt_lengths, key, stream
):
    """`generate` for a model with a key/value cache."""
    batch, length = prompt.shape
    context = model.config.context
    total, kept = length + max_new_tokens, max(1, context // 2)
    params = nn.meta.unbox(params)
    layered_model, layered_params = layer_by_layer(model, params)

    def read(text, start, first, columns):
        """Caches with `columns` tokens of the text from `start` in them."""
        tokens = lax.dynamic_slice(text, (0, start), (batch, columns))
        slots = min(context, total - 1)
        return read_ahead(model, params, tokens, slots, None if first is None else first - start)

    def write(state):
        """Reads the last token of the window and writes the one behind it."""
        logits, caches = layered_model.apply(
            {"params": layered_params},
            lax.dynamic_slice(state.text, (0, state.at - 1), (batch, 1)),
            state.caches,
            state.at - 1 - state.start,
            None if state.first is None else state.first - state.start,
            method="decode",
        )
        draw_key = jax.random.fold_in(key, state.at - length)
        tokens, progress = state.progress.draw(draw_key, logits[:, 0], sampling, end_token)
        column = tokens[:, None].astype(state.text.dtype)
        return state._replace(
            at=state.at + 1,
            text=lax.dynamic_update_slice(state.text, column, (0, state.at)),
            caches=caches,
            progress=progress,
            listening=state.listening if stream is None else send(stream, tokens),
        )

    def unfinished(state):
        return (state.at < total) & state.listening & state.progress.goes_on()

    def has_room(state):
        return (state.at - state.start <= context) & unfinished(state)

    def write_window(state):
        """Writes until a window has outgrown the context, and opens the next one."""
        state = lax.while_loop(has_room, write, state)
        start, first, columns = state.at - kept, None, kept - 1
        if state.first is not None:
            # Other rows stay as they are, up to the whole context long: what is read behind
            # their end will be written over before anything looks at it.
            first = jnp.where(state.at - state.first > context, start, state.first)
            start, columns = first.min(), context - 1
        caches = lax.cond(
            unfinished(state),
            lambda: read(state.text, start, first, columns),
            lambda: state.caches,
        )
        return state._replace(start=start, first=first, caches=caches)

    first = valid = None
    if prompt_lengths is not None:
        prompt, first = left_padded(prompt, prompt_lengths)
        valid = jnp.arange(length)[None] >= first[:, None]
    # Rows of unequal length may read a whole context from where the last of them begins.
    spare = 0 if first is None or total <= context + 1 else context
    new = ((0, 0), (0, max_new_tokens + spare))
    text = jnp.pad(prompt, new, constant_values=0 if end_token is None else end_token)
    zero = jnp.int32(0)
    state = _State(
        zero + length,
        zero,
        first,
        text,
        read(text, zero, first, length - 1),
        start_progress(prompt, valid, model.config.vocab_size, sampling, end_token),
        jnp.bool_(True),
    )
    if total <= context + 1:
        state = lax.while_loop(has_room, write, state)
    else:
        state = lax.while_loop(unfinished, write_window, state)
    return state.text[:, length:total]
