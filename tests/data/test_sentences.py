"""Texts into sentences, and sentences into one array of tokens."""

import numpy as np
import pytest
from small_subwords import word_pieces

from jaxseq.data.sentences import (
    SentenceCorpus,
    documents_of,
    split_documents_of_sentences,
)

PIECES = word_pieces("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One two. Three! Four?\nFive", ["One two.", "Three!", "Four?", "Five"]),
        ("He said \u201cno.\u201d Then (why?) he left.", [
            "He said \u201cno.\u201d", "Then (why?) he left."
        ]),
        ('It is 3.5 m, i.e. not much. "Yes." 12 of them', [
            "It is 3.5 m, i.e. not much.", '"Yes."', "12 of them"
        ]),
        ("A title\n\nno capital here.\n \n\n\nThe end...", [
            "A title", "no capital here.", "The end..."
        ]),
        ("\u4f60\u597d\u3002\u518d\u89c1\uff01", ["\u4f60\u597d\u3002", "\u518d\u89c1\uff01"]),
        ("One line\nof two lines. And", ["One line\nof two lines.", "And"]),
    ],
)  # fmt: skip
def test_a_text_is_split_into_sentences(text, sentences):
    assert list(documents_of(text, "split")) == [sentences]


def test_a_file_of_a_sentence_a_line_has_documents_between_empty_lines():
    text = "\nA b. C\nd\r\n\r\n \n e\n\n"
    assert list(documents_of(text, "line")) == [["A b. C", "d"], ["e"]]
    assert list(documents_of("\n\n \n", "line")) == list(documents_of(" \n\n", "split")) == []


def test_whole_documents_are_held_out_or_the_end_of_a_single_one():
    documents = [[str(i)] * 3 for i in range(10)]
    train, validation = split_documents_of_sentences(documents, 0.2)
    assert validation == [documents[2], documents[7]]
    assert train + validation == [d for d in documents if d not in validation] + validation
    assert split_documents_of_sentences([["a", "b", "c", "d"]], 0.25) == (
        [["a", "b", "c"]], [["d"]],
    )  # fmt: skip
    assert split_documents_of_sentences([["a", "b"]], 0.01) == ([["a"]], [["b"]])


def test_tokens_know_their_sentence_and_document():
    documents = [["a b", "c"], [" "], ["d e d e d", "", "a"]]
    corpus = SentenceCorpus.encode(documents, PIECES, longest=2)
    # The long sentence is three, those without a token are none.
    expected = [["a b", "c"], ["d e", "d e", "d", "a"]]
    flat = [PIECES.encode(sentence) for document in expected for sentence in document]
    np.testing.assert_array_equal(corpus.tokens, np.concatenate(flat))
    assert corpus.starts.tolist() == [0, 2, 3, 5, 7, 8, 9]
    assert corpus.documents.tolist() == [0, 2, 6]
    assert (corpus.num_documents, corpus.num_sentences) == (2, 6)
    assert corpus.document_of(np.arange(6)).tolist() == [0, 0, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        corpus.tokens[0] = 1


def test_sentences_fill_a_room_inside_their_document():
    corpus = SentenceCorpus.encode([["a b", "c"], ["d e", "d e", "d", "a"]], PIECES, longest=2)
    first = np.arange(6)
    assert corpus.filled(first, 4).tolist() == [2, 2, 4, 6, 6, 6]
    assert corpus.filled(first, 3).tolist() == [2, 2, 3, 5, 6, 6]
    assert corpus.filled(first, 1).tolist() == [1, 2, 3, 4, 5, 6]  # one at least
