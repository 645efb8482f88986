"""What a recogniser's attention decoder writes, judged by CTC too, in one compiled program."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.decoding.beam import beam_search, repeat_rows
from jaxseq.decoding.cache import layer_by_layer
from jaxseq.models.speech_recognizer import SpeechRecognizer
from jaxseq.ops.ctc import ctc_loss
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int, PyTree

BLANK = 0
"""Label 0, with which the decoder starts and ends."""


@functools.partial(jax.jit, static_argnums=0, static_argnames=("beam_size", "max_length"))
def transcribe(
    module: SpeechRecognizer,
    params: PyTree,
    samples: Float[Array, "B n"],
    lengths: Int[Array, "B"],
    *,
    beam_size: int,
    max_length: int,
    ctc_weight: float | Float[Array, ""],
) -> tuple[Int[Array, "B L"], Int[Array, "B"], Float[Array, "B"]]:
    """The best transcript of each utterance: (labels, lengths, scores); L is `max_length`.

        score(y) = ctc_weight log p_ctc(y | x) + (1 - ctc_weight) log p_decoder(y, end | x)

    `beam_size` hypotheses are found by the decoder alone, and ranked by both (Watanabe et al. 2017,
    rescoring): a decoder that loses its place, and writes a part twice or not at all, is found out.
    `params` is the "params" collection.
    """
    params = nn.meta.unbox(params)
    module = module.clone(deterministic=True)
    writer, its_params = layer_by_layer(module, params)

    def run(method, *arguments):
        return writer.apply({"params": its_params}, *arguments, method=method)

    memory, frames = run("hear", samples, lengths)
    encoded = run("remember", memory, frames)
    wide = repeat_rows(encoded, beam_size)

    def step(tokens, carry):
        logits, _, carry = run("decode_step", tokens, carry, wide)
        return jax.nn.log_softmax(logits.astype(accumulator(logits.dtype))), carry

    found, sizes, scores = beam_search(
        step,
        repeat_rows(run("start", encoded, max_length), beam_size),
        batch_size=len(samples),
        beam_size=beam_size,
        max_length=max_length,
        start_token=BLANK,
        end_token=BLANK,
    )
    logits = run(lambda model, memory: model.output(memory), memory)
    nats, feasible = ctc_loss(
        jnp.repeat(logits, beam_size, axis=0),
        jnp.repeat(frames, beam_size),
        found.reshape(-1, max_length),
        sizes.reshape(-1),
        blank=BLANK,
    )
    ctc = jnp.where(feasible, -nats, -jnp.inf).reshape(scores.shape)
    # At weight 0 what CTC finds impossible is as good as anything.
    scores = jnp.where(ctc_weight > 0, ctc_weight * ctc, 0) + (1 - ctc_weight) * scores
    best = jnp.argmax(scores, axis=1)[:, None]
    return (
        jnp.take_along_axis(found, best[..., None], axis=1)[:, 0],
        jnp.take_along_axis(sizes, best, axis=1)[:, 0],
        jnp.take_along_axis(scores, best, axis=1)[:, 0],
    )
