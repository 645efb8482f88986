"""Text generation: prompt in, new tokens out, the whole of it in one compiled program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseq.decoding.cache import init_cache
from jaxseq.decoding.recurrent import generate_with_carry
from jaxseq.decoding.sampling import SamplingConfig, sample_token
from jaxseq.decoding.streaming import receive, send
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT
from jaxseq.nn.attention import KVCache
from jaxseq.nn.transformer import unstack
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
    on_tokens: Callable[[np.ndarray], None] | None = None,
) -> Int[Array, "B {max_new_tokens}"]:
    """The `max_new_tokens` tokens that the model writes behind each prompt.

    New token i is drawn with `fold_in(key, i)`. When a text outgrows the context C, the model
    goes on from the last C // 2 tokens of it, read anew at positions 0, 1, ...:

        window = prompt
        for i in range(max_new_tokens):
            if len(window) > C: window = window[-max(1, C // 2):]
            window += sample(fold_in(key, i), model(window)[-1])

    `on_tokens` gets each step's tokens (an array of shape B) as soon as they are drawn, the last
    ones before this returns. It is called in the calling thread; an exception out of it, or
    Ctrl-C, stops the generation at the next token and goes on to the caller.

    A model that carries a state has no context to outgrow: its window is all of the text.

    `params` is the "params" collection. Each new prompt length or `max_new_tokens` compiles anew.
    Raises UserError when the prompt is empty or longer than the context, or `max_new_tokens` is
    below 1.
    """
    length = prompt.shape[1]
    if length < 1:
        raise UserError("the prompt is empty; --prompt must give at least one token")
    if isinstance(model, GPT) and length > model.config.context:
        context = model.config.context
        raise UserError(
            f"the prompt is {length} tokens long and the model's context {context}; "
            f"shorten --prompt by {length - context} tokens"
        )
    if max_new_tokens < 1:
        raise UserError(f"--max-new-tokens is {max_new_tokens}; it must be at least 1")
    program: Any = generate_with_cache if isinstance(model, GPT) else generate_with_carry
    if on_tokens is None:
        return program(model, max_new_tokens, sampling, params, prompt, key, None)
    # Compiled here and not in the thread that will run it: jax.set_mesh and the like are settings
    # of this thread.
    arguments = params, prompt, key
    fixed = model, max_new_tokens, sampling
    compiled = program.lower(*fixed, *arguments, np.int32(0)).compile()
    return receive(functools.partial(compiled, *arguments), on_tokens)


class _State(NamedTuple):
    """Where a generation stands. The window is `text` from `start` up to `at`."""

    at: Int[Array, ""]
    start: Int[Array, ""]
    text: Int[Array, "B L"]
    caches: tuple[KVCache, ...]
    listening: Bool[Array, ""]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def generate_with_cache(model, max_new_tokens, sampling, params, prompt, key, stream):
    """`generate` for a model with a key/value cache."""
    batch, length = prompt.shape
    context = model.config.context
    total, kept = length + max_new_tokens, max(1, context // 2)

    params = nn.meta.unbox(params)
    # The loop uses the layers one by one: cut apart here, once, instead of in every step.
    layers = {f"layer_{i}": layer for i, layer in enumerate(unstack(params["blocks"]))}
    layered_model, layered_params = model.clone(scan_layers=False), {**params, "blocks": layers}

    def read(text, start, seen):
        """Caches with the `seen` tokens of `text` from `start` in them, but for the last."""
        cache = init_cache(model.config, batch, min(context, total - 1))
        if seen > 1:
            tokens = lax.dynamic_slice(text, (0, start), (batch, seen - 1))
            # The logits are not used and so not computed.
            _, cache = model.apply({"params": params}, tokens, cache, jnp.int32(0), method="decode")
        return unstack(cache)

    def write(state):
        """Reads the last token of the window and writes the one behind it."""
        logits, caches = layered_model.apply(
            {"params": layered_params},
            lax.dynamic_slice(state.text, (0, state.at - 1), (batch, 1)),
            state.caches,
            state.at - 1 - state.start,
            method="decode",
        )
        tokens = sample_token(
            jax.random.fold_in(key, state.at - length),
            logits[:, 0],
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )
        column = tokens[:, None].astype(state.text.dtype)
        return state._replace(
            at=state.at + 1,
            text=lax.dynamic_update_slice(state.text, column, (0, state.at)),
            caches=caches,
            listening=state.listening if stream is None else send(stream, tokens),
        )

    def unfinished(state):
        return (state.at < total) & state.listening

    def has_room(state):
        return (state.at - state.start <= context) & unfinished(state)

    def write_window(state):
        """Writes until the window has outgrown the context, and opens the next one."""
        state = lax.while_loop(has_room, write, state)
        start = state.at - kept
        caches = lax.cond(
            unfinished(state), lambda: read(state.text, start, kept), lambda: state.caches
        )
        return state._replace(start=start, caches=caches)

    text = jnp.pad(prompt, ((0, 0), (0, max_new_tokens)))
    zero = jnp.int32(0)
    state = _State(zero + length, zero, text, read(text, 0, length), jnp.bool_(True))
    if total <= context + 1:
        state = lax.while_loop(has_room, write, state)
    else:
        state = lax.while_loop(unfinished, write_window, state)
    return state.text[:, length:]
