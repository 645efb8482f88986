"""Rows, pairs and batches of masked text: from whole sentences, the same at every step."""

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from small_subwords import CLASSIFY, MASK, SEPARATE, word_pieces

from jaxseq.config import from_tree, to_tree
from jaxseq.data.example_packing import Packed
from jaxseq.data.masked_text import MaskedBatches, MaskedSplit, MaskedText
from jaxseq.data.masking import Masking
from jaxseq.data.sentence_rows import PairRows, TextRows
from jaxseq.data.sentences import SentenceCorpus
from jaxseq.data.tokenizers import CharTokenizer, save_tokenizer
from jaxseq.errors import UserError

# Sentence s of document d is the one word d.s, some of them several times over.
WORDS = tuple(f"w{i}" for i in range(300))
PIECES = word_pieces(*WORDS, ".")
CONTEXT = 16


def number(document: int, sentence: int) -> int:
    return 30 * document + sentence


def corpus(sizes=(20, 1, 9, 14), longest=6, many=True) -> SentenceCorpus:
    """Documents of so many sentences; each sentence is one word, told apart from all others."""
    rng = np.random.default_rng(0)
    documents = [
        [
            " ".join([WORDS[number(d, s)]] * int(rng.integers(1, 5 if many else 2)))
            for s in range(size)
        ]
        for d, size in enumerate(sizes)
    ]
    return SentenceCorpus.encode(documents, PIECES, longest)


def segments_of(tokens: np.ndarray, valid: np.ndarray) -> list[list[int]]:
    """The words, by number, between [CLS], [SEP] and [SEP], which are where they should be."""
    row = tokens[valid != 0].tolist()
    assert row[0] == CLASSIFY
    assert row[-1] == SEPARATE
    assert not tokens[valid == 0].any()
    parts = [list(g) for is_end, g in itertools.groupby(row[1:], SEPARATE.__eq__) if not is_end]
    return [[token - 5 for token in part] for part in parts]


def place(words: list[int]) -> list[tuple[int, int]]:
    """(document, sentence) of each run of equal words."""
    return [divmod(word, 30) for word, _ in itertools.groupby(words)]


def all_rows(rows, rng=None, times=1):
    rng = np.random.default_rng(0) if rng is None else rng
    return rows.batch(np.tile(np.arange(len(rows)), times), rng)


def test_a_row_is_whole_sentences_of_one_document_and_every_sentence_is_in_one():
    data = corpus()
    rows = TextRows(data, PIECES, CONTEXT, "train")
    batch = all_rows(rows)
    seen = []
    for i, (tokens, valid) in enumerate(zip(batch["tokens"], batch["segments"], strict=True)):
        (words,) = segments_of(tokens, valid)
        places = place(words)
        assert len({document for document, _ in places}) == 1
        seen += words
        assert rows.lengths[i] == valid.sum()
        np.testing.assert_array_equal(rows.example(0, i)["tokens"], tokens[valid != 0])
    assert seen == (data.tokens - 5).tolist()
    assert not batch["types"].any()
    # No row could have taken the next sentence too.
    sizes = np.diff(data.starts)
    for end, length in zip(rows.end, rows.lengths, strict=True):
        if end not in data.documents:
            assert length + sizes[end] > CONTEXT


@pytest.fixture(scope="module")
def pairs():
    data = corpus()
    return data, all_rows(PairRows(data, PIECES, CONTEXT, "train"), times=400)


def test_half_of_the_pairs_really_follow_and_half_are_of_another_document(pairs):
    data, batch = pairs
    sizes = np.diff(data.documents)
    for row in range(len(batch["tokens"])):
        a, b = segments_of(batch["tokens"][row], batch["segments"][row])
        (a_document, last), (b_document, first) = place(a)[-1], place(b)[0]
        if batch["next_sentence"][row] == 0:
            assert b_document == a_document
            assert first == last + 1
        else:
            assert b_document != a_document
        for places in (place(a), place(b)):
            documents, sentences = zip(*places, strict=True)
            assert len(set(documents)) == 1
            assert list(sentences) == list(range(sentences[0], sentences[-1] + 1))
            assert sentences[-1] < sizes[documents[0]]
        # Types are 0 up to the first [SEP] and on it.
        types = batch["types"][row]
        assert types.sum() == len(b) + 1
        assert types[len(a) + 2 : len(a) + len(b) + 3].all()
        assert len(a) + len(b) + 3 <= CONTEXT
        # A row is not full only where B's document ends.
        if len(a) + len(b) + 3 < CONTEXT:
            assert place(b)[-1][1] == sizes[b_document] - 1
    total = len(batch["next_sentence"])
    assert abs(batch["next_sentence"].sum() - total / 2) < 3 * total**0.5  # six deviations


def test_pairs_are_drawn_from_everywhere(pairs):
    data, batch = pairs
    follows = batch["next_sentence"] == 0
    ends, begins = set(), set()
    for row in range(len(batch["tokens"])):
        a, b = segments_of(batch["tokens"][row], batch["segments"][row])
        if follows[row]:
            ends.add(place(a)[-1])
        else:
            begins.add(place(b)[0])
    # A document of one sentence is never A, and may be B.
    everywhere = {(d, s) for d, size in enumerate((20, 1, 9, 14)) for s in range(size)}
    assert begins == everywhere
    assert ends <= {(d, s) for d, s in everywhere if s + 1 < (20, 1, 9, 14)[d]}
    assert len(ends) > 0.7 * len(everywhere)
    assert data.num_documents == 4


def test_what_is_too_long_is_cut_where_the_two_do_not_meet():
    data = corpus(sizes=(12, 12), many=False)
    # Two sentences of six tokens and more of one: A and B can be more than the 13 that find room.
    long = SentenceCorpus.encode(
        [[" ".join([WORDS[number(d, s)]] * 6) for s in range(9)] for d in range(2)], PIECES, 6
    )
    for some in (data, long):
        batch = all_rows(PairRows(some, PIECES, CONTEXT, "train"), times=50)
        for tokens, valid, label in zip(
            batch["tokens"], batch["segments"], batch["next_sentence"], strict=True
        ):
            a, b = segments_of(tokens, valid)
            flat = (some.tokens - 5).tolist()
            if label == 0:  # A and B are one stretch of the text
                at = next(i for i in range(len(flat)) if flat[i : i + len(a + b)] == a + b)
                assert at >= 0


def test_a_single_document_gives_pairs_that_do_not_follow():
    data = corpus(sizes=(25,))
    batch = all_rows(PairRows(data, PIECES, CONTEXT, "train"), times=400)
    first_sentences = set()
    for tokens, valid, label in zip(
        batch["tokens"], batch["segments"], batch["next_sentence"], strict=True
    ):
        a, b = segments_of(tokens, valid)
        last, first = place(a)[-1][1], place(b)[0][1]
        assert (first == last + 1) == (label == 0)
        if label:
            first_sentences.add(first)
            assert not place(a)[0][1] <= first <= last
    assert first_sentences == set(range(25))
    with pytest.raises(UserError, match="one document of 3 sentences, too few"):
        PairRows(corpus(sizes=(3,), many=False), PIECES, CONTEXT, "validation")


def test_a_row_that_would_have_one_sentence_begins_one_earlier():
    data = SentenceCorpus.encode([["w1 w2 w3 w4 w5"] * 3, ["w6"], ["w7", "w8"]], PIECES, 6)
    rows = PairRows(data, PIECES, CONTEXT, "train")
    assert rows.first.tolist() == [0, 1, 4]
    assert rows.end.tolist() == [2, 3, 6]


def test_pairs_need_two_sentences_in_a_document():
    with pytest.raises(UserError, match="no document of the train split has two sentences"):
        PairRows(corpus(sizes=(1, 1, 1)), PIECES, CONTEXT, "train")


# ---- the config, and batches by step -----------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty documents, a sentence a line, and the tokenizer."""
    folder = tmp_path_factory.mktemp("masked")
    rng = np.random.default_rng(0)
    documents = [
        "\n".join(
            " ".join(rng.choice(WORDS, rng.integers(2, 6))) + " ."
            for _ in range(rng.integers(2, 12))
        )
        for _ in range(20)
    ]
    (folder / "text.txt").write_text("\n\n".join(documents))
    save_tokenizer(PIECES, folder / "tokenizer.json")
    return folder


def config(folder: Path, **fields) -> MaskedText:
    common = {"path": folder / "text.txt", "tokenizer": str(folder / "tokenizer.json")}
    sizes = {"sentences": "line", "context": CONTEXT, "batch_size": 6}
    return MaskedText(**{**common, **sizes, **fields})


@pytest.fixture(
    params=[{}, {"next_sentence": True}, {"packing": True}, {"whole_word": True}],
    ids=["text", "pairs", "packed", "words"],
)
def loaded(request, folder):
    data = config(folder, **request.param)
    return data, data.load()


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_batches_are_a_function_of_seed_and_step(loaded):
    data, found = loaded
    one, again, other = (data.train_batches(found, seed) for seed in (0, 0, 1))
    steps = [7, 0, 3]
    for step in steps:
        batch = one[step]
        assert equal(batch, again[step])  # whatever was read before
        assert not equal(batch, other[step])
        assert {a.dtype for a in batch.values()} == {np.dtype(np.int32)}
        assert batch["tokens"].shape == (6, CONTEXT)
        assert batch["masked_positions"].shape == (6, 3)
        for rows in ([5], [0, 3]):  # of a host
            assert equal(one.rows(step, rows), {name: a[rows] for name, a in batch.items()})
    assert equal(data.train_batches(data.load(found.tokenizer), 0)[3], again[3])
    with pytest.raises(IndexError):
        one[-1]


def test_masks_are_fresh_at_every_step():
    """The one row that there is, masked anew each time."""
    rows = TextRows(corpus(sizes=(2,)), PIECES, CONTEXT, "train")
    assert len(rows) == 1
    batches = MaskedBatches(MaskedSplit(rows, Masking(PIECES, 0.15, 3, whole_word=False)), 9, 0)
    one, other = (batches[step]["masked_positions"] for step in (0, 1))
    assert len(np.unique(one, axis=0)) > 1
    assert (one != other).any()


def test_an_epoch_has_every_row_once_with_fresh_masks_in_the_next(folder):
    data = config(folder, batch_size=5)
    found = data.load()
    batches, rows = data.train_batches(found, 0), len(found.train)
    stream: dict[str, list] = {name: [] for name in batches[0]}
    for step in range(-(-2 * rows // 5)):
        for name, array in batches[step].items():
            stream[name] += list(array)
    originals = []
    for i in range(2 * rows):
        tokens = stream["tokens"][i].copy()
        count = stream["masked_count"][i]
        tokens[stream["masked_positions"][i][:count]] = stream["masked_targets"][i][:count]
        originals.append(tokens.tobytes())
    first, second = originals[:rows], originals[rows:]
    assert sorted(first) == sorted(second)
    assert first != second
    masks = {o: stream["masked_positions"][i] for i, o in enumerate(first)}
    again = [masks[o] for o in second]
    differ = [
        np.any(a != b) for a, b in zip(again, stream["masked_positions"][rows:], strict=False)
    ]
    assert np.mean(differ) > 0.5


def test_validation_is_the_same_each_time_and_its_last_batch_is_filled_with_zeros(loaded):
    data, found = loaded
    data = dataclasses.replace(
        data, batch_size=next(n for n in (4, 5) if len(found.validation) % n)
    )
    once = list(data.evaluation_batches(found.validation))
    again = list(data.evaluation_batches(data.load().validation))
    assert len(once) == len(again) == -(-len(found.validation) // data.batch_size)
    assert all(map(equal, once, again))
    filled = len(found.validation) % data.batch_size
    for name, array in once[-1].items():
        assert not array[filled:].any(), name
    assert once[-1]["masked_count"][:filled].all()
    assert len(list(data.evaluation_batches(found.validation, 1))) >= 1


def test_the_split_holds_documents_out_whole(folder):
    data = config(folder, validation_fraction=0.3)
    found = data.load()
    assert isinstance(found.train.rows, TextRows)
    assert isinstance(found.validation.rows, TextRows)
    counts = [split.rows.corpus.num_documents for split in (found.train, found.validation)]
    assert counts == [14, 6]
    assert len(found.inputs) == 4
    assert found.fingerprint == config(folder, whole_word=True).load().fingerprint


def test_packed_rows_are_the_rows_put_together(folder):
    plain = config(folder).load().train.rows
    packed = config(folder, packing=True).load().train.rows
    assert isinstance(plain, TextRows)
    assert isinstance(packed, Packed)
    assert len(packed) < len(plain)
    found = []
    for numbers in packed.rows:
        row = packed.row(0, numbers)
        for segment in range(1, row["segments"].max() + 1):
            inside = row["segments"] == segment
            found.append(row["tokens"][inside].tobytes())
            np.testing.assert_array_equal(row["positions"][inside], np.arange(inside.sum()))
    expected = [plain.example(0, i)["tokens"].tobytes() for i in range(len(plain))]
    assert sorted(found) == sorted(expected)


def test_rows_of_a_json_lines_file_are_documents(folder):
    lines = "\n".join('{"body": "W1. W2. W3."}' for _ in range(6))
    (folder / "rows.jsonl").write_text(lines)
    data = config(folder, path=folder / "rows.jsonl", column="body", sentences="split")
    found = data.load()
    assert isinstance(found.train.rows, TextRows)
    assert found.train.rows.corpus.num_documents == 5
    assert found.train.rows.corpus.num_sentences == 15


def test_the_config_goes_through_its_file_and_describes_itself(folder):
    data = config(folder, next_sentence=True).resolve()
    assert from_tree(to_tree(data)) == data
    assert Path(data.tokenizer).is_absolute()
    assert "pairs" in data.describe(data.load())
    assert "filled" in config(folder, packing=True).describe(config(folder, packing=True).load())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context": 7}, r"--data.context is 7; it must be at least 8"),
        ({"batch_size": 0}, r"--data.batch-size is 0"),
        ({"mask_fraction": 0.0}, r"--data.mask-fraction is 0.0"),
        ({"validation_fraction": 1.0}, r"--data.validation-fraction is 1.0"),
        ({"packing": True, "next_sentence": True}, r"--data.packing and --data.next-sentence"),
        ({"tokenizer": "char"}, r"tokenizer 'char' lacks .*\[CLS\].*jaxseq tokenizer"),
        ({"tokenizer": "nowhere"}, "nowhere"),
        ({"path": Path("nowhere.txt")}, "nowhere.txt"),
    ],
)
def test_mistakes_are_named(folder, fields, message):
    with pytest.raises(UserError, match=message):
        config(folder, **fields).load()


def test_a_saved_tokenizer_without_a_mask_and_too_little_text_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"lacks one of the special tokens.*\[MASK\]"):
        config(folder).load(CharTokenizer.train("abc"))
    (tmp_path / "one.txt").write_text("w1 w2 .")
    with pytest.raises(UserError, match=r"one\.txt has less than two sentences"):
        config(folder, path=tmp_path / "one.txt").load()
    (tmp_path / "spaces.txt").write_text("w1 w2 .\n \u200b\n")
    with pytest.raises(UserError, match=r"the (train|validation) split has no text|less than two"):
        config(folder, path=tmp_path / "spaces.txt").load()


def test_pairs_of_real_text_really_follow_each_other():
    """Tiny Shakespeare with BERT's vocabulary: [MASK] where it should be, B really follows A."""
    if "JAXSEQ_DATA" not in os.environ:
        pytest.skip("JAXSEQ_DATA does not name the data directory")
    folder = Path(os.environ["JAXSEQ_DATA"])
    data = MaskedText(
        path=folder / "lm" / "tinyshakespeare.txt",
        tokenizer=str(folder / "vocab" / "bert-base-uncased-vocab.txt"),
        next_sentence=True,
    )
    found = data.load()
    rows = found.train.rows
    assert isinstance(rows, PairRows)
    batch = data.train_batches(found, 0)[0]
    text = rows.corpus.tokens
    for i in np.flatnonzero(batch["next_sentence"] == 0):
        tokens, count = batch["tokens"][i].copy(), batch["masked_count"][i]
        tokens[batch["masked_positions"][i][:count]] = batch["masked_targets"][i][:count]
        row = tokens[batch["segments"][i] == 1]
        joined = row[(row != 101) & (row != 102)]
        starts = np.flatnonzero(text[: len(text) - len(joined)] == joined[0])
        assert any(np.array_equal(text[s : s + len(joined)], joined) for s in starts)
    assert (batch["tokens"] == found.tokenizer.special("mask")).sum() > 300
    assert not (batch["tokens"] == MASK).any()  # the id of another vocabulary
    assert dataclasses.replace(data, next_sentence=False).load().fingerprint == found.fingerprint
