import gc
import threading
import time

import numpy as np
import pytest

from jaxseq.data.batches import TrainBatches, evaluation_batches, prefetch
from jaxseq.data.packing import Windows


def _windows(count, context=2, **options):
    """`count` full windows; the first input of each is its own number times `context`."""
    return Windows([np.arange(count * context + 1, dtype=np.int32)], context, **options)


def _drawn(batches, steps, context=2):
    """The window numbers that `steps` draw, in order."""
    return np.concatenate([batches[step]["inputs"][:, 0] // context for step in steps]).tolist()


def test_batches_hold_the_windows():
    windows = _windows(300, separate=True)
    batch = TrainBatches(windows, 4, seed=1)[7]
    assert set(batch) == {"inputs", "targets", "mask", "segments", "positions"}
    for key, value in batch.items():
        assert value.shape == (4, 2)
        assert value.dtype == (np.bool_ if key == "mask" else np.int32)
    for row in range(4):
        window = windows[int(batch["inputs"][row, 0]) // 2]
        for key, value in window.items():
            np.testing.assert_array_equal(batch[key][row], value)


def test_a_batch_is_a_pure_function_of_seed_and_step():
    one, other = (TrainBatches(_windows(300), 8, seed=3) for _ in range(2))
    in_order = [one[step]["inputs"] for step in range(60)]
    for step in np.random.default_rng(0).permutation(60).tolist():
        np.testing.assert_array_equal(other[step]["inputs"], in_order[step])
    assert other[10**12]["inputs"].tolist() == one[10**12]["inputs"].tolist()


def test_seeds_differ():
    assert _drawn(TrainBatches(_windows(300), 8, seed=3), range(10)) != _drawn(
        TrainBatches(_windows(300), 8, seed=4), range(10)
    )


def test_epochs_hold_every_window_once_straddle_batches_and_are_shuffled_anew():
    # 300 windows and batches of 7: no epoch but each seventh ends with a batch
    drawn = _drawn(TrainBatches(_windows(300), 7, seed=0), range(300))
    epochs = [drawn[300 * i : 300 * (i + 1)] for i in range(7)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(300))
        assert epoch != list(range(300))
    assert len({tuple(epoch) for epoch in epochs}) == 7


def test_one_seeds_second_epoch_is_not_the_next_seeds_first():
    def epochs(seed):
        drawn = _drawn(TrainBatches(_windows(300), 10, seed), range(90))
        return [tuple(drawn[300 * i : 300 * (i + 1)]) for i in range(3)]

    assert len({epoch for seed in range(4) for epoch in epochs(seed)}) == 12


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_windows_than_a_batch(count):
    batch = _drawn(TrainBatches(_windows(count), 12, seed=0), range(5))
    assert [batch.count(i) for i in range(count)] == [60 // count] * count


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_32_bits_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        TrainBatches(_windows(3), 1, seed)


def test_a_negative_step_is_refused():
    with pytest.raises(IndexError, match="-1"):
        TrainBatches(_windows(3), 1, 0)[-1]


@pytest.mark.parametrize(("start", "stop"), [(0, 50), (37, 90), (10**9, 10**9 + 3), (5, 6)])
def test_prefetched_batches_are_those_of_random_access(start, stop):
    batches = TrainBatches(_windows(300), 8, seed=5)
    steps = []
    for step, batch in prefetch(batches, start, stop):
        steps.append(step)
        for key, value in batches[step].items():
            np.testing.assert_array_equal(batch[key], value)
    assert steps == list(range(start, stop))


def test_a_host_reads_its_rows_alone():
    source, batches = _recorded_batches()
    whole = batches[7]
    source.reads = 0
    for chosen in ([1], [0], [0, 1]):
        for key, value in batches.rows(7, chosen).items():
            np.testing.assert_array_equal(value, whole[key][chosen])
    assert source.reads == 4
    for step, batch in prefetch(batches, 6, 8, [1]):
        np.testing.assert_array_equal(batch["inputs"], batches[step]["inputs"][[1]])


@pytest.mark.parametrize("stop", [4, 3])
def test_prefetching_no_step_yields_nothing(stop):
    assert list(prefetch(TrainBatches(_windows(300), 8, seed=5), 4, stop)) == []


def _readers():
    return [thread for thread in threading.enumerate() if "prefetch" in thread.name]


def _none_left(seconds=10.0):
    gc.collect()
    deadline = time.monotonic() + seconds
    while _readers() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not _readers()


class _Recorded(Windows):
    """Windows that note who reads how often, and fail or wait where they are told to."""

    def __init__(self, fail_at=None, wait_at=None):
        super().__init__([np.arange(601, dtype=np.int32)], 2)
        self.fail_at, self.wait_at = fail_at, wait_at
        self.threads, self.reads, self.gate = set(), 0, threading.Event()

    def __getitem__(self, index):
        self.threads.add(threading.current_thread())
        if self.reads == self.fail_at:
            raise RuntimeError("the disk is gone")
        if self.reads == self.wait_at:
            self.gate.wait(10)
        self.reads += 1
        return super().__getitem__(index)


def _recorded_batches(**options):
    source = _Recorded(**options)
    return source, TrainBatches(source, 2, seed=0)


def test_reading_ahead_happens_on_one_other_thread():
    source, batches = _recorded_batches()
    stream = prefetch(batches, 0, 100, read_ahead=4)
    next(stream)
    deadline = time.monotonic() + 10
    while source.reads < 2 * 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert source.reads == 2 * 5  # the one taken and four ahead, and no more
    stream.close()
    assert len(source.threads) == 1
    assert threading.main_thread() not in source.threads


def test_reading_ahead_stops_at_the_last_step():
    source, batches = _recorded_batches()
    assert len(list(prefetch(batches, 0, 3, read_ahead=8))) == 3
    assert _none_left()
    assert source.reads == 2 * 3


def test_no_thread_is_left_when_the_consumer_stops_early():
    batches = TrainBatches(_windows(300), 8, seed=5)
    for step, _ in prefetch(batches, 0, 10**9):
        if step == 3:
            break
    assert _none_left()
    stream = prefetch(batches, 0, 10**9)
    next(stream)
    assert _readers()
    stream.close()
    assert _none_left()


def test_closing_drops_what_is_queued():
    source, batches = _recorded_batches(wait_at=3)
    stream = prefetch(batches, 0, 10**9)
    next(stream)
    stream.close()
    source.gate.set()
    assert _none_left()
    assert source.reads <= 4  # the batch taken, and at most the one under way


def test_no_thread_is_left_when_the_consumer_raises():
    def consume():
        for step, _ in prefetch(TrainBatches(_windows(300), 8, seed=5), 0, 10**9):
            1 // (step - 3)

    with pytest.raises(ZeroDivisionError):
        consume()
    assert _none_left()


def test_the_readers_exception_reaches_the_consumer_at_its_step():
    _, batches = _recorded_batches(fail_at=11)
    stream = prefetch(batches, 0, 100)
    for expected in range(5):
        assert next(stream)[0] == expected
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(stream)
    assert _none_left()


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 64])
def test_evaluation_covers_the_split_once_in_order_in_one_shape(batch_size, separate):
    tokens = np.arange(1, 25, dtype=np.int32)  # windows of 5: four full and one of 3
    windows = Windows([tokens[:8], tokens[8:]], 5, separate=separate)
    batches = list(evaluation_batches(windows, batch_size))
    assert len(batches) == -(-len(windows) // batch_size)
    assert {value.shape for batch in batches for value in batch.values()} == {(batch_size, 5)}
    counted = np.concatenate([batch["targets"][batch["mask"]] for batch in batches])
    assert counted.tolist() == [t for t in range(2, 25) if not (separate and t == 9)]
    for key in windows[0]:
        rows = np.concatenate([batch[key] for batch in batches])
        np.testing.assert_array_equal(rows[: len(windows)], [window[key] for window in windows])
        assert not rows[len(windows) :].any()
