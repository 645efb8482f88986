"""Which tokens are masked, how many, and by what: BERT's recipe counted."""

import math

import numpy as np
import pytest
from small_subwords import CLASSIFY, MASK, SEPARATE, word_pieces

from jaxseq.data.masking import Masking, special_tokens, word_joins
from jaxseq.data.subword_training import train_subwords

LETTERS = "abcdefghijklmnop"
PIECES = word_pieces(*LETTERS, *(f"##{letter}" for letter in LETTERS), ",", "!")
UNKNOWN = 1
FRACTION, MOST = 0.15, 9


def rows(count: int, length: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens between [CLS] and [SEP], the second half of the rows padded, [UNK] in some."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, PIECES.vocab_size, (count, length), np.int32)
    tokens[rng.random(tokens.shape) < 0.05] = UNKNOWN
    segments = np.ones_like(tokens)
    segments[count // 2 :, length // 2 :] = 0
    tokens[:, 0] = CLASSIFY
    tokens[: count // 2, -1] = SEPARATE
    tokens[count // 2 :, length // 2 - 1] = SEPARATE
    return tokens, segments


def masking(whole_word: bool = False, most: int = MOST) -> Masking:
    return Masking(PIECES, FRACTION, most, whole_word)


def within_binomial_bounds(count: int, of: int, share: float) -> bool:
    """Six standard deviations: a fair draw leaves them once in 500 million times."""
    return abs(count - of * share) <= 6 * math.sqrt(of * share * (1 - share))


@pytest.fixture(scope="module", params=[False, True], ids=["tokens", "words"])
def masked(request):
    tokens, segments = rows(2000)
    return (
        request.param,
        tokens,
        segments,
        masking(request.param)(tokens, segments, np.random.default_rng(1)),
    )


def places(found):
    """(row, column) of every chosen token."""
    inside = np.arange(MOST)[None] < found["masked_count"][:, None]
    at = np.broadcast_to(np.arange(len(inside))[:, None], inside.shape)
    return at[inside], found["masked_positions"][inside], inside


def test_targets_stood_where_they_are_said_to_and_nothing_else_is_changed(masked):
    _, tokens, segments, found = masked
    row, column, inside = places(found)
    np.testing.assert_array_equal(found["masked_targets"][inside], tokens[row, column])
    changed = found["tokens"] != tokens
    changed[row, column] = False
    assert not changed.any()
    assert (segments[row, column] == 1).all()
    assert not found["masked_positions"][~inside].any()
    assert not found["masked_targets"][~inside].any()
    assert all(
        np.all(np.diff(p[:n]) > 0)
        for p, n in zip(found["masked_positions"], found["masked_count"], strict=True)
    )


def test_special_tokens_are_neither_chosen_nor_drawn(masked):
    _, _, _, found = masked
    row, column, inside = places(found)
    special = special_tokens(PIECES)
    assert np.flatnonzero(special).tolist() == [0, 1, 2, 3, 4]
    assert not special[found["masked_targets"][inside]].any()
    hidden = found["tokens"][row, column]
    assert not special[hidden[hidden != MASK]].any()


def test_eighty_ten_ten(masked):
    _, tokens, _, found = masked
    row, column, _ = places(found)
    hidden, target = found["tokens"][row, column], tokens[row, column]
    ordinary = PIECES.vocab_size - 5
    same = 0.1 + 0.1 / ordinary  # a random token may be the one that stood there
    for count, share in [
        ((hidden == MASK).sum(), 0.8),
        (((hidden != MASK) & (hidden != target)).sum(), 0.1 * (1 - 1 / ordinary)),
        ((hidden == target).sum(), same),
    ]:
        assert within_binomial_bounds(int(count), len(hidden), share)
    # Random tokens are drawn from all of the vocabulary alike.
    drawn = hidden[(hidden != MASK) & (hidden != target)]
    counts = np.bincount(drawn, minlength=PIECES.vocab_size)[5:]
    assert all(within_binomial_bounds(int(n), len(drawn), 1 / ordinary) for n in counts)


def test_tokens_are_chosen_as_many_as_asked_and_all_alike():
    tokens, segments = rows(2000)
    found = masking()(tokens, segments, np.random.default_rng(1))
    candidates = (segments == 1) & ~special_tokens(PIECES)[tokens]
    asked = np.clip(np.rint(FRACTION * candidates.sum(axis=1)), 1, MOST)
    np.testing.assert_array_equal(found["masked_count"], asked)
    row, column, _ = places(found)
    first = row < 1000
    counts = np.bincount(column[first], minlength=60)[1:59]
    assert all(within_binomial_bounds(int(n), int(first.sum()), 1 / 58) for n in counts)


def test_words_are_chosen_whole_and_about_as_many():
    tokens, segments = rows(2000)
    whole = masking(whole_word=True)
    found = whole(tokens, segments, np.random.default_rng(1))
    chosen = np.zeros(tokens.shape, bool)
    row, column, _ = places(found)
    chosen[row, column] = True
    # The pieces that go on are those with ##, behind a piece of letters.
    pieces = [PIECES.library.id_to_token(i) for i in range(PIECES.vocab_size)]
    goes_on = np.array([piece.startswith("##") for piece in pieces])
    letters = np.array([piece.strip("#").isalpha() for piece in pieces])
    same_word = goes_on[tokens[:, 1:]] & letters[tokens[:, :-1]]
    assert same_word.sum() > 10_000
    np.testing.assert_array_equal(chosen[:, 1:][same_word], chosen[:, :-1][same_word])
    tokens_alone = masking()(tokens, segments, np.random.default_rng(1))["masked_count"]
    assert found["masked_count"].min() >= 1
    assert found["masked_count"].mean() == pytest.approx(tokens_alone.mean(), rel=0.05)
    # A row of short words gets within half a word of what was asked.
    assert np.abs(found["masked_count"] - tokens_alone).mean() < 1


def test_a_row_has_one_masked_token_at_least_where_it_can():
    a, more = PIECES.encode("a")[0], PIECES.encode("aa")[1]
    tokens = np.array(
        [
            [CLASSIFY, a, SEPARATE, 0, 0, 0],
            [CLASSIFY, UNKNOWN, SEPARATE, 0, 0, 0],  # nothing can be masked
            [CLASSIFY, a, more, more, more, SEPARATE],  # one word
            [0, 0, 0, 0, 0, 0],  # filler
        ],
        np.int32,
    )
    segments = np.array([[1] * 3 + [0] * 3, [1] * 3 + [0] * 3, [1] * 6, [0] * 6], np.int32)
    tokens, segments = (np.pad(array, ((0, 0), (0, MOST))) for array in (tokens, segments))
    rng = np.random.default_rng(0)
    assert masking()(tokens, segments, rng)["masked_count"].tolist() == [1, 0, 1, 0]
    whole = masking(whole_word=True, most=4)
    assert whole(tokens, segments, rng)["masked_count"].tolist() == [1, 0, 4, 0]
    # A word that does not find room is left as it is, and never cut.
    short = masking(whole_word=True, most=3)
    assert short(tokens, segments, rng)["masked_count"].tolist() == [1, 0, 0, 0]


def test_the_same_generator_gives_the_same_masks_and_another_gives_others():
    tokens, segments = rows(20)
    one, again, other = (
        masking()(tokens, segments, np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
    assert (one["masked_positions"] != other["masked_positions"]).any()


def test_words_of_other_vocabularies():
    """Where a vocabulary writes the space before a word, what lacks it goes on in the word."""
    text = "lower, slower and slowest; caf\u00e9 10th 'tis\n" * 30
    expected = ["lower", ",", "slower", "and", "slowest", ";", "caf\u00e9", "10th", "'", "tis"]
    for kind in ("byte-bpe", "unigram", "wordpiece"):
        special = () if kind == "wordpiece" else ("[CLS]", "[SEP]", "[MASK]")
        tokenizer = train_subwords(kind, [text], 330, special_tokens=special)
        tokens = tokenizer.encode(text.splitlines()[0])
        goes_on, open_ended = word_joins(tokenizer)
        starts = [True, *~(goes_on[tokens[1:]] & open_ended[tokens[:-1]])]
        words = np.split(tokens, np.flatnonzero(starts)[1:])
        spelled = [tokenizer.decode(word.tolist()).strip() for word in words]
        assert [word for word in spelled if word] == expected, kind
