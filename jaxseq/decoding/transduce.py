"""What an encoder-decoder writes for a source, in one compiled program."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.decoding.beam import beam_search, greedy_search, repeat_rows
from jaxseq.decoding.cache import layer_by_layer
from jaxseq.models.encoder_decoder import EncoderDecoder, cross_attention_weights
from jaxseq.models.rnn_seq2seq import RNNSeq2Seq
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int, PyTree


@functools.partial(
    jax.jit,
    static_argnums=0,
    static_argnames=("beam_size", "max_length", "start_token", "end_token", "length_penalty"),
)
def translate(
    module: RNNSeq2Seq | EncoderDecoder,
    params: PyTree,
    source: Int[Array, "B S"],
    source_lengths: Int[Array, "B"],
    *,
    beam_size: int,
    max_length: int,
    start_token: int,
    end_token: int,
    length_penalty: float = 0.0,
) -> tuple[Int[Array, "B L"], Int[Array, "B"], Float[Array, "B"], Float[Array, "B L S"]]:
    """The best target found for each source: (tokens, lengths, scores, alignments).

    L is `max_length`. `lengths` counts tokens before the end token; behind them stands `end_token`.
    Row t of `alignments` is where the decoder looked as it wrote token t, the end token included,
    and 0 behind it: of a Transformer, the mean over the heads of its last layer. `beam_size` 1 is
    greedy search; see `decoding.beam` for both, and for the scores. `params` is the "params"
    collection. Each new shape compiles anew.

    Raises ValueError naming the argument that is out of range.
    """
    params = nn.meta.unbox(params)
    module = module.clone(deterministic=True)
    writer, its_params = module, params
    if isinstance(module, EncoderDecoder):
        writer, its_params = layer_by_layer(module, params)

    def run(method: str, *arguments: Any) -> Any:
        return writer.apply({"params": its_params}, *arguments, method=method)

    encoded = run("encode", source, source_lengths)
    carry = run("start", encoded, max_length)
    wide = encoded if beam_size == 1 else repeat_rows(encoded, beam_size)

    def step(tokens, carry):
        logits, _, carry = run("decode_step", tokens, carry, wide)
        return jax.nn.log_softmax(logits.astype(accumulator(logits.dtype))), carry

    options: dict[str, Any] = {
        "batch_size": source.shape[0],
        "max_length": max_length,
        "start_token": start_token,
        "end_token": end_token,
        "length_penalty": length_penalty,
    }
    if beam_size == 1:
        tokens, lengths, scores = greedy_search(step, carry, **options)
    else:
        carry = repeat_rows(carry, beam_size)
        found = beam_search(step, carry, beam_size=beam_size, **options)
        tokens, lengths, scores = (x[:, 0] for x in found)

    # One reading of the result is cheaper than every hypothesis's alignments on the way to it.
    inputs = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=start_token)
    written = jnp.minimum(lengths + 1, max_length)
    pair = source, source_lengths, inputs, written
    if isinstance(module, EncoderDecoder):
        weights = cross_attention_weights(module, params, *pair)[-1].mean(axis=1)
        alignments = jnp.where(valid_steps(written, max_length)[..., None], weights, 0)
    else:
        _, alignments = run("__call__", *pair)
    return tokens, lengths, scores, alignments
