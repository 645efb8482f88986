import json

import pytest
from subword_cases import TEXT

from jaxseq.cli_tokenizer import tokenizer
from jaxseq.data.subwords import load_subwords
from jaxseq.errors import UserError


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "texts" / "b.txt").write_text("漢字 and cats\n" * 5, encoding="utf-8")
    return tmp_path / "texts"


def test_trains_writes_and_says_how_good_it_is(texts, tmp_path, capsys):
    out = tmp_path / "new" / "tokenizer"
    options = ["--kind", "wordpiece", "--vocab-size", "160", "--lowercase"]
    assert tokenizer([str(out), "--data.path", f"{texts}/*.txt", *options]) == 0
    trained = load_subwords(out)
    assert trained.decode(trained.encode("The CATS, 漢")) == "the cats, 漢"
    whole = TEXT + "漢字 and cats\n" * 5
    said = capsys.readouterr().out
    ratio = len(whole) / (len(trained.encode(TEXT)) + len(trained.encode("漢字 and cats\n" * 5)))
    assert str(out / "tokenizer.json") in said
    assert f"{trained.vocab_size} tokens" in said
    assert f"{ratio:.2f} characters a token on the {len(whole)} characters" in said


def test_every_option_reaches_the_training(texts, tmp_path):
    options = ["--kind", "unigram", "--vocab-size", "90", "--alphabet", "10", "--sentinels", "2"]
    options += ["--special-tokens", "<mask>", "<s>"]
    assert tokenizer([str(tmp_path), "--data.path", str(texts), *options]) == 0
    trained = load_subwords(tmp_path)
    ids = [trained.library.token_to_id(name) for name in ("<mask>", "<s>", "<extra_id_1>")]
    assert ids == [3, 4, 6]
    assert "漢" in trained.unknown("漢 cat")[0]


def test_rows_and_bad_ones(tmp_path, caplog):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"said": TEXT}) + "\n" for _ in range(3)) + "{\n")
    arguments = [str(tmp_path), "--data.path", str(file), "--data.column", "said"]
    arguments += ["--vocab-size", "300"]
    with pytest.raises(UserError, match=r"rows\.jsonl, line 4"):
        tokenizer(arguments)
    assert tokenizer([*arguments, "--data.on-bad-row", "skip"]) == 0
    (record,) = caplog.records
    assert "left out bad rows: 1 " in record.getMessage()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ([], "--data.path"),
        (["--data.path", "gone.txt"], "gone.txt"),
        (["--data.path", "{texts}", "--vocab-size", "0"], "--vocab-size is 0"),
        (["--data.path", "{texts}", "--vocab-size", "100"], "--vocab-size is 100"),
        (["--data.path", "{texts}", "--alphabet", "0"], "--alphabet is 0"),
        (["--data.path", "{texts}", "--sentinels", "-1"], "--sentinels is -1"),
        (["--data.path", "{texts}", "--knd", "bpe"], "--kind"),
    ],
)
def test_mistakes_are_named(options, what, texts, tmp_path):
    with pytest.raises(UserError) as error:
        tokenizer([str(tmp_path / "out"), *(word.format(texts=texts) for word in options)])
    assert what in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_named(texts, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="cannot make"):
        tokenizer([str(tmp_path / "out"), "--data.path", str(texts), "--vocab-size", "300"])
