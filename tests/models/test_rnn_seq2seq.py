"""The recurrent encoder-decoder: against its twin, step by step, over padding, and as it learns."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compare import assert_close, assert_same, check_parity, random_params

from jaxseq.decoding.transduce import translate
from jaxseq.errors import UserError
from jaxseq.models.rnn_seq2seq import RNNSeq2Seq, RNNSeq2SeqConfig
from jaxseq.ops.losses import softmax_cross_entropy
from jaxseq.reference.rnn_seq2seq import rnn_seq2seq

DATA = {"source_vocab_size": 9, "target_vocab_size": 7}
SOURCE = jnp.array([[3, 0, 8, 5], [2, 2, 6, 1], [1, 4, 3, 2]])
SOURCE_LENGTHS = jnp.array([4, 2, 0])
TARGET = jnp.array([[0, 2, 6], [0, 3, 3], [0, 5, 1]])
TARGET_LENGTHS = jnp.array([3, 3, 2])
INPUTS = SOURCE, SOURCE_LENGTHS, TARGET
NUMPY_INPUTS = tuple(map(np.asarray, INPUTS))
SMALL = RNNSeq2SeqConfig(width=8, embedding_width=6).resolve(**DATA)

# Between them every cell, attention and option.
CONFIGS = {
    "lstm": SMALL,
    "gru": dataclasses.replace(SMALL, cell="gru", attention="location", input_feeding=True),
    "elman": dataclasses.replace(
        SMALL, cell="elman", attention="general", encoder_layers=2, decoder_layers=2
    ),
    "one way": dataclasses.replace(
        SMALL, bidirectional=False, attention="coverage", input_feeding=True, decoder_layers=2
    ),
    "no attention": dataclasses.replace(SMALL, cell="gru", attention="none"),
    "mingru": dataclasses.replace(SMALL, cell="mingru", attention="dot"),
    "minlstm": dataclasses.replace(SMALL, cell="minlstm", attention="concat", input_feeding=True),
    "lru": dataclasses.replace(SMALL, cell="lru"),
    "rglru": dataclasses.replace(SMALL, cell="rglru", attention="dot", input_feeding=True),
    "matrix": dataclasses.replace(SMALL, cell="matrix", attention="general"),
}


def make(name: str, dtype: str = "float32") -> tuple[RNNSeq2Seq, dict[str, Any]]:
    """The module of a config, computing in `dtype`, and parameters that all matter."""
    config = dataclasses.replace(CONFIGS[name])
    object.__setattr__(config, "dtype", dtype)  # float64 is the tests' own
    params = random_params(RNNSeq2Seq(CONFIGS[name]), *INPUTS)
    return RNNSeq2Seq(config), params


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*[(name, "float64") for name in ("lstm", "gru", "elman", "one way")], ("gru", "float32")],
)
def test_equals_twin(name: str, dtype: str) -> None:
    module, params = make(name, dtype)
    check_parity(
        lambda params: module.apply({"params": params}, *INPUTS),
        lambda params: rnn_seq2seq(params, *NUMPY_INPUTS, CONFIGS[name]),
        params,
        dtype=dtype,
    )


def test_bfloat16_operands_equal_twin() -> None:
    module, params = make("gru", "bfloat16")
    check_parity(
        lambda params: module.apply({"params": params}, *INPUTS),
        lambda params: rnn_seq2seq(params, *NUMPY_INPUTS, CONFIGS["gru"]),
        params,
        dtype="float32",
        compute_dtype="bfloat16",
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_one_step_after_the_other_equals_teacher_forcing(name: str) -> None:
    module, params = make(name)
    variables = {"params": jax.tree.map(jnp.float32, params)}

    @jax.jit
    def both(source, source_lengths, target):
        forced = module.apply(variables, source, source_lengths, target)
        encoded = module.apply(variables, source, source_lengths, method="encode")

        def step(carry, tokens):
            logits, alignment, carry = module.apply(
                variables, tokens, carry, encoded, method="decode_step"
            )
            return carry, (logits, alignment)

        carry = module.apply(variables, encoded, method="start")
        _, stepped = jax.lax.scan(step, carry, target.T)
        return forced, jax.tree.map(lambda x: x.swapaxes(0, 1), stepped)

    forced, stepped = both(*INPUTS)
    assert_close(stepped, forced, "float32")
    # Alignments are distributions over the valid source, or nothing where there is none.
    alignments = np.asarray(forced[1])
    looks = (SOURCE_LENGTHS[:, None] > 0) & (name != "no attention")
    np.testing.assert_allclose(alignments.sum(-1), np.repeat(looks, 3, 1), atol=1e-6)
    assert not alignments[1, :, 2:].any()


@pytest.mark.parametrize("name", ["elman", "gru", "one way"])
def test_what_stands_in_the_padding_changes_nothing(name: str) -> None:
    module, params = make(name)
    variables = {"params": jax.tree.map(jnp.float32, params)}

    @jax.jit
    def value_and_gradient(source, target):
        def outputs(variables):
            return module.apply(variables, source, SOURCE_LENGTHS, target, TARGET_LENGTHS)

        value, pullback = jax.vjp(outputs, variables)
        return value, pullback(jax.tree.map(jnp.cos, value))

    expected = value_and_gradient(SOURCE, TARGET)
    source_padding = np.arange(4)[None] >= SOURCE_LENGTHS[:, None]
    target_padding = np.arange(3)[None] >= TARGET_LENGTHS[:, None]
    # Ids outside the tables are NaN vectors.
    for junk in (-1, 10_000):
        source = np.where(source_padding, junk, SOURCE).astype(np.int32)
        target = np.where(target_padding, junk, TARGET).astype(np.int32)
        assert_same(value_and_gradient(source, target), expected)
    logits, alignments = expected[0]
    assert not logits[target_padding].any()
    assert not alignments[target_padding].any()


def test_a_wider_batch_with_more_padding_changes_nothing() -> None:
    module, params = make("lstm")
    variables = {"params": jax.tree.map(jnp.float32, params)}
    apply = jax.jit(module.apply)
    logits, alignments = apply(variables, *INPUTS)
    wide = np.pad(SOURCE, ((0, 0), (0, 3)), constant_values=99)
    wide_logits, wide_alignments = apply(variables, wide, SOURCE_LENGTHS, TARGET)
    assert_close(wide_logits, logits, "float32")
    assert_close(wide_alignments, np.pad(alignments, ((0, 0), (0, 0), (0, 3))), "float32")


def test_dropout_inside_the_loop_is_drawn_anew_at_every_step() -> None:
    """Without inputs and memories the decoder's state is what the mask between its layers says."""
    config = dataclasses.replace(CONFIGS["elman"], input_feeding=True, dropout=0.5)
    params = random_params(RNNSeq2Seq(config), *INPUTS)
    for layer in params["decoder"].values():
        layer["recurrent_kernel"] *= 0
    params["decoder"]["layer_0"]["kernel"] *= 0
    variables = {"params": jax.tree.map(jnp.float32, params)}

    @jax.jit
    def run(seed):
        _, alignments = RNNSeq2Seq(config, deterministic=False).apply(
            variables,
            *(SOURCE, SOURCE_LENGTHS, jnp.zeros((3, 12), int)),
            rngs={"dropout": jax.random.key(seed)},
        )
        return alignments[0]

    one = np.asarray(run(0))
    np.testing.assert_array_equal(run(0), one)
    assert len(np.unique(one, axis=0)) > 6
    assert np.abs(np.asarray(run(1)) - one).max() > 1e-3


# --- Learning ------------------------------------------------------------------------------------

PAD, BOS, EOS = 0, 1, 2
TEXTS = ["abcab", "ba", "ccabb", "a"]
LENGTH = 5


def tokens_of(text: str) -> list[int]:
    return [3 + ord(c) - ord("a") for c in text]


@functools.cache
def copier(input_feeding: bool):
    """A small model that has learned to copy `TEXTS`, and its batch."""
    lengths = jnp.array([len(text) for text in TEXTS])
    source = jnp.array([tokens_of(t) + [PAD] * (LENGTH - len(t)) for t in TEXTS])
    inputs = jnp.pad(source, ((0, 0), (1, 0)), constant_values=BOS)
    targets = jnp.array([[*tokens_of(t), EOS] + [PAD] * (LENGTH - len(t)) for t in TEXTS])
    mask = jnp.arange(LENGTH + 1)[None] <= lengths[:, None]
    config = RNNSeq2SeqConfig(width=24, cell="gru", input_feeding=input_feeding, dropout=0.1)
    config = config.resolve(source_vocab_size=6, target_vocab_size=6)
    module = RNNSeq2Seq(config, deterministic=False)
    optimizer = optax.adam(1e-2)

    def loss(params, key):
        logits, _ = module.apply(
            {"params": params}, source, lengths, inputs, lengths + 1, rngs={"dropout": key}
        )
        total, weight = softmax_cross_entropy(logits, targets, mask)
        return total / weight

    @jax.jit
    def train(key):
        variables = RNNSeq2Seq(config).init(key, source, lengths, inputs)
        params = nn.unbox(variables)["params"]

        def update(state, key):
            params, optimizer_state = state
            value, gradient = jax.value_and_grad(loss)(params, key)
            updates, optimizer_state = optimizer.update(gradient, optimizer_state)
            return (optax.apply_updates(params, updates), optimizer_state), value

        state = params, optimizer.init(params)
        (params, _), losses = jax.lax.scan(update, state, jax.random.split(key, 200))
        return params, losses

    params, losses = train(jax.random.key(0))
    return module, params, source, lengths, targets, losses


@pytest.mark.parametrize("input_feeding", [False, True])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_learns_to_copy_and_writes_the_copy(input_feeding: bool, beam_size: int) -> None:
    module, params, source, lengths, targets, losses = copier(input_feeding)
    assert losses[-1] < 0.1 < losses[0]
    tokens, written, scores, alignments = translate(
        module,
        params,
        source,
        lengths,
        beam_size=beam_size,
        max_length=8,
        start_token=BOS,
        end_token=EOS,
        length_penalty=0.6,
    )
    np.testing.assert_array_equal(written, lengths)
    for row, target, length in zip(tokens, targets, lengths, strict=True):
        np.testing.assert_array_equal(row[: length + 1], target[: length + 1])
        assert np.all(row[length:] == EOS)
    assert np.all((scores <= 0) & (scores > -0.5))
    # The token at which a row ends has looked at the source; nothing was written after it.
    written_at = np.arange(8)[None] <= lengths[:, None]
    np.testing.assert_allclose(alignments.sum(-1), written_at, atol=1e-6)


def test_the_score_is_the_log_probability_of_what_is_written() -> None:
    module, params = make("gru")
    params = jax.tree.map(jnp.float32, params)
    options = {"max_length": 4, "start_token": 0, "end_token": 1}
    for beam_size in (1, 2):
        tokens, lengths, scores, _ = translate(
            module, params, SOURCE, SOURCE_LENGTHS, beam_size=beam_size, **options
        )
        inputs = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)))
        logits, _ = jax.jit(module.apply)({"params": params}, SOURCE, SOURCE_LENGTHS, inputs)
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        for b, length in enumerate(np.asarray(lengths)):
            steps = np.arange(min(length + 1, 4))
            expected = log_probs[b, steps, np.asarray(tokens)[b, steps]].sum()
            np.testing.assert_allclose(scores[b], expected, rtol=1e-5)


# --- The config ----------------------------------------------------------------------------------


def test_zeros_follow_the_data_and_the_width() -> None:
    config = RNNSeq2SeqConfig(width=96).resolve(**DATA)
    assert (config.source_vocab_size, config.target_vocab_size) == (9, 7)
    assert config.embedding_width == 96
    assert config.resolve(**DATA) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_layers": 0}, r"--model\.encoder-layers is 0; it must be at least 1"),
        ({"decoder_layers": -1}, r"--model\.decoder-layers is -1"),
        ({"width": 0}, r"--model\.width is 0"),
        ({"embedding_width": -2}, r"--model\.embedding-width is -2"),
        ({"width": 9}, r"--model\.width 9 is odd .* --model\.no-bidirectional"),
        ({"attention": "location"}, r"--model\.attention location .* --model\.input-feeding"),
        ({"attention": "coverage"}, r"--model\.attention coverage .* --model\.input-feeding"),
        ({"dropout": 1.0}, r"--model\.dropout is 1\.0; it must be at least 0 and below 1"),
        ({"dropout": float("nan")}, r"--model\.dropout is nan"),
        ({"source_vocab_size": 8}, r"--model\.source-vocab-size 8 is smaller .* 9"),
        ({"target_vocab_size": -1}, r"--model\.target-vocab-size -1 is smaller .* 7"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_that_do_not_fit_are_named(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        RNNSeq2SeqConfig(**changes).resolve(**DATA)
    assert "\n" not in str(caught.value)


def test_one_direction_may_have_an_odd_width() -> None:
    assert RNNSeq2SeqConfig(width=9, bidirectional=False).resolve(**DATA).width == 9
