"""Generation with a model that carries a state from token to token."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.decoding.sampling import sample_token
from jaxseq.decoding.streaming import send


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def generate_with_carry(model, max_new_tokens, sampling, params, prompt, key, stream):
    """`decoding.generate.generate` for a model with `zero_carry` and `read`: no window, no cache.

    logits, carry = read(prompt, zero_carry)
    for i in range(max_new_tokens):
        token = sample(fold_in(key, i), logits[-1])
        logits, carry = read(token, carry)
    """
    batch = prompt.shape[0]
    read = functools.partial(model.apply, {"params": params}, method="read")
    logits, carry = read(prompt, model.zero_carry(batch))

    def unfinished(state):
        at, listening, *_ = state
        return (at < max_new_tokens) & listening

    def write(state):
        at, _, text, logits, carry = state
        tokens = sample_token(
            jax.random.fold_in(key, at),
            logits,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        ).astype(text.dtype)
        text = lax.dynamic_update_slice(text, tokens[:, None], (0, at))
        listening = jnp.bool_(True) if stream is None else send(stream, tokens)
        logits, carry = read(tokens[:, None], carry)
        return at + 1, listening, text, logits[:, 0], carry

    text = jnp.zeros((batch, max_new_tokens), prompt.dtype)
    state = (jnp.int32(0), jnp.bool_(True), text, logits[:, -1], carry)
    return lax.while_loop(unfinished, write, state)[2]
