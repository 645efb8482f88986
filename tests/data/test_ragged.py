"""Examples of any length, in batches that are a pure function of (seed, step)."""

import numpy as np
import pytest

from jaxseq.data.ragged import (
    Ragged,
    RaggedBatches,
    collate,
    ragged_evaluation_batches,
    room,
    room_for,
)


def examples(lengths):
    """Example i holds its own number at every place, as a row and as a column of two."""
    return [
        {
            "row": np.full(length, i, np.int32),
            "table": np.full((length, 2), i, np.int32),
            "lengths": np.array(length, np.int32),
        }
        for i, length in enumerate(lengths)
    ]


def numbers(batch):
    """The examples in a batch of `examples`, blank rows left out."""
    return batch["row"][batch["lengths"] > 0, 0].tolist()


LENGTHS = [*range(1, 40), 200, 3, 3, 3, 17, 17, 90]


def test_rooms_hold_the_length_and_waste_at_most_a_third():
    for length in range(1, 3000):
        assert length <= room_for(length)
        assert room_for(length) == 8 or room_for(length) < length * 1.5
    assert [room_for(n) for n in (0, 8, 9, 13, 17, 25, 33)] == [8, 8, 12, 16, 24, 32, 48]


def test_a_batch_holds_its_examples_and_zeros_behind_them():
    chosen = examples([3, 0, 9])
    batch = collate(chosen, 5, room(chosen))
    assert {name: array.shape for name, array in batch.items()} == {
        "row": (5, 12),
        "table": (5, 12, 8),
        "lengths": (5,),
    }
    assert batch["lengths"].tolist() == [3, 0, 9, 0, 0]
    assert batch["row"][2].tolist() == [2] * 9 + [0] * 3
    assert batch["table"][2, :, :2].sum() == batch["table"].sum() == 2 * 18
    assert not batch["row"][3:].any()


def test_every_epoch_has_every_example_once_in_another_order():
    batches = RaggedBatches(Ragged(examples(LENGTHS), "row", 4), seed=3)
    epochs = []
    for epoch in range(4):
        steps = range(epoch * len(batches), (epoch + 1) * len(batches))
        epochs.append([number for step in steps for number in numbers(batches[step])])
        assert sorted(epochs[-1]) == list(range(len(LENGTHS)))
    assert len(set(map(tuple, epochs))) == 4


def test_a_batch_is_a_pure_function_of_seed_and_step():
    split = Ragged(examples(LENGTHS), "row", 4)
    one, other = RaggedBatches(split, 3), RaggedBatches(Ragged(examples(LENGTHS), "row", 4), 3)
    in_order = [one[step] for step in range(40)]
    for step in np.random.default_rng(0).permutation(40).tolist():
        for name, array in other[step].items():
            np.testing.assert_array_equal(array, in_order[step][name])
    different = RaggedBatches(split, 4)
    assert [numbers(different[i]) for i in range(9)] != [numbers(one[i]) for i in range(9)]
    with pytest.raises(IndexError, match="-1"):
        one[-1]


def test_shapes_are_few_and_a_small_bucket_goes_into_the_next():
    split = Ragged(examples([3] * 50 + [12] * 2 + [20] * 50 + [100]), "row", 8)
    batches = RaggedBatches(split, seed=0)
    shapes = {batches[step]["row"].shape for step in range(len(batches))}
    # The two of length 12 go with those of 20; the last bucket stays, having no next.
    assert shapes == {(8, 8), (8, 24), (8, 128)} or shapes == {(8, 8), (8, 24), (8, 96)}


@pytest.mark.parametrize("at_most", [None, 3])
def test_evaluation_goes_over_all_or_an_even_share_of_every_bucket(at_most):
    split = Ragged(examples(LENGTHS * 10), "row", 4)
    found = [n for batch in ragged_evaluation_batches(split, at_most) for n in numbers(batch)]
    assert len(set(found)) == len(found)
    if at_most is None:
        assert sorted(found) == list(range(len(split)))
    else:
        rooms = {room_for(LENGTHS[number % len(LENGTHS)]) for number in found}
        assert len(rooms) >= len(split.buckets)
        assert len(found) < len(split) / 4


def test_one_example_is_enough():
    split = Ragged(examples([5]), "row", 4)
    assert numbers(RaggedBatches(split, 0)[7]) == [0]


def test_a_host_has_its_rows_in_the_shapes_of_the_whole_batch():
    """Those behind the last example, which are zeros, too."""
    batches = RaggedBatches(Ragged(examples(LENGTHS), "row", 4), seed=3)
    counts = [len(numbers(batches[step])) for step in range(len(batches))]
    for step in (counts.index(max(counts)), counts.index(min(counts))):
        for rows in ([3], [1, 3], [0, 1, 2, 3]):
            found = batches.rows(step, rows)
            assert found.keys() == batches[step].keys()
            for name, array in batches[step].items():
                np.testing.assert_array_equal(found[name], array[rows])
