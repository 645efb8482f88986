import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseq.data.example_packing import (
    Packed,
    PackedBatches,
    first_fit,
    packed_evaluation_batches,
)

T = 10
ragged = st.lists(st.integers(1, T), min_size=1, max_size=40)


def _packed(lengths, **options):
    """Examples whose every token is 100 times their number and the token's place, from 1."""

    def example(epoch, number):
        tokens = 100 * number + np.arange(1, lengths[number] + 1, dtype=np.int32)
        return {"tokens": tokens, "epochs": np.full(len(tokens), epoch)}

    return Packed(np.array(lengths), T, example, **options)


def _examples(batches):
    """The examples in rows of batches, each as a tuple of its tokens, checked on the way."""
    found = []
    for batch in batches:
        assert set(batch) == {"tokens", "epochs", "segments", "positions"}
        for row in range(len(batch["tokens"])):
            tokens, segments, positions = (
                batch[name][row] for name in ("tokens", "segments", "positions")
            )
            assert tokens.shape == segments.shape == positions.shape == (T,)
            last = int(segments.max())
            for segment in range(1, last + 1):
                (places,) = np.nonzero(segments == segment)
                assert places.tolist() == list(range(places[0], places[-1] + 1))
                assert positions[places].tolist() == list(range(len(places)))
                found.append(tuple(tokens[places].tolist()))
            padding = segments == 0
            assert not padding[: np.count_nonzero(~padding)].any()  # behind the last example
            assert not tokens[padding].any()
            assert not positions[padding].any()
    return found


def _wanted(lengths):
    return [tuple(range(100 * i + 1, 100 * i + 1 + n)) for i, n in enumerate(lengths)]


@given(ragged, st.integers(1, 5), st.integers(0, 3))
def test_an_epoch_holds_every_example_once_whole_and_in_order(lengths, batch_size, seed):
    split = _packed(lengths)
    batches = PackedBatches(split, batch_size, seed)
    # as many epochs as rows in a batch end with a batch, whatever the number of rows
    drawn = _examples(batches[step] for step in range(len(split)))
    assert len(drawn) == batch_size * len(lengths)
    for epoch in range(batch_size):
        one = drawn[epoch * len(lengths) : (epoch + 1) * len(lengths)]
        assert sorted(one) == _wanted(lengths)
    assert split.fill == sum(lengths) / (T * len(split))


@given(ragged)
def test_evaluation_holds_every_example_once(lengths):
    batches = list(packed_evaluation_batches(_packed(lengths), 3))
    assert all(batch["tokens"].shape == (3, T) for batch in batches)
    assert sorted(_examples(batches)) == _wanted(lengths)


@given(st.lists(st.integers(1, T), max_size=300))
def test_first_fit_fills_and_never_overfills(lengths):
    rows = first_fit(np.array(lengths, int), T)
    assert sorted(np.concatenate([*rows, []]).tolist()) == list(range(len(lengths)))
    filled = [sum(lengths[i] for i in row) for row in rows]
    assert all(0 < total <= T for total in filled)
    if len(rows) <= 64:  # all of them open: at most one is less than half full
        assert sum(2 * total <= T for total in filled) <= 1


def test_first_fit_takes_the_first_row_with_room():
    rows = first_fit(np.array([6, 5, 4, 5, 7, 3]), 10)
    assert [row.tolist() for row in rows] == [[0, 2], [1, 3], [4, 5]]


def test_the_fullest_row_makes_place_for_a_new_one():
    # The 64 open rows are 9, 8, 8, ... full; the 65th closes the first and stands in its place.
    rows = first_fit(np.array([9, *[8] * 64, 2, 1]), 10)
    assert [row.tolist() for row in rows if len(row) > 1] == [[1, 66], [64, 65]]


def test_a_batch_is_a_pure_function_of_seed_and_step():
    lengths = np.random.default_rng(0).integers(1, T + 1, 90).tolist()
    one = PackedBatches(_packed(lengths), 4, seed=1)
    in_order = [one[step] for step in range(40)]
    for step in np.random.default_rng(1).permutation(40).tolist():
        np.testing.assert_equal(PackedBatches(_packed(lengths), 4, seed=1)[step], in_order[step])
    other = PackedBatches(_packed(lengths), 4, seed=2)
    assert any((other[s]["tokens"] != in_order[s]["tokens"]).any() for s in range(40))
    with pytest.raises(IndexError, match="step -1 is negative"):
        one[-1]


def test_epochs_differ_in_order_and_in_who_shares_a_row():
    split = _packed(np.random.default_rng(0).integers(1, 5, 60).tolist())
    batches = PackedBatches(split, 1, seed=0)
    epochs = [[batches[e * len(split) + i] for i in range(len(split))] for e in range(2)]
    companies = [
        {frozenset((batch["tokens"] // 100)[batch["segments"] > 0].tolist()) for batch in epoch}
        for epoch in epochs
    ]
    assert len(companies[0] & companies[1]) < len(split) / 2


def test_an_example_is_asked_for_with_its_epoch():
    split = _packed([T] * 5)
    batches = PackedBatches(split, 5, seed=0)
    assert [int(batches[step]["epochs"][0, 0]) for step in (0, 1, 7)] == [0, 1, 7]
    (batch,) = packed_evaluation_batches(split, 5)
    assert not batch["epochs"].any()


def test_at_most_some_batches_are_spread():
    split = _packed([T] * 40)
    assert len(list(packed_evaluation_batches(split, 2, at_most=5))) == 5
    assert len(list(packed_evaluation_batches(split, 2))) == 20


def test_many_short_examples_fill_well():
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 28, 5000), 128)
    assert Packed(lengths, 128, lambda epoch, number: {}).fill > 0.95


@pytest.mark.parametrize("lengths", [[], [0, 1], [3, T + 1]])
def test_lengths_that_cannot_be_packed(lengths):
    with pytest.raises(ValueError, match="lengths must"):
        _packed(np.array(lengths, int))
    with pytest.raises(ValueError, match="more than the room"):
        first_fit(np.array([T + 1]), T)


def test_an_example_that_is_not_as_long_as_it_said_is_refused():
    split = Packed(np.array([3]), T, lambda epoch, number: {"tokens": np.zeros(2)})
    with pytest.raises(ValueError, match=r"the examples \[0\] have 2 tokens, and not 3"):
        split.row(0, np.array([0]))
