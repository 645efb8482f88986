"""Speculative decoding: a small model drafts, the large one checks several tokens in one pass.

(Leviathan et al. 2022, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318.) With q the draft's
distribution of the next token and p the target's, a drafted x ~ q is accepted with probability
min(1, p(x) / q(x)); where it is not, the token is drawn from what q gave too little,

    r(v) = max(0, p(v) - q(v)) / sum_u max(0, p(u) - q(u))

so that the token is distributed as p:  min(p, q) + (1 - sum_u min(p(u), q(u))) r = p.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.decoding.cache import layer_by_layer, read_ahead
from jaxseq.decoding.generate_beam import check_fits
from jaxseq.decoding.progress import Progress, start_progress
from jaxseq.decoding.sampling import SamplingConfig, candidates, penalize
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPT
from jaxseq.nn.transformer import BlockCache
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int, Key, PyTree


class Speculation(NamedTuple):
    """What was written, in how many passes of the target, and how many drafts it accepted.

    Of `passes` x num_draft drafts `accepted` were; each pass writes one token more than it accepts.
    """

    tokens: Int[Array, "1 L"]
    passes: Int[Array, ""]
    accepted: Int[Array, ""]


def speculative_generate(
    model: GPT,
    params: PyTree,
    draft_model: GPT,
    draft_params: PyTree,
    prompt: Int[Array, "B P"],
    *,
    num_draft: int,
    max_new_tokens: int,
    sampling: SamplingConfig,
    key: Key[Array, ""],
    end_token: int | None = None,
) -> Speculation:
    """The tokens that `model` writes behind the prompt, `num_draft` at a time drafted by another.

    They have the distribution of `decoding.generate.generate`'s for every `sampling`, whatever the
    draft, but other draws; with temperature 0 they are the same tokens (up to rounding: a token
    is computed among others). Behind an `end_token` there is nothing else.

    One text at a time: rows of a batch would accept different numbers of tokens, and the caches
    end in one slot for all. The whole is one program, and each new shape compiles it anew.

    Raises UserError when the prompt is empty, or when it and the new tokens do not fit the contexts
    of both models; ValueError naming the argument for a batch, vocabularies that differ, and
    numbers below 1.
    """
    if prompt.shape[0] != 1:
        raise ValueError(f"prompt has {prompt.shape[0]} rows; speculation writes one text")
    if model.config.vocab_size != draft_model.config.vocab_size:
        raise ValueError(
            f"draft_model has {draft_model.config.vocab_size} tokens and model "
            f"{model.config.vocab_size}; they must share a tokenizer"
        )
    if prompt.shape[1] < 1:
        raise UserError("the prompt is empty; --prompt must give at least one token")
    if max_new_tokens < 1:
        raise UserError(f"--max-new-tokens is {max_new_tokens}; it must be at least 1")
    for module in (model, draft_model):
        check_fits(module, prompt.shape[1], max_new_tokens)
        if not 1 <= num_draft < module.config.context:
            raise ValueError(
                f"num_draft is {num_draft}; it must be at least 1 and below the contexts of both "
                f"models, {model.config.context} and {draft_model.config.context}"
            )
    fixed = model, draft_model, num_draft, max_new_tokens, sampling, end_token
    return _speculate(*fixed, params, draft_params, prompt, key)


class _State(NamedTuple):
    """`text` up to `at` is known, and all of it but the last token may be in the caches."""

    at: Int[Array, ""]
    text: Int[Array, "1 L"]
    caches: tuple[BlockCache, ...]
    draft_caches: tuple[BlockCache, ...]
    progress: Progress
    passes: Int[Array, ""]
    accepted: Int[Array, ""]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _speculate(
    model,
    draft_model,
    num_draft,
    max_new_tokens,
    sampling,
    end_token,
    params,
    draft_params,
    prompt,
    key,
):
    length = prompt.shape[1]
    total = length + max_new_tokens

    def prepare(model, params):
        """(read(tokens, caches, start) -> (logits, caches), slots, caches with the prompt)."""
        params = nn.meta.unbox(params)
        # Room for the drafts behind the last token, or as much as there is: see `read_at`.
        slots = min(model.config.context, total + num_draft)
        caches = read_ahead(model, params, prompt[:, :-1], slots)
        model, params = layer_by_layer(model, params)
        return functools.partial(model.apply, {"params": params}, method="decode"), slots, caches

    target, slots, caches = prepare(model, params)
    draft, draft_slots, draft_caches = prepare(draft_model, draft_params)

    def read_at(read, slots, text, caches, start, count):
        """Logits (count V) behind text[start : start + count]; past the slots they mean nothing."""
        # Moved back where the slots end: tokens that were read before are read again.
        begin = jnp.minimum(start, slots - count)
        tokens = lax.dynamic_slice(text, (0, begin), (1, count))
        logits, caches = read(tokens, caches, begin)
        return jnp.roll(logits[0], begin - start, axis=0), caches

    def draft_tokens(state, keys):
        """(text with the drafts in it, caches, their distributions (k V), seen before each)."""

        def write(text, logits, seen, step):
            number, draw_key = step
            q = probabilities(logits, seen, sampling)
            token = jax.random.categorical(draw_key, jnp.log(q)).astype(text.dtype)
            text = lax.dynamic_update_slice(text, token[:, None], (0, state.at + number))
            return text, q, None if seen is None else seen.at[0, token[0]].set(True)

        def read_and_write(carry, step):
            text, caches, seen = carry
            last = state.at + step[0] - 1
            logits, caches = read_at(draft, draft_slots, text, caches, last, 1)
            text, q, now = write(text, logits, seen, step)
            return (text, caches, now), (q, seen)

        # The last draft of the pass before was never read: two tokens at first, then one.
        start, seen = jnp.maximum(state.at - 2, 0), state.progress.seen
        logits, caches = read_at(draft, draft_slots, state.text, state.draft_caches, start, 2)
        logits = lax.dynamic_index_in_dim(logits, state.at - 1 - start)
        text, q, now = write(state.text, logits, seen, (0, keys[0]))
        steps = jnp.arange(1, num_draft), keys[1:]
        (text, caches, after), rest = lax.scan(read_and_write, (text, caches, now), steps)
        q = jnp.concatenate([q, rest[0][:, 0]])
        if seen is not None:
            seen = jnp.concatenate([seen, rest[1][:, 0], after])
        return text, caches, q, seen

    def write_pass(state):
        keys = jax.random.split(jax.random.fold_in(key, state.passes), num_draft + 2)
        text, draft_caches, q, seens = draft_tokens(state, keys[:num_draft])
        drafts = lax.dynamic_slice(text, (0, state.at), (1, num_draft))[0]
        logits, caches = read_at(target, slots, text, state.caches, state.at - 1, num_draft + 1)
        p = probabilities(logits, seens, sampling)

        def of_drafts(probabilities):
            return jnp.take_along_axis(probabilities[:num_draft], drafts[:, None], axis=1)[:, 0]

        u = jax.random.uniform(keys[-2], num_draft, q.dtype)
        rejected = u * of_drafts(q) >= of_drafts(p)
        accepted = jnp.argmax(jnp.append(rejected, True))
        # Behind the last draft there is nothing to reject: q = 0 leaves p.
        excess = jnp.maximum(p - jnp.pad(q, ((0, 1), (0, 0))), 0)[accepted]
        excess = jnp.where(excess.sum() > 0, excess, p[accepted])
        token = jax.random.categorical(keys[-1], jnp.log(excess)).astype(text.dtype)
        text = text.at[0, state.at + accepted].set(token)

        numbers = jnp.arange(num_draft + 1)
        written = lax.dynamic_slice(text, (0, state.at), (1, num_draft + 1))
        counts = numbers <= accepted
        ended, seen = state.progress
        if ended is not None:
            ended = ended | jnp.any(counts & (written[0] == end_token))
        if seen is not None:
            seen = seens[accepted][None].at[0, token].set(True)
        # At the end of the text less than a pass may be wanted.
        accepted = jnp.minimum(accepted, total - state.at)
        return _State(
            state.at + accepted + 1,
            text,
            caches,
            draft_caches,
            Progress(ended, seen),
            state.passes + 1,
            state.accepted + accepted,
        )

    def unfinished(state):
        return (state.at < total) & state.progress.goes_on()

    zero = jnp.int32(0)
    progress = start_progress(prompt, None, model.config.vocab_size, sampling, end_token)
    text = jnp.pad(prompt, ((0, 0), (0, max_new_tokens + num_draft + 1)))
    state = _State(zero + length, text, caches, draft_caches, progress, zero, zero)
    state = lax.while_loop(unfinished, write_pass, state)
    tokens = state.text[:, length:total]
    if end_token is not None:
        behind = jnp.arange(max_new_tokens)[None] >= state.at - length
        ends = (tokens == end_token) & ~behind
        tokens = jnp.where(behind | (jnp.cumsum(ends, axis=1) > 0), end_token, tokens)
    return Speculation(tokens, state.passes, state.accepted)


def probabilities(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"] | None, sampling: SamplingConfig
) -> Float[Array, "B V"]:
    """How likely `decoding.sampling.sample_token` is to draw each token."""
    options = dataclasses.asdict(sampling)
    penalty = options.pop("repetition_penalty")
    if seen is not None:
        logits = penalize(logits, seen, penalty)
    if sampling.temperature == 0:
        dtype = accumulator(logits.dtype)
        return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=dtype)
    kept, tokens = candidates(logits, **options)
    drawn = jax.nn.softmax(kept)
    if sampling.top_k == 0 and sampling.top_p == 1.0:
        return drawn  # nothing was sorted
    rows = jnp.arange(logits.shape[0])[:, None]
    return jnp.zeros(logits.shape, drawn.dtype).at[rows, tokens].set(drawn)
