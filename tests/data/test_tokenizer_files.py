import dataclasses
import json
import sys

import pytest
from subword_cases import TEXT, published, trained, vocabulary

from jaxseq.data.subwords import SubwordTokenizer, load_subwords
from jaxseq.data.tokenizer_definition import byte_symbols
from jaxseq.data.tokenizers import save_tokenizer
from jaxseq.errors import UserError

SYMBOLS = list(byte_symbols())
MERGES = ["t h", "th e"]
VOCAB = {piece: i for i, piece in enumerate([*SYMBOLS, "th", "the", "<|endoftext|>"])}
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "The", "é"]


@dataclasses.dataclass(frozen=True)
class Coder:
    tokenizer: SubwordTokenizer


def write_gpt2(folder, names=("vocab.json", "merges.txt"), vocab=VOCAB, merges=MERGES):
    (folder / names[0]).write_text(json.dumps(vocab))
    (folder / names[1]).write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder


def write_bert(folder, lines=BERT, end="\n", **config):
    (folder / "vocab.txt").write_bytes((end.join(lines) + end).encode())
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_json(folder, kind="unigram", name="tokenizer.json", **steps):
    tree = json.loads(trained(kind).definition) | steps
    (folder / name).write_text(json.dumps(tree))
    return folder


# ---- what is read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("vocab.json", "merges.txt"), "."),
        (("encoder.json", "vocab.bpe"), "."),
        (("vocab.json", "merges.txt"), "vocab.json"),
        (("gpt2-vocab.json", "gpt2-merges.txt"), "gpt2-vocab.json"),
    ],
)
def test_gpt2_files(names, named, tmp_path):
    tokenizer = load_subwords(write_gpt2(tmp_path, names) / named)
    assert tokenizer.tokens("the thé\n") == ["the", "Ġ", "th", "Ã", "©", "Ċ"]
    assert tokenizer.vocab_size == 259
    assert tokenizer.special("end") == 258
    assert tokenizer.decode([*tokenizer.encode("the thé"), 258]) == "the thé"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_bert_vocabulary(end, tmp_path):
    write_bert(tmp_path, end=end)
    for path in (tmp_path, tmp_path / "vocab.txt", str(tmp_path / "vocab.txt")):
        assert load_subwords(path).encode("The cats É").tolist() == [5, 6, 7, 1]
    cased = load_subwords(tmp_path, lowercase=False)
    assert cased.encode("The cats é").tolist() == [8, 6, 7, 9]
    assert [cased.special(role) for role in ("pad", "classify", "mask")] == [0, 2, 4]


def test_bert_options_are_in_its_config(tmp_path):
    write_bert(tmp_path, do_lower_case=False, tokenizer_class="BertTokenizerFast")
    assert load_subwords(tmp_path).encode("The É").tolist() == [8, 1]
    assert load_subwords(tmp_path, lowercase=True).encode("The").tolist() == [5]
    write_bert(tmp_path, do_lower_case=True, strip_accents=False)
    assert load_subwords(tmp_path).encode("É").tolist() == [9]


def test_any_tokenizer_json(tmp_path):
    write_json(tmp_path, truncation={"direction": "Right", "max_length": 3,
                                     "strategy": "LongestFirst", "stride": 0})  # fmt: skip
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = load_subwords(path)
        assert tokenizer.encode(TEXT).tolist() == trained("unigram").encode(TEXT).tolist()


def test_the_tokenizer_of_a_run_directory_with_a_coder(tmp_path):
    save_tokenizer(Coder(trained("bpe")), tmp_path / "tokenizer.json")
    assert load_subwords(tmp_path) == trained("bpe")


def test_special_tokens_that_only_the_config_names(tmp_path):
    write_json(tmp_path)
    size = trained("unigram").vocab_size
    config = {
        "added_tokens_decoder": {str(size): {"content": "<turn>", "special": True},
                                 "1": {"content": "</s>", "special": True}},
        "eos_token": "<turn>",
        "bos_token": None,
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    named = {"mask_token": {"content": "<hide>"}, "additional_special_tokens": ["<x>"]}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    tokenizer = load_subwords(tmp_path)
    assert tokenizer.special("end") == size
    assert tokenizer.special("mask") == size + 1
    assert tokenizer.vocab_size == size + 3
    assert tokenizer.special("pad") == 0
    assert tokenizer.byte_lengths[size:].tolist() == [0, 0, 0]
    assert tokenizer.encode(TEXT).tolist() == trained("unigram").encode(TEXT).tolist()


def test_published_files_are_read_from_their_directory():
    folder = vocabulary("gpt2-vocab.json").parent
    with pytest.raises(UserError, match=r"it needs a tokenizer\.json"):
        load_subwords(folder)
    assert published("gpt2-vocab.json").vocab_size == 50257
    assert published("gpt2-vocab.json").special("end") == 50256
    assert published("bert-base-uncased-vocab.txt").vocab_size == 30522


# ---- what is refused ------------------------------------------------------------------------


def refused(path, *words):
    with pytest.raises(UserError) as error:
        load_subwords(path)
    message = str(error.value)
    for word in words:
        assert str(word) in message, message
    assert "\n" not in message


def test_paths_that_hold_no_tokenizer(tmp_path):
    refused(tmp_path / "gone", tmp_path / "gone", "there is no tokenizer")
    refused(tmp_path, tmp_path, "vocab.txt")
    (tmp_path / "other.json").write_text('{"a": 1}')
    refused(tmp_path / "other.json", "other.json", "tokenizer.json")
    (tmp_path / "spiece.model").write_bytes(b"\x00")
    refused(tmp_path, "spiece.model", "transformers")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"model": {}}'])
def test_a_damaged_tokenizer_json_is_named(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        refused(path, tmp_path / "tokenizer.json", "damaged", "restore it")


def model(kind, **fields):
    return json.loads(trained(kind).definition)["model"] | fields


def test_a_tokenizer_json_that_contradicts_itself_is_named(tmp_path):
    file = tmp_path / "tokenizer.json"
    merges = model("bpe")["merges"]
    for tree, what in [
        (model("bpe", merges=[*merges, ["q", "zz"]]), f"merge {len(merges) + 1} (q zz)"),
        (model("bpe", merges=["a"]), "merge 1"),
        (model("bpe", unk_token="<?>"), "'<?>'"),
        (model("bpe", vocab={"<unk>": 0, "a": 0}, merges=[]), "same id 0"),
        (model("bpe", vocab={"<unk>": "0"}, merges=[]), "'0'"),
        (model("wordpiece", vocab={"a": 0}), "'[UNK]'"),
        (model("unigram", unk_id=None), "unknown piece None"),
        (model("unigram", unk_id=10_000), "unknown piece 10000"),
        (model("unigram", vocab=[["a"]]), "entry 0"),
    ]:
        write_json(tmp_path, model=tree)
        refused(tmp_path, file, what)
    write_json(tmp_path, decoder={"type": "CTC"})
    refused(tmp_path, file, "CTC")
    write_json(tmp_path, pre_tokenizer={"kind": "?"})
    refused(tmp_path, file, "no type")


def test_gpt2_files_that_do_not_fit_are_named(tmp_path):
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    write_gpt2(tmp_path, merges=["t h", "th e", "q zz"])
    refused(tmp_path, merges, "line 4", "(q zz)", "'zz'", vocab)
    write_gpt2(tmp_path, merges=["t h e"])
    refused(tmp_path, merges, "line 2", "not two pieces")
    write_gpt2(tmp_path, vocab={piece: i for piece, i in VOCAB.items() if i != 7})
    refused(tmp_path, vocab, "258 pieces", "0 to 257")
    write_gpt2(tmp_path, vocab={p: i for i, p in enumerate(VOCAB) if p != SYMBOLS[3]} | {"x": 3})
    refused(tmp_path, vocab)
    write_gpt2(tmp_path, vocab={"the": 0, "model": 1}, merges=[])
    refused(tmp_path, vocab, "no byte-level vocabulary")
    write_gpt2(tmp_path)
    merges.write_bytes(b"#version\nt h\n\xff\xfe\n")
    refused(tmp_path, merges, "line 3", "not UTF-8")
    merges.unlink()
    refused(tmp_path, vocab, merges)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
    refused(write_gpt2(tmp_path), vocab, "CTRLTokenizer")


def test_bert_files_that_are_damaged_are_named(tmp_path):
    file = tmp_path / "vocab.txt"
    refused(write_bert(tmp_path, [*BERT, "cat"]), file, "line 11", "line 7", "cat")
    refused(write_bert(tmp_path, [*BERT, "", "x"]), file, "line 11", "empty")
    refused(write_bert(tmp_path, ["a", "b"]), file, "[UNK]")
    file.write_bytes(b"[UNK]\na\n\xff\n")
    refused(file, file, "line 3", "not UTF-8")
    refused(write_bert(tmp_path, tokenizer_class="BertJapaneseTokenizer"), file, "BertJapanese")


def test_added_tokens_that_do_not_fit_are_named(tmp_path):
    write_json(tmp_path)
    config = {"added_tokens_decoder": {"5000": {"content": "<turn>", "special": True}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    refused(tmp_path, tmp_path / "tokenizer_config.json", "'<turn>'", "5000")
    (tmp_path / "tokenizer_config.json").write_text("[]")
    refused(tmp_path, tmp_path / "tokenizer_config.json", "damaged")


def test_a_damaged_run_directory_is_named(tmp_path):
    save_tokenizer(trained("bpe"), tmp_path / "tokenizer.json")
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    tree["definition"] = tree["definition"][:500]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    refused(tmp_path, tmp_path / "tokenizer.json", "damaged")


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch):
    write_bert(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    refused(tmp_path, "pip install")
