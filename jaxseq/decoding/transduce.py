"""What an encoder-decoder writes for a source, in one compiled program."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.decoding.beam import Step, beam_search, greedy_search, repeat_rows
from jaxseq.decoding.cache import layer_by_layer
from jaxseq.decoding.repeats import without_repeats
from jaxseq.models.encoder_decoder import EncoderDecoder, cross_attention_weights
from jaxseq.models.rnn_seq2seq import RNNSeq2Seq
from jaxseq.ops.copying import Mixture, mixture_log_probs
from jaxseq.ops.padding import valid_steps
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int, PyTree


@functools.partial(
    jax.jit,
    static_argnums=0,
    static_argnames=(
        *("beam_size", "max_length", "start_token", "end_token", "length_penalty"),
        *("unknown_token", "no_repeat"),
    ),
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
    copies: Int[Array, "B S"] | None = None,
    unknown_token: int = 0,
    no_repeat: int = 0,
) -> tuple[Int[Array, "B L"], Int[Array, "B"], Float[Array, "B"], Float[Array, "B L S"]]:
    """The best target found for each source: (tokens, lengths, scores, alignments).

    L is `max_length`. `lengths` counts tokens before the end token; behind them stands `end_token`.
    Row t of `alignments` is where the decoder looked as it wrote token t, the end token included,
    and 0 behind it: of a Transformer, the mean over the heads of its last layer. `beam_size` 1 is
    greedy search; see `decoding.beam` for both, and for the scores. `params` is the "params"
    collection. Each new shape compiles anew.

    A model that copies needs `copies`, the number of the word at each place of the source: below V
    that of the target vocabulary, and from V to V + S - 1 for what is not in it (see
    `ops.copying`). These come in `tokens` too, and the decoder reads `unknown_token` in their
    place. Its alignments are where its pointer looked. With `no_repeat` n above 0 no n tokens in a
    row are written twice (`decoding.repeats`).

    Raises ValueError naming the argument that is out of range or missing.
    """
    if module.config.copy and copies is None:
        raise ValueError("a model that copies needs the argument `copies`")
    params = nn.meta.unbox(params)
    module = module.clone(deterministic=True)
    writer, its_params = module, params
    if isinstance(module, EncoderDecoder):
        writer, its_params = layer_by_layer(module, params)

    def run(method: str, *arguments: Any) -> Any:
        return writer.apply({"params": its_params}, *arguments, method=method)

    encoded = run("encode", source, source_lengths)
    carry = run("start", encoded, max_length)
    wide, numbers = encoded, copies
    if beam_size > 1:
        carry, wide, numbers = repeat_rows((carry, encoded, copies), beam_size)

    vocab_size, copies_words = module.config.target_vocab_size, module.config.copy

    def known(tokens):
        return jnp.where(tokens < vocab_size, tokens, unknown_token) if copies_words else tokens

    def step(tokens, carry):
        logits, weights, carry = run("decode_step", known(tokens), carry, wide)
        if isinstance(logits, Mixture):
            assert numbers is not None
            mixture = Mixture(logits.logits[:, None], logits.gate[:, None])
            size = vocab_size + source.shape[1]
            return mixture_log_probs(mixture, weights[:, None], numbers, size)[:, 0], carry
        return jax.nn.log_softmax(logits.astype(accumulator(logits.dtype))), carry

    options: dict[str, Any] = {
        "batch_size": source.shape[0],
        "max_length": max_length,
        "start_token": start_token,
        "end_token": end_token,
        "length_penalty": length_penalty,
    }
    write: Step = step
    if no_repeat:
        rows = source.shape[0] * beam_size
        write, carry = without_repeats(
            step, carry, n=no_repeat, num_rows=rows, max_length=max_length
        )
    if beam_size == 1:
        tokens, lengths, scores = greedy_search(write, carry, **options)
    else:
        found = beam_search(write, carry, beam_size=beam_size, **options)
        tokens, lengths, scores = (x[:, 0] for x in found)

    # One reading of the result is cheaper than every hypothesis's alignments on the way to it.
    inputs = jnp.pad(known(tokens[:, :-1]), ((0, 0), (1, 0)), constant_values=start_token)
    written = jnp.minimum(lengths + 1, max_length)
    pair = source, source_lengths, inputs, written
    if isinstance(module, EncoderDecoder) and not copies_words:
        weights = cross_attention_weights(module, params, *pair)[-1].mean(axis=1)
    else:
        _, weights = run("__call__", *pair)
    alignments = jnp.where(valid_steps(written, max_length)[..., None], weights, 0)
    return tokens, lengths, scores, alignments
