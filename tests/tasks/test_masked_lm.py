"""The masked-LM task: its loss as sums over rows, packed rows, learning, answers to lines."""

import dataclasses
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import logsumexp
from small_subwords import CLASSIFY, SEPARATE, word_pieces

from jaxseq.data.masked_text import MaskedSplit, MaskedText
from jaxseq.data.masking import Masking
from jaxseq.data.sentence_rows import PairRows
from jaxseq.data.sentences import SentenceCorpus
from jaxseq.errors import UserError
from jaxseq.models.bert import BertConfig
from jaxseq.tasks.masked_lm import MaskedLM

PIECES = word_pieces(*"abcdefgh", ".")
CONTEXT = 16
TASK = MaskedLM(likeliest=3)
DATA = MaskedText(path=Path(__file__), tokenizer="unused", context=CONTEXT, batch_size=8)
MODEL = TASK.resolve(BertConfig(num_layers=1, width=16, num_heads=2, dropout=0.0), DATA, PIECES)


def split() -> MaskedSplit:
    """Documents of one letter each: the others in its segment say what a hidden one is."""
    documents = [[" ".join([letter] * (2 + s % 3)) for s in range(8)] for letter in "abcdefgh"]
    corpus = SentenceCorpus.encode(documents, PIECES, PairRows.longest_sentence(CONTEXT))
    rows = PairRows(corpus, PIECES, CONTEXT, "train")
    return MaskedSplit(rows, Masking(PIECES, 0.15, 3, whole_word=False))


@pytest.fixture(scope="module")
def params():
    fresh = nn.unbox(TASK.init(MODEL, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.3 * jnp.asarray(rng.normal(size=x.shape), x.dtype), fresh)


@pytest.fixture(scope="module")
def batch():
    """Two batches of eight; the last row of the second one is filler."""
    data = dataclasses.replace(DATA, next_sentence=True)
    one, other = list(data.evaluation_batches(split()))[:2]
    for array in other.values():
        array[-1] = 0
    return jax.tree.map(jnp.asarray, (one, other))


loss = jax.jit(TASK.loss, static_argnums=0)


def test_the_loss_is_the_sum_over_masked_tokens_and_its_rows_next_sentence(params, batch):
    one, _ = batch
    inputs = {name: one[name] for name in ("types", "segments", "masked_positions")}
    apply = jax.jit(MODEL.build("pretraining").apply)
    logits, following = jax.device_get(apply({"params": params}, one["tokens"], **inputs))
    logits, following = (x - logsumexp(x, axis=-1, keepdims=True) for x in (logits, following))
    expected, tokens = 0.0, 0
    for row in range(8):
        log_next = following[row, one["next_sentence"][row]]
        for m in range(one["masked_count"][row]):
            target = one["masked_targets"][row, m]
            expected -= logits[row, m, target] + log_next
            tokens += 1
    found, weight = loss(MODEL, params, one)
    assert weight == tokens
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_batches_add_up_to_the_one_batch(params, batch):
    one, other = batch
    both = {name: jnp.concatenate([one[name], other[name]]) for name in one}
    parts = [loss(MODEL, params, part) for part in (one, other)]
    whole = loss(MODEL, params, both)
    np.testing.assert_allclose(np.sum(parts, axis=0), np.array(whole), rtol=1e-6)
    assert whole[1] == both["masked_count"].sum()


def test_the_evaluator_tells_rows_apart_and_metrics_are_their_formulas(params, batch):
    one, other = batch
    evaluator = TASK.evaluator(MODEL, PIECES)
    rows = jax.device_get(evaluator(params, other))
    assert {array.shape for array in rows.values()} == {(8,)}
    assert not any(array[-1] for array in rows.values())  # the filler row
    assert rows["rows"].sum() == 7
    found, weight = loss(MODEL, params, other)
    assert rows["loss"].sum() == pytest.approx(float(found), rel=1e-6)
    assert rows["tokens"].sum() == float(weight)
    assert (rows["masked_loss"] < rows["loss"])[:-1].all()
    totals = {"loss": 30.0, "masked_loss": 20.0, "tokens": 10.0, "right": 4.0, "rows": 8.0}
    expected = {"loss": 3.0, "perplexity": math.exp(2.0), "masked_accuracy": 0.4}
    assert TASK.metrics(totals) == expected | {"masked_tokens": 10, "rows": 8}
    pairs = TASK.metrics(totals | {"pairs_right": 6.0})
    assert pairs["next_sentence_accuracy"] == 0.75
    without = {name: array for name, array in one.items() if name != "next_sentence"}
    rows = evaluator(params, without)
    assert "pairs_right" not in rows
    np.testing.assert_array_equal(rows["loss"], rows["masked_loss"])


def test_padding_and_unused_masks_change_nothing(params, batch):
    one, _ = batch
    junk = {name: np.array(array) for name, array in one.items()}
    filler = junk["segments"] == 0
    junk["tokens"][filler] = 999_999
    junk["types"][filler] = 7
    unused = np.arange(3)[None] >= junk["masked_count"][:, None]
    junk["masked_positions"][unused] = 999
    junk["masked_targets"][unused] = -5
    assert filler.any()
    assert unused.any()
    gradient = jax.jit(jax.grad(lambda params, batch: TASK.loss(MODEL, params, batch)[0]))
    junk = jax.tree.map(jnp.asarray, junk)
    assert loss(MODEL, params, junk) == loss(MODEL, params, one)
    jax.tree.map(np.testing.assert_array_equal, gradient(params, junk), gradient(params, one))


def test_packed_rows_have_the_losses_of_their_parts(params):
    rng = np.random.default_rng(0)
    lengths, count = [5, 7, 4], 3
    parts = []
    for length in lengths:
        tokens = rng.integers(5, PIECES.vocab_size, length).astype(np.int32)
        tokens[0], tokens[-1] = CLASSIFY, SEPARATE
        parts.append((tokens, 1 + int(rng.integers(length - 2))))
    starts = np.cumsum([0, *lengths[:-1]])
    packed = {
        "tokens": np.concatenate([tokens for tokens, _ in parts])[None],
        "types": np.zeros((1, CONTEXT), np.int32),
        "segments": np.repeat(np.arange(1, 4, dtype=np.int32), lengths)[None],
        "positions": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])[None],
        "masked_positions": np.array([[s + at for s, (_, at) in zip(starts, parts, strict=True)]]),
        "masked_targets": np.array([[6, 9, 11]]),
        "masked_count": np.array([count]),
    }
    separate = {name: np.zeros((3, CONTEXT), np.int32) for name in ("tokens", "types", "segments")}
    for row, (tokens, _) in enumerate(parts):
        separate["tokens"][row, : len(tokens)] = tokens
        separate["segments"][row, : len(tokens)] = 1
    separate["masked_positions"] = np.array([[at, 0, 0] for _, at in parts])
    separate["masked_targets"] = np.array([[6, 0, 0], [9, 0, 0], [11, 0, 0]])
    separate["masked_count"] = np.ones(3, np.int32)
    one, other = (loss(MODEL, params, some) for some in (packed, separate))
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.fixture(scope="module")
def trained():
    """A model that has learnt those documents, and what its steps lost."""
    batches = dataclasses.replace(DATA, next_sentence=True).train_batches(_corpus(), 0)
    params = nn.unbox(TASK.init(MODEL, jax.random.key(0)))
    optimizer = optax.adam(5e-3)

    @jax.jit
    def step(params, state, batch):
        def mean(params):
            total, weight = TASK.loss(MODEL, params, batch)
            return total / weight

        value, gradients = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    state, history = optimizer.init(params), []
    for k in range(400):
        params, state, value = step(params, state, batches[k])
        history.append(float(value))
    return params, history


def _corpus():
    from jaxseq.data.corpus import Corpus

    return Corpus(PIECES, split(), split(), "", ())


def test_a_small_model_learns_what_is_hidden_and_what_follows(trained):
    params, history = trained
    assert history[0] > 2.5
    data = dataclasses.replace(DATA, next_sentence=True)
    evaluator = TASK.evaluator(MODEL, PIECES)
    totals: dict[str, float] = {}
    for batch in data.evaluation_batches(split()):
        for name, rows in evaluator(params, batch).items():
            totals[name] = totals.get(name, 0.0) + float(rows.sum())
    found = TASK.metrics(totals)
    assert found["masked_accuracy"] > 0.9
    assert found["next_sentence_accuracy"] > 0.65
    assert found["loss"] < 1.2


def test_lines_are_answered_in_order_with_the_likeliest_tokens(trained, capsys, tmp_path):
    params, _ = trained
    lines = ["c c [MASK] c c [MASK] c c", "a a a", "", "[MASK] e e e e e"]
    answers = list(TASK.predict(MODEL, params, PIECES, lines))
    assert [answer["text"] for answer in answers] == lines
    assert [len(answer["masks"]) for answer in answers] == [2, 0, 0, 1]
    best = [[mask[0]["token"] for mask in answer["masks"]] for answer in answers]
    assert best == [["c", "c"], [], [], ["e"]]
    for mask in answers[0]["masks"]:
        assert len(mask) == 3
        odds = [entry["probability"] for entry in mask]
        assert odds == sorted(odds, reverse=True)
        assert 0.5 < odds[0] <= 1
    many = list(TASK.predict(MODEL, params, PIECES, lines * 9))
    assert many[-4:] == answers
    TASK.show(MODEL, params, PIECES, ("b b b b", "g h g g g g g g"), tmp_path)
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["b b [b] b", "g h [g] g"]  # cut to what certainly finds room
    assert list(tmp_path.iterdir()) == []


def test_a_line_without_room_is_named(params):
    long = " ".join(["a"] * 15)
    with pytest.raises(UserError, match=r"line 2 has 17 tokens with \[CLS\] and \[SEP\].* 16 pos"):
        list(TASK.predict(MODEL, params, PIECES, ["a", long]))


def test_options_out_of_range_are_named():
    for likeliest in (0, PIECES.vocab_size + 1):
        with pytest.raises(UserError, match=f"--task.likeliest is {likeliest}"):
            MaskedLM(likeliest).resolve(BertConfig(), DATA, PIECES)
    assert MODEL.context == CONTEXT
    assert MODEL.vocab_size == PIECES.vocab_size
