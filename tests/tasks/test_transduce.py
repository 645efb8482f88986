"""The sequence-to-sequence task: its loss, its counts, its answers and its picture."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.data.dates import DatesData
from jaxseq.data.pair_tokenizers import PairTokenizer
from jaxseq.data.ragged import Ragged, ragged_evaluation_batches
from jaxseq.decoding.transduce import translate
from jaxseq.errors import UserError
from jaxseq.models.encoder_decoder import EncoderDecoderConfig
from jaxseq.models.rnn_seq2seq import RNNSeq2Seq, RNNSeq2SeqConfig
from jaxseq.ops.alignment import coverage_loss
from jaxseq.tasks.edit_distance import edit_distance
from jaxseq.tasks.transduce import Transduce

PAIRS = [("cab", "K AE1 B"), ("ab", "AE1 B"), ("a", "AH0")]
TOKENIZER = PairTokenizer.train(PAIRS, "character", "word")
TASK = Transduce(beam_size=2, second_score_ignores="012")
MODEL = TASK.resolve(
    RNNSeq2SeqConfig(cell="gru", width=8, attention="dot", input_feeding=False),
    DatesData(),
    TOKENIZER,
)


@pytest.fixture(scope="module")
def params():
    return nn.unbox(jax.jit(partial(TASK.init, MODEL))(jax.random.key(0)))


@pytest.fixture(scope="module")
def batch():
    """The pairs, and two empty rows behind them."""
    examples = [TOKENIZER.example(*pair) for pair in PAIRS]
    (found,) = ragged_evaluation_batches(Ragged(examples, "source", 5))
    return {name: jnp.asarray(array) for name, array in found.items()}


def test_the_loss_is_minus_the_log_probability_of_targets_and_ends(params, batch):
    expected, count = 0.0, 0
    names = ("source", "source_lengths", "inputs", "target_lengths")
    logits, _ = jax.jit(RNNSeq2Seq(MODEL).apply)(
        {"params": params}, *(batch[name] for name in names)
    )
    for b, (_, target) in enumerate(PAIRS):
        numbers = [*TOKENIZER.target.encode(target.split()), TOKENIZER.end]
        rows = np.asarray(logits[b], np.float64)
        for row, number in zip(rows, numbers, strict=False):
            expected -= row[number] - np.log(np.exp(row).sum())
        count += len(numbers)
    loss, weight = jax.jit(partial(TASK.loss, MODEL))(params, batch)
    assert weight == count == 3 + 2 + 1 + 3
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_coverage_adds_what_looking_twice_costs(params, batch):
    """Each source has one to three places and each target an end more: some place is seen twice."""
    plain, weight = jax.jit(partial(TASK.loss, MODEL))(params, batch)
    covering = dataclasses.replace(TASK, coverage=0.5)
    names = ("source", "source_lengths", "inputs", "target_lengths")
    _, looks = jax.jit(RNNSeq2Seq(MODEL).apply)(
        {"params": params}, *(batch[name] for name in names)
    )
    inside = np.arange(looks.shape[1])[None] < np.asarray(batch["target_lengths"])[:, None]
    twice, _ = coverage_loss(looks, jnp.asarray(inside))
    assert float(twice) > 0.5
    loss, same_weight = jax.jit(partial(covering.loss, MODEL))(params, batch)
    assert float(loss) == pytest.approx(float(plain) + 0.5 * float(twice), rel=1e-6)
    assert same_weight == weight


def test_counts_are_those_of_the_decoded_targets(params, batch):
    each = TASK.evaluator(MODEL, TOKENIZER)(params, batch)
    assert {rows.shape for rows in each.values()} == {(5,)}
    assert not any(rows[3:].any() for rows in each.values())  # filler rows
    found = {name: float(rows.sum()) for name, rows in each.items()}
    sources, targets = zip(*PAIRS, strict=True)
    written = [answer["output"] for answer in TASK.predict(MODEL, params, TOKENIZER, sources)]
    pairs = zip(written, targets, strict=True)
    edits = [edit_distance(one.split(), other.split()) for one, other in pairs]
    assert found["edits"] == sum(edits) > 0
    assert found["exact"] == edits.count(0)
    assert found["units"] == 6
    assert found["pairs"] == 3
    assert found["edits_ignoring"] <= found["edits"]


def test_the_second_score_leaves_its_characters_out():
    """A model that writes every phoneme right and every stress wrong."""
    totals = {"loss": 12.0, "tokens": 6.0, "pairs": 2.0, "units": 4.0}
    totals |= {"edits": 2.0, "exact": 0.0}
    found = TASK.metrics({**totals, "edits_ignoring": 0.0, "exact_ignoring": 2.0})
    assert found == {
        "loss": 2.0, "token_error_rate": 0.5, "exact": 0.0,
        "token_error_rate_ignoring": 0.0, "exact_ignoring": 1.0, "pairs": 2.0,
    }  # fmt: skip
    plain = dataclasses.replace(TASK, second_score_ignores="")
    assert "exact_ignoring" not in plain.metrics(totals)


def test_answers_come_in_order_with_the_score_of_what_was_written(params):
    lines = ["cab", "", "zz", "a"]
    answers = list(TASK.predict(MODEL, params, TOKENIZER, lines))
    assert [answer["input"] for answer in answers] == lines
    one = TOKENIZER.example("cab")
    tokens, _, scores, _ = translate(
        RNNSeq2Seq(MODEL), params, jnp.asarray(one["source"])[None], jnp.asarray([3]),
        beam_size=2, max_length=24, start_token=TOKENIZER.start, end_token=TOKENIZER.end,
    )  # fmt: skip
    assert answers[0]["output"] == TOKENIZER.join(TOKENIZER.target_units(tokens[0]))
    assert answers[0]["score"] == pytest.approx(float(scores[0]), abs=1e-3)


def test_show_prints_the_answers_and_draws_where_the_model_looked(params, capsys, tmp_path):
    TASK.show(MODEL, params, TOKENIZER, ("cab", "a b"), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cab  ->  ")
    assert (tmp_path / "attention.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beam_size": 0}, "--task.beam-size is 0"),
        ({"length_penalty": -1.0}, "--task.length-penalty"),
        ({"coverage": -1.0}, "--task.coverage"),
    ],
)
def test_options_out_of_range_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Transduce(**fields).resolve(RNNSeq2SeqConfig(), DatesData(), TOKENIZER)


TRANSFORMER = EncoderDecoderConfig(
    width=8, num_heads=2, positions="learned", context=16, decoder_layers=1, encoder_layers=1
)


def test_a_transformer_answers_too(capsys, tmp_path):
    model = TASK.resolve(TRANSFORMER, DatesData(), TOKENIZER)
    params = nn.unbox(jax.jit(partial(TASK.init, model))(jax.random.key(0)))
    examples = [TOKENIZER.example(*pair) for pair in PAIRS]
    (found,) = ragged_evaluation_batches(Ragged(examples, "source", 5))
    batch = {name: jnp.asarray(array) for name, array in found.items()}
    loss, weight = jax.jit(partial(TASK.loss, model))(params, batch)
    assert weight == 9
    assert np.isfinite(float(loss))
    TASK.show(model, params, TOKENIZER, ("cab", "a b"), tmp_path)
    assert (tmp_path / "attention.png").exists()
    # The score of what beam search wrote is its log-probability in one reading.
    (answer,) = TASK.predict(model, params, TOKENIZER, ["cab"])
    written = [*TOKENIZER.target.encode(answer["output"].split()), TOKENIZER.end][:16]
    inputs = jnp.asarray([[TOKENIZER.start, *written[:-1]]])
    source = jnp.asarray(TOKENIZER.example("cab")["source"])[None]
    lengths = jnp.asarray([len(written)])
    read = jax.jit(model.build().apply)
    logits, _ = read({"params": params}, source, jnp.asarray([3]), inputs, lengths)
    log_probs = jax.nn.log_softmax(logits[0])[jnp.arange(len(written)), jnp.asarray(written)]
    assert answer["score"] == pytest.approx(float(log_probs.sum()), abs=1e-3)


def test_alignments_of_a_transformer_are_means_of_its_last_layer():
    model = TASK.resolve(TRANSFORMER, DatesData(), TOKENIZER)
    params = nn.unbox(jax.jit(partial(TASK.init, model))(jax.random.key(0)))
    source, lengths = jnp.asarray([[1, 2, 3, 0], [2, 0, 0, 0]]), jnp.asarray([3, 1])
    _, written, _, looks = translate(
        model.build(), params, source, lengths,
        beam_size=1, max_length=6, start_token=TOKENIZER.start, end_token=TOKENIZER.end,
    )  # fmt: skip
    sums = np.asarray(looks.sum(axis=-1))
    inside = np.arange(6)[None] <= np.asarray(written)[:, None]
    np.testing.assert_allclose(sums, inside.astype(float), atol=1e-6)
    assert not np.asarray(looks[0, :, 3:]).any()
    assert not np.asarray(looks[1, :, 1:]).any()


@pytest.mark.parametrize("config", [RNNSeq2SeqConfig(copy=True), EncoderDecoderConfig(copy=True)])
def test_a_model_that_copies_is_for_another_task(config):
    with pytest.raises(UserError, match=r"--model\.copy is for the task Summarise"):
        TASK.resolve(config, DatesData(), TOKENIZER)


def test_what_does_not_fit_a_transformer_is_named():
    with pytest.raises(UserError, match=r"--task\.coverage needs a decoder"):
        dataclasses.replace(TASK, coverage=0.5).resolve(TRANSFORMER, DatesData(), TOKENIZER)
    longer = dataclasses.replace(TOKENIZER, longest=17)
    with pytest.raises(UserError, match=r"--model\.context is 16 and the data has a text of 17"):
        TASK.resolve(TRANSFORMER, DatesData(), longer)
