import json
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subword_cases import (
    TEXT,
    VARIANTS,
    changed,
    published,
    sentencepiece_bpe,
    stripped,
    trained,
    vocabulary,
)

from jaxseq.data import subwords
from jaxseq.data.subword_training import train_subwords
from jaxseq.data.subwords import SubwordTokenizer
from jaxseq.data.tokenizers import UNKNOWN, Tokenizer, load_tokenizer, save_tokenizer
from jaxseq.errors import UserError

# What cutting could get wrong: words, runs of spaces, ends of lines, marks, contractions.
PROSE = st.lists(
    st.sampled_from(
        ["the", "cat", "a", "Zoë", "'re", "'s", " ", "  ", "\n", "\n\n", "\r\n", "\t", ".", "...\n",
         "12", "1234", "5", "e\u0301", " \u0301", "漢字", "☃", "<unk>", "</s>", "\u2581", "\u3000",
         "½", "_"]
    ),
    max_size=40,
).map("".join)  # fmt: skip
TEXTS = st.one_of(st.text(), PROSE)


@pytest.fixture(scope="module", params=VARIANTS)
def tokenizer(request):
    return VARIANTS[request.param]()


def by_the_library(tokenizer, text):
    return tokenizer.library.encode(text, add_special_tokens=False).ids


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(subwords, "_PIECE", 2)
    monkeypatch.setattr(subwords, "_BATCH", 50)


# ---- encoding -------------------------------------------------------------------------------


def test_they_are_tokenizers(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,)
    assert tokenizer.byte_lengths.dtype == np.int32
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("a cat").dtype == np.int32
    assert tokenizer.decode([]) == ""
    with pytest.raises(ValueError, match=f"0 to {tokenizer.vocab_size - 1}"):
        tokenizer.decode([tokenizer.vocab_size])


@given(text=TEXTS)
def test_byte_level_keeps_every_text(text):
    tokenizer = trained("byte-bpe")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
    assert tokenizer.unknown(text) == []


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_spaces_and_lines_of_known_text_are_kept(kind):
    tokenizer = trained(kind)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    # and the space before the first word
    assert tokenizer.byte_lengths[ids].sum() == len(TEXT.encode()) + 1


def test_wordpiece_counts_the_bytes_that_its_pieces_spell():
    tokenizer = trained("wordpiece")
    ids = tokenizer.encode(TEXT)
    assert tokenizer.byte_lengths[ids].sum() == len("".join(TEXT.split()).encode())
    assert tokenizer.decode(tokenizer.encode("The cat waits, too.")) == "The cat waits, too."


@pytest.mark.usefixtures("short_pieces")
def test_long_texts_are_cut_where_it_changes_nothing(tokenizer):
    @given(text=TEXTS)
    def check(text):
        assert tokenizer.encode(text).tolist() == by_the_library(tokenizer, text)

    check()


@pytest.mark.usefixtures("short_pieces")
def test_a_text_is_not_cut_where_its_ends_are_stripped():
    tokenizer = stripped()
    text = "  the cat  sat on a mat "
    assert tokenizer.encode(text).tolist() == by_the_library(tokenizer, text)


def test_what_is_known_to_be_cut(tokenizer, request):
    cut = len(list(tokenizer._parts("one two " * 10_000)))
    uncut = request.node.callspec.params["tokenizer"] == "sentencepiece"
    assert (cut == 1) if uncut else (cut > 5)


@pytest.mark.usefixtures("short_pieces")
def test_many_texts_are_each_encoded(tokenizer):
    @given(st.lists(TEXTS, max_size=6))
    @settings(max_examples=30)
    def check(texts):
        many = tokenizer.encode_many(iter(texts))
        assert [ids.tolist() for ids in many] == [tokenizer.encode(text).tolist() for text in texts]
        assert all(ids.dtype == np.int32 for ids in many)

    check()


def test_half_a_surrogate_pair_does_not_crash(tokenizer):
    replaced = tokenizer.encode("a\ufffd\ufffdb").tolist()
    assert tokenizer.encode("a\udcff\ud800b").tolist() == replaced
    assert tokenizer.encode_many(["a", "a\udcff\ud800b"])[1].tolist() == replaced
    assert len(tokenizer.encode_with_offsets("a\udcff\ud800b")[0]) == len(replaced)


def test_special_tokens_are_not_found_in_a_text():
    tokenizer = trained("byte-bpe")
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.special("end") not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b"
    assert tokenizer.decode([*ids, tokenizer.special("end")]) == "a<|endoftext|>b"
    assert tokenizer.byte_lengths[tokenizer.special("end")] == 0
    assert trained("wordpiece").special("mask") not in trained("wordpiece").encode("[MASK]")


def test_unknown_characters_and_words():
    assert trained("bpe").unknown("a ☃cat☃漢") == ["☃", "漢"]
    assert trained("unigram").unknown("a ☃cat☃漢") == ["☃", "☃漢"]
    assert trained("wordpiece").unknown("a ☃cat ☃cat, 漢") == ["☃cat", "漢"]
    assert sentencepiece_bpe().unknown("☃") == []
    dropping = changed(
        "bpe", model=json.loads(trained("bpe").definition)["model"] | {"unk_token": None}
    )
    assert dropping.decode(dropping.encode("a☃cat")) == "acat"
    assert dropping.unknown("a ☃cat☃漢") == ["☃", "漢"]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_the_unknown_token_decodes_to_the_replacement_character(kind):
    tokenizer = trained(kind)
    assert tokenizer.decode(tokenizer.encode("the ☃ cat")) == f"the {UNKNOWN} cat"
    assert tokenizer.byte_lengths[tokenizer.special("unknown")] == 1


# ---- decoding -------------------------------------------------------------------------------


def test_decoding_is_the_librarys(tokenizer):
    table = tokenizer.library.get_added_tokens_decoder()
    begins = tokenizer.encode("cat")[:1].tolist()  # ours takes ## off a first piece, too
    known = [
        i
        for i in range(tokenizer.vocab_size)
        if i not in table and not (tokenizer.library.id_to_token(i) or "<0x").startswith("<0x")
    ]
    if tokenizer._structure.unknown in tokenizer.library.get_vocab():
        known = [
            i for i in known if tokenizer.library.id_to_token(i) != tokenizer._structure.unknown
        ]

    @given(st.lists(st.sampled_from(known)))
    def check(ids):
        assert tokenizer.decode(begins + ids) == tokenizer.library.decode(begins + ids)

    check()


def test_streams_join_to_the_whole(tokenizer):
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1)), st.integers(0))
    def check(ids, seed):
        decoder = tokenizer.stream_decoder()
        cuts = sorted(random.Random(seed).choices(range(len(ids) + 1), k=3))
        pieces = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
        streamed = [decoder.decode(piece, final=i == 3) for i, piece in enumerate(pieces)]
        assert "".join(streamed) == tokenizer.decode(ids)

    check()


def test_streams_show_no_half_characters():
    tokenizer = trained("byte-bpe")
    decoder = tokenizer.stream_decoder()
    shown = [decoder.decode([i]) for i in tokenizer.encode("☃ 漢").tolist()]
    assert "".join(shown) == "☃ 漢"
    assert not any(UNKNOWN in piece for piece in shown)
    assert decoder.decode(tokenizer.encode("☃")[:2]) == ""
    assert decoder.decode([], final=True) == UNKNOWN


def test_bytes_of_a_fallback_are_joined():
    tokenizer = sentencepiece_bpe()
    assert tokenizer.decode(tokenizer.encode("a ☃ cat 漢")) == "a ☃ cat 漢"
    assert tokenizer.byte_lengths[tokenizer.encode("☃")].sum() == len(" ☃".encode())


# ---- offsets and words ----------------------------------------------------------------------


@given(text=TEXTS)
def test_offsets_of_byte_level_pieces(text):
    tokenizer = trained("byte-bpe")
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids.tolist() == tokenizer.encode(text).tolist()
    assert offsets.shape == (len(ids), 2)
    for i, (start, end) in zip(ids.tolist(), offsets.tolist(), strict=True):
        piece = tokenizer.decode([i])
        if UNKNOWN not in piece:
            assert text[start:end] == piece.lstrip()
        else:  # part of a character
            assert end > start or text[end - 1].isspace()


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_offsets_of_known_pieces(kind):
    text = "  Waiting  for the café, cats?"
    ids, offsets = trained(kind).encode_with_offsets(text)
    spelled = [trained(kind).decode([i]).strip() for i in ids.tolist()]
    assert [text[start:end] for start, end in offsets.tolist()] == spelled
    assert offsets[-1].tolist() == [len(text) - 1, len(text)]


def test_words_are_encoded_as_in_a_text(tokenizer):
    words = ["cat", "a", "cats", "the,", "Zoë"]
    ids, numbers = tokenizer.encode_words(words)
    assert ids.tolist() == tokenizer.encode(" ".join(words)).tolist()
    assert ids.dtype == numbers.dtype == np.int32
    assert sorted(set(numbers.tolist())) == [0, 1, 2, 3, 4]
    for number, word in enumerate(words[:3]):
        if not tokenizer.unknown(word):
            assert tokenizer.decode(ids[numbers == number]).strip() == word
    none, no_numbers = tokenizer.encode_words([])
    assert none.shape == no_numbers.shape == (0,)


def test_a_word_that_comes_to_nothing_is_unknown():
    tokenizer = trained("wordpiece")
    ids, numbers = tokenizer.encode_words(["cat", "", "\u200b", "cat"])
    unknown = tokenizer.special("unknown")
    assert ids[1:3].tolist() == [unknown, unknown]
    assert numbers.tolist()[1:3] == [1, 2]
    assert trained("byte-bpe").encode_words(["a", "", "a"])[1].tolist() == [0, 2]


# ---- special tokens, values, files ----------------------------------------------------------


def test_special_tokens_by_role():
    tokenizer = trained("wordpiece")
    roles = ["pad", "unknown", "classify", "separate", "mask"]
    assert [tokenizer.special(role) for role in roles] == [0, 1, 2, 3, 4]
    assert not tokenizer.has("end")
    with pytest.raises(UserError, match="no special token for 'end'"):
        tokenizer.special("end")
    assert trained("unigram").special("end") == 1
    assert trained("byte-bpe").special("start") == trained("byte-bpe").special("end") == 0
    said = SubwordTokenizer(trained("unigram").definition, (("end", "<pad>"),))
    assert said.special("end") == 0
    assert said != trained("unigram")
    assert pickle.loads(pickle.dumps(said)) == said


def test_equal_by_definition_and_light_to_pickle(tokenizer):
    tokenizer.encode("cat")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy == tokenizer
    assert hash(copy) == hash(tokenizer)
    assert copy.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert len(pickle.dumps(tokenizer)) < len(tokenizer.definition.encode()) + 200
    assert len(repr(tokenizer)) < 60


def test_saved_and_loaded_is_equal(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded == tokenizer
    assert loaded.decode(loaded.encode("the cat")) == tokenizer.decode(tokenizer.encode("the cat"))


def test_a_forked_process_encodes_without_a_warning():
    code = (
        "import os; from subword_cases import trained; t = trained('byte-bpe')\n"
        "t.encode_many(['a cat'] * 9)\n"
        "if os.fork() == 0: print(*t.encode_many(['a cat'] * 9)[-1]); os._exit(0)\n"
        "os.wait()"
    )
    out = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-u",
            "-c",
            code.replace("print(*", "print(flush=True, *"),
        ],
        cwd=os.path.dirname(os.path.dirname(__file__)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    ids = trained("byte-bpe").encode("a cat").tolist()
    assert out.stdout.splitlines() == [" ".join(map(str, ids))]
    assert out.stderr == ""


# ---- the published vocabularies -------------------------------------------------------------


def test_bert_vocabulary():
    tokenizer = published("bert-base-uncased-vocab.txt")
    text = "This is an example sentence."
    assert tokenizer.tokens(text) == ["this", "is", "an", "example", "sentence", "."]
    assert tokenizer.encode(text).tolist() == [2023, 2003, 2019, 2742, 6251, 1012]
    roles = ["pad", "unknown", "classify", "separate", "mask"]
    assert [tokenizer.special(role) for role in roles] == [0, 100, 101, 102, 103]


HARD = [
    "This is an example sentence.", "Hello  world!\n\n Tabs\tand\r\nlines ", "naïve Café ☕ 漢字 𝄞",
    "don't I'll we've she'd THEY'RE", "x" * 200, "12345 3.14 $5,000 1/2 ½", "e\u0301 \u00e9 \u2026",
    "\u200bzero\u00a0width\ufeff", "", "   ", "supercalifragilisticexpialidocious unaffable",
]  # fmt: skip


def test_ids_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    gpt2 = transformers.GPT2Tokenizer(
        str(vocabulary("gpt2-vocab.json")), str(vocabulary("gpt2-merges.txt"))
    )
    bert = transformers.BertTokenizer(str(vocabulary("bert-base-uncased-vocab.txt")))
    for text in [*HARD, TEXT]:
        ours = published("gpt2-vocab.json").encode(text)
        assert ours.tolist() == gpt2.encode(text, add_special_tokens=False), text
        assert published("gpt2-vocab.json").decode(ours) == text
        ours = published("bert-base-uncased-vocab.txt").encode(text)
        assert ours.tolist() == bert.encode(text, add_special_tokens=False), text


def test_what_stands_before_a_text_that_a_model_goes_on_with():
    tokenizer = train_subwords("unigram", ["a b", "b a"], 10, special_tokens=("<s>",))
    assert tokenizer.before_text.tolist() == []
    start = tokenizer.special("start")
    tree = json.loads(tokenizer.definition)
    for template, expected in (("<s> $A", [start]), ("<s> $A </s>", [])):
        tree["post_processor"] = template_of(template, tokenizer)
        assert SubwordTokenizer(json.dumps(tree)).before_text.tolist() == expected


def template_of(template: str, tokenizer: SubwordTokenizer) -> dict:
    """A post-processor as in the tokenizer.json of a Llama."""
    pieces, specials = [], {}
    for name in template.split():
        if name == "$A":
            pieces.append({"Sequence": {"id": "A", "type_id": 0}})
            continue
        pieces.append({"SpecialToken": {"id": name, "type_id": 0}})
        number = tokenizer.library.token_to_id(name)
        specials[name] = {"id": name, "ids": [number], "tokens": [name]}
    return {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": pieces,
        "special_tokens": specials,
    }
