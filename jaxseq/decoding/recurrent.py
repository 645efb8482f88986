"""Generation with a model that carries a state from token to token."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.decoding.progress import start_progress
from jaxseq.decoding.streaming import send
from jaxseq.ops.padding import valid_steps


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def generate_with_carry(
    model, max_new_tokens, sampling, end_token, params, prompt, prompt_lengths, key, stream
):
    """`decoding.generate.generate` for a model with `zero_carry` and `read`: no window, no cache.

    logits, carry = read(prompt, zero_carry)
    for i in range(max_new_tokens):
        token = sample(fold_in(key, i), logits[-1])
        logits, carry = read(token, carry)
    """
    batch, length = prompt.shape
    read = functools.partial(model.apply, {"params": params}, method="read")
    if prompt_lengths is None:
        valid = None
        logits, carry = read(prompt, model.zero_carry(batch))
        logits = logits[:, -1]
    else:
        valid = valid_steps(prompt_lengths, length)
        logits, carry = _read_unequal(read, prompt, valid, model.zero_carry(batch))

    def unfinished(state):
        at, listening, progress, *_ = state
        return (at < max_new_tokens) & listening & progress.goes_on()

    def write(state):
        at, _, progress, text, logits, carry = state
        draw_key = jax.random.fold_in(key, at)
        tokens, progress = progress.draw(draw_key, logits, sampling, end_token)
        tokens = tokens.astype(text.dtype)
        text = lax.dynamic_update_slice(text, tokens[:, None], (0, at))
        listening = jnp.bool_(True) if stream is None else send(stream, tokens)
        logits, carry = read(tokens[:, None], carry)
        return at + 1, listening, progress, text, logits[:, 0], carry

    nothing = 0 if end_token is None else end_token
    text = jnp.full((batch, max_new_tokens), nothing, prompt.dtype)
    progress = start_progress(prompt, valid, logits.shape[-1], sampling, end_token)
    state = (jnp.int32(0), jnp.bool_(True), progress, text, logits, carry)
    return lax.while_loop(unfinished, write, state)[3]


def _read_unequal(read, prompt, valid, carry):
    """Logits (B V) behind the last valid token of each row, and the carry there."""

    def step(state, column):
        tokens, going = column
        logits, carry = read(tokens[:, None], state[1])

        def keep(new, old):
            return jnp.where(going.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return jax.tree.map(keep, (logits[:, 0], carry), state), None

    logits, carry = read(prompt[:, :1], carry)  # every row has one
    columns = prompt[:, 1:].T, valid[:, 1:].T
    return lax.scan(step, (logits[:, 0], carry), columns)[0]
