import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxseq.data.packing import Windows
from jaxseq.errors import UserError


def _documents(lengths):
    """Documents whose tokens count 1, 2, 3, ... through the corpus, so that each is unique."""
    ends = np.cumsum(lengths)
    return [
        np.arange(end - n + 1, end + 1, dtype=np.int32)
        for n, end in zip(lengths, ends, strict=True)
    ]


corpora = st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 7)).filter(
    lambda corpus: sum(corpus[0]) > corpus[1]
)


def test_windows_of_a_stream():
    windows = Windows(_documents([3, 5]), 3)
    assert len(windows) == 3
    assert windows[0]["inputs"].tolist() == [1, 2, 3]
    assert windows[0]["targets"].tolist() == [2, 3, 4]
    assert windows[1]["inputs"].tolist() == [4, 5, 6]
    assert windows[1]["mask"].tolist() == [True, True, True]
    assert windows[2]["inputs"].tolist() == [7, 0, 0]
    assert windows[2]["targets"].tolist() == [8, 0, 0]
    assert windows[2]["mask"].tolist() == [True, False, False]
    assert set(windows[2]) == {"inputs", "targets", "mask"}


def test_packed_windows():
    windows = Windows(_documents([2, 0, 1, 5]), 6, separate=True)
    assert windows[0]["segments"].tolist() == [1, 1, 2, 3, 3, 3]
    assert windows[0]["positions"].tolist() == [0, 1, 0, 0, 1, 2]
    assert windows[0]["mask"].tolist() == [True, False, False, True, True, True]
    assert windows[1]["segments"].tolist() == [1, 0, 0, 0, 0, 0]
    assert windows[1]["positions"].tolist() == [0, 0, 0, 0, 0, 0]
    assert windows[1]["mask"].tolist() == [True, False, False, False, False, False]


@settings(deadline=None)
@given(corpora, st.booleans())
def test_shapes_types_and_padding(corpus, separate):
    lengths, context = corpus
    if separate and max(lengths) < 2:
        return
    windows = Windows(_documents(lengths), context, separate=separate)
    for i in range(len(windows)):
        for key, value in windows[i].items():
            assert value.shape == (context,)
            assert value.dtype == (np.bool_ if key == "mask" else np.int32)
        padding = windows[i]["inputs"] == 0
        assert not windows[i]["mask"][padding].any()
        assert not windows[i]["targets"][padding].any()


@settings(deadline=None)
@given(corpora)
def test_every_token_but_the_first_is_a_target_once(corpus):
    lengths, context = corpus
    windows = Windows(_documents(lengths), context)
    targets = np.concatenate([w["targets"][w["mask"]] for w in windows])
    inputs = np.concatenate([w["inputs"][w["mask"]] for w in windows])
    assert targets.tolist() == list(range(2, sum(lengths) + 1))
    assert inputs.tolist() == list(range(1, sum(lengths)))


@settings(deadline=None)
@given(corpora)
def test_dropping_the_remainder_leaves_the_full_windows(corpus):
    lengths, context = corpus
    kept = Windows(_documents(lengths), context)
    dropped = Windows(_documents(lengths), context, drop_remainder=True)
    assert len(dropped) == (sum(lengths) - 1) // context
    for i in range(len(dropped)):
        assert dropped[i]["mask"].all()
        np.testing.assert_equal(dropped[i], kept[i])


@settings(deadline=None)
@given(corpora)
def test_packed_windows_are_those_of_the_stream_cut_at_documents(corpus):
    lengths, context = corpus
    if max(lengths) < 2:
        return
    documents = _documents(lengths)
    document_of = {int(x): d for d, document in enumerate(documents) for x in document}
    stream = Windows(documents, context)
    packed = Windows(documents, context, separate=True)
    assert len(packed) == len(stream)
    for plain, window in zip(stream, packed, strict=True):
        np.testing.assert_array_equal(window["inputs"], plain["inputs"])
        np.testing.assert_array_equal(window["targets"], plain["targets"])
        seen: list[int] = []  # the documents of this window, in order
        position = 0
        for t in range(context):
            token = int(window["inputs"][t])
            if not plain["mask"][t]:
                assert (window["segments"][t], window["positions"][t]) == (0, 0)
                continue
            document = document_of[token]
            if document in seen:
                position += 1
            else:
                seen.append(document)
                position = 0
            assert window["segments"][t] == len(seen)
            assert window["positions"][t] == position
            assert window["mask"][t] == (document_of[int(window["targets"][t])] == document)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_is_refused(index):
    with pytest.raises(IndexError):
        Windows(_documents([8]), 3)[index]


def test_a_window_cannot_write_into_the_corpus():
    document = np.arange(8, dtype=np.int32)
    windows = Windows([document], 3)
    with pytest.raises(ValueError, match="read-only"):
        windows[0]["targets"][0] = 9
    document[0] = 9
    assert windows[0]["inputs"][0] == 0


@pytest.mark.parametrize("documents", [[], [0], [2, 1]])
def test_a_corpus_shorter_than_a_window_names_split_lengths_and_mend(documents):
    with pytest.raises(UserError) as error:
        Windows(_documents(documents), 3, name="validation")
    for part in (f"validation split has {sum(documents)} tokens", "the 4", "--data.context"):
        assert part in str(error.value)
    assert len(Windows(_documents([4]), 3)) == 1


def test_documents_of_one_token_leave_nothing_to_predict():
    with pytest.raises(UserError, match=r"single token.*--data\.separate-documents"):
        Windows(_documents([1] * 9), 3, separate=True)
    assert len(Windows(_documents([1] * 9), 3)) == 3
