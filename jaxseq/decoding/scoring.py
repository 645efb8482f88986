"""How likely a language model finds texts that are given to it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxseq.decoding.generate import Carrying
from jaxseq.models.gpt import GPT
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int, PyTree


def log_probabilities(
    model: GPT | Carrying,
    params: PyTree,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    prompt_lengths: Int[Array, "B"],
) -> tuple[Float[Array, "B T"], Float[Array, "B"]]:
    """Log-probabilities of given continuations, in nats: (of each token, of the whole).

        l_t = log p(y_t | y_0 ... y_{t-1})   for prompt_length <= t < length, 0 elsewhere
        sum over t of l_t

    Row b's text is its first `lengths[b]` tokens, of which the first `prompt_lengths[b]` are
    given. What stands behind the text changes nothing. `params` is the "params" collection. One
    forward pass; each new shape compiles anew.

    Raises ValueError naming the argument where a prompt is empty or longer than its text, or a
    text longer than T or the model's context.
    """
    longest = tokens.shape[1]
    if isinstance(model, GPT) and longest > model.config.context:
        context = model.config.context
        raise ValueError(f"tokens has {longest} columns; the model's context is {context}")
    ends, starts = np.asarray(lengths), np.asarray(prompt_lengths)
    if ends.max(initial=0) > longest:
        raise ValueError(f"lengths has {ends.max()}; tokens has {longest} columns")
    if starts.min(initial=1) < 1:
        raise ValueError(f"prompt_lengths has {starts.min()}; it must be at least 1")
    if np.any(starts > ends):
        row = int(np.argmax(starts > ends))
        raise ValueError(
            f"prompt_lengths[{row}] is {starts[row]}, more than lengths[{row}], {ends[row]}"
        )
    return _log_probabilities(model, params, tokens, lengths, prompt_lengths)


@functools.partial(jax.jit, static_argnums=0)
def _log_probabilities(model, params, tokens, lengths, prompt_lengths):
    valid = valid_steps(lengths, tokens.shape[1])
    tokens = jnp.where(valid, tokens, 0)
    # Segment 0 is padding; a model that carries a state cannot look ahead anyway.
    padding = {"segments": valid.astype(jnp.int32)} if isinstance(model, GPT) else {}
    logits = model.apply({"params": nn.meta.unbox(params)}, tokens, **padding)[:, :-1]
    logits = logits.astype(accumulator(logits.dtype))
    chosen = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    each = jnp.pad(chosen - jax.nn.logsumexp(logits, axis=-1), ((0, 0), (1, 0)))
    counts = valid & ~valid_steps(prompt_lengths, tokens.shape[1])
    each = jnp.where(counts, each, 0)
    return each, each.sum(axis=1)
