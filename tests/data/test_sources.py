import gzip
import json
import logging
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxseq.data.sources import BadRows, Row, read_rows
from jaxseq.errors import UserError

TWO = ("label", "sentence")


def _write(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return file


def _read(source, columns=("text",), bad_rows=None):
    """(what stands behind the last comma of its place, the fields in order) of each row."""
    rows = read_rows(source, columns, bad_rows)
    return [(row.place.rpartition(", ")[2], tuple(row.fields.values())) for row in rows]


def _fails(source, *parts, columns=("text",)):
    with pytest.raises(UserError) as error:
        _read(source, columns)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


# ---- formats --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tsv", "a.TSV.gz", "a.jsonl", "a.json", "a.csv.gz"])
def test_the_same_rows_in_every_format_of_lines(tmp_path, name):
    rows = [("0", 'no "good", not'), ("1", "Caf\u00e9 \u2028x")]
    content = {
        "tsv": "".join(f"{label}\t{text}\r\n\n" for label, text in rows),
        "jsonl": "\n\n".join(json.dumps({"label": a, "n": 1, "sentence": b}) for a, b in rows),
        "json": json.dumps([{"sentence": b, "label": a} for a, b in rows], indent=1),
        "csv": '0,"no ""good"", not"\n\n1,"Caf\u00e9 \u2028x"\n',
    }[name.lower().removesuffix(".gz").rpartition(".")[2]]
    file = _write(tmp_path, name, content)
    found = list(read_rows(file, TWO))
    assert [tuple(row.fields.values()) for row in found] == rows
    assert [tuple(row.fields) for row in found] == [TWO, TWO]
    what = "item 2" if name == "a.json" else "line 3"
    assert found[1].place == f"{file}, {what}"


def test_a_first_line_with_all_the_columns_is_a_header_and_may_have_more(tmp_path):
    tsv = _write(tmp_path, "a.tsv", "sentence\tid\tlabel\nfine\t7\t1\n")
    assert _read(tsv, TWO) == [("line 2", ("1", "fine"))]
    bom = _write(tmp_path, "a.csv", b"\xef\xbb\xbf" + b'"label",sentence\n1,fine\n')
    assert _read(bom, TWO) == [("line 2", ("1", "fine"))]
    without = _write(tmp_path, "b.tsv", "label\tx\n1\tfine\n")
    assert _read(without, TWO) == [("line 1", ("label", "x")), ("line 2", ("1", "fine"))]


def test_a_field_of_csv_may_hold_lines_and_a_row_is_named_by_its_first(tmp_path):
    file = _write(tmp_path, "a.csv", 'x,"one\ntwo"\ny,three\nz\n')
    bad = BadRows("skip")
    assert _read(file, TWO, bad) == [("line 1", ("x", "one\ntwo")), ("line 3", ("y", "three"))]
    _fails(file, "a.csv, line 4: too few columns: 1 and not 2: label, sentence", columns=TWO)


def test_json_may_be_an_object_a_line(tmp_path):
    file = _write(tmp_path, "a.json", '\n{"text": "a"}\n{"text": "b"}\n')
    assert _read(file) == [("line 2", ("a",)), ("line 3", ("b",))]


def test_a_line_of_text_is_the_one_column(tmp_path):
    file = _write(tmp_path, "a.txt", "one\ttwo\n\nthree")
    assert _read(file) == [("line 1", ("one\ttwo",)), ("line 3", ("three",))]
    _fails(file, file, "plain text", "label, sentence", columns=TWO)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "a.parquet"
    table = {"n": list(range(3000)), "text": [f"t{i}" for i in range(2999)] + [None]}
    parquet.write_table(pyarrow.table(table), file)
    bad = BadRows("skip")
    rows = _read(file, ("text", "n"), bad)
    assert rows[2500] == ("row 2501", ("t2500", 2500))
    assert (len(rows), dict(bad.reasons)) == (2999, {"null in a column": 1})
    _fails(file, "a.parquet, row 3000: null in a column: text")
    _fails(file, "has no column sentence", "n, text", columns=("sentence",))
    whole = file.read_bytes()
    for damaged in (whole[:-20], whole[:200] + b"\0" * 50 + whole[250:], b""):
        file.write_bytes(damaged)
        _fails(file, file, "not a whole Parquet file", columns=("text", "n"))
    _fails(_write(tmp_path, "b.parquet.gz", whole), "gunzip it first")


def test_array_record(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    file = tmp_path / "a.arrayrecord"
    writer = module.ArrayRecordWriter(str(file), "group_size:1")
    for record in (b'{"text": "a", "n": 1}', "{ caf\u00e9".encode(), b"\xff", b'{"n": 2}'):
        writer.write(record)
    writer.close()
    bad = BadRows("skip")
    assert _read(file, ("text",), bad) == [("record 1", ("a",)), ("record 2", ("{ caf\u00e9",))]
    assert dict(bad.reasons) == {"not UTF-8 text": 1, "missing column": 1}
    _fails(file, "record 2: bad JSON", columns=("text", "n"))
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    _fails(file, file, "not a whole ArrayRecord file", "fetch it again")


def test_a_dataset_of_the_hub_through_the_hf_extra(monkeypatch):
    asked = []

    class Dataset(list):
        column_names = ("text", "label")

        def select_columns(self, names):
            return [{name: row[name] for name in names} for row in self]

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        if name == "a/absent":
            raise FileNotFoundError("Dataset 'a/absent' doesn't exist on the Hub\nmore")
        return Dataset([{"text": "x", "label": 1}, {"text": None, "label": 0}])

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    bad = BadRows("skip")
    url = Path("hf://org/name/small?split=test[:10%]")
    assert _read(url, ("label", "text"), bad) == [("row 1", (1, "x"))]
    assert list(read_rows("hf://org/name", ["label"]))[1] == Row(
        "hf://org/name, row 2", {"label": 0}
    )
    assert asked == [("org/name", "small", "test[:10%]"), ("org/name", None, "train")]
    _fails("hf://a/absent", "hf://a/absent: Dataset 'a/absent'", "huggingface.co")
    _fails("hf://a/b", "no column words; its columns are text, label", columns=("words",))
    _fails("hf://a/b/c/d", "write hf://ORG/NAME")
    _fails("hf://a/b?spilt=test", "write hf://ORG/NAME")
    monkeypatch.setitem(sys.modules, "datasets", None)
    _fails("hf://a/b", "pip install 'jaxseq[hf]'")


# ---- places ---------------------------------------------------------------------------------


def test_a_directory_is_read_in_order_and_what_has_no_rows_is_counted(tmp_path, caplog):
    for name in ("b.jsonl", "a/z.jsonl.gz", ".hidden.jsonl"):
        _write(tmp_path, name, json.dumps({"text": name}))
    _write(tmp_path, "c.txt", "")
    assert _read(tmp_path) == [("line 1", ("a/z.jsonl.gz",)), ("line 1", ("b.jsonl",))]
    assert caplog.text == ""
    _write(tmp_path, "model.bin", "x")
    assert len(_read(tmp_path)) == 2
    assert "skipped 1 files by suffix: 1 *.bin" in caplog.text


def test_globs(tmp_path):
    for name in ("1.tsv", "2.tsv", "3.txt", "deep/er/4.tsv"):
        _write(tmp_path, name, name)
    assert [fields for _, fields in _read(tmp_path / "?.tsv")] == [("1.tsv",), ("2.tsv",)]
    assert len(_read(tmp_path / "**" / "*.tsv")) == 3
    _fails(tmp_path / "*.csv", "the glob", "*.csv matches no file in", "mend the pattern")
    _fails(tmp_path / "no" / "*.csv", f"there is no {tmp_path / 'no'}")
    odd = _write(tmp_path, "a[1].tsv", "x")
    assert _read(odd) == [("line 1", ("x",))]


def test_a_missing_path_names_the_nearest(tmp_path):
    _write(tmp_path, "train.jsonl", "{}")
    _fails(tmp_path / "trian.jsonl", "No such file", "did you mean 'train.jsonl'?")
    _fails(tmp_path / "train.jsonl" / "x", "Not a directory")


def test_what_has_no_rows(tmp_path):
    _fails(_write(tmp_path, "a.tsv", "\n\n"), "a.tsv has no row", columns=TWO)
    _fails(_write(tmp_path, "b.tsv", "label\tsentence\n"), "b.tsv has no row", columns=TWO)
    _fails(_write(tmp_path, "c.pkl", "x"), "c.pkl: rows are read from .jsonl, .json, .tsv")
    (tmp_path / "empty").mkdir()
    _fails(tmp_path / "empty", "empty has no file of rows: give .jsonl")


def test_urls_go_through_fsspec():
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/rows/a.jsonl", b'{"text": "a"}\n')
    memory.pipe("/rows/b.jsonl.gz", gzip.compress(b'\n{"text": "b"}\n'))
    both = [("line 1", ("a",)), ("line 2", ("b",))]
    assert _read("memory://rows/a.jsonl") == both[:1]
    assert _read(Path("memory://rows/b.jsonl.gz")) == both[1:]  # a Path folds the slashes
    assert _read("memory://rows") == _read("memory://rows/*") == both
    _fails("memory://rows/c.jsonl", "there is no memory://rows/c.jsonl; did you mean 'a.jsonl'?")
    _fails("memory://rows/*.tsv", "matches no file")
    _fails("nowhere://rows/a.jsonl", "nowhere://rows/a.jsonl: Protocol not known: nowhere")
    memory.pipe("/rows/c.jsonl", b'{"text": "a"}\nx\n')
    _fails("memory://rows/c.jsonl", "memory://rows/c.jsonl, line 2: bad JSON")


def test_a_url_whose_package_or_host_is_missing(monkeypatch):
    core = pytest.importorskip("fsspec.core")

    def refuse(url):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(core, "url_to_fs", refuse)
    _fails("gs://b/a.tsv", "gs://b/a.tsv: Please install gcsfs", "copy the data to a local")

    class Unreachable:
        def isdir(self, path):
            raise ConnectionError("no route to host")

    monkeypatch.setattr(core, "url_to_fs", lambda url: (Unreachable(), "b/a.tsv"))
    _fails("gs://b/a.tsv", "gs://b/a.tsv: no route to host", "the network")


def test_a_file_url_is_a_local_file(tmp_path):
    file = _write(tmp_path, "a.txt", "x")
    assert _read(f"file://{file}") == _read(Path(f"file://{file}")) == [("line 1", ("x",))]


def test_local_files_need_neither_fsspec_nor_pyarrow(tmp_path):
    file = _write(tmp_path, "a.jsonl", '{"text": 1}')
    code = (
        "import sys; from jaxseq.data.sources import read_rows; "
        f"print(len(list(read_rows({str(file)!r}, ['text'])))); "
        "print([n for n in ('fsspec', 'etils', 'pyarrow', 'datasets', 'jax') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["1", "[]"]


def test_a_missing_pyarrow_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    _fails(_write(tmp_path, "a.parquet", "x"), "needs pyarrow: pip install 'jaxseq[hf]'")


def test_files_are_read_as_they_are_asked_for(tmp_path, monkeypatch):
    _write(tmp_path, "a.jsonl", '{"text": 1}\n{"text": 2}\nnot JSON\n')
    rows = read_rows(tmp_path, ["text"])  # nothing is read yet
    assert next(rows).fields == {"text": 1}
    assert next(rows).fields == {"text": 2}
    with pytest.raises(UserError, match=r"line 3: bad JSON"):
        next(rows)


# ---- bad rows -------------------------------------------------------------------------------

BAD = {
    "too few columns": ("a.tsv", b"1\tok\nonly one\n1\tok\n", TWO, 2),
    "too many columns": ("a.tsv", b"1\tok\n1\tno\tno\n", TWO, 2),
    "not UTF-8 text": ("a.tsv", b"1\tok\n1\tcaf\xe9\n1\tok", TWO, 2),
    "bad JSON": ("a.jsonl", b'{"text": 1}\n{"text": \n', ("text",), 2),
    "missing column": ("a.jsonl", b'{"text": 1}\n{"txt": 1}\n', ("text",), 2),
    "null in a column": ("a.jsonl", b'{"text": 1}\n{"text": null}\n', ("text",), 2),
    "bad CSV": ("a.csv", b'a\n"x"y\nb\n', ("text",), 2),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_an_error_with_file_and_line_or_is_counted(tmp_path, reason, caplog):
    name, content, columns, line = BAD[reason]
    file = _write(tmp_path, name, content)
    _fails(file, f"{file}, line {line}: {reason}", "--data.on-bad-row skip", columns=columns)
    bad = BadRows("skip")
    assert len(_read(file, columns, bad)) == content.strip().count(b"\n")
    assert dict(bad.reasons) == {reason: 1}
    bad.report()
    assert f"left out bad rows: 1 {reason}" in caplog.text


def test_what_json_holds_beside_objects(tmp_path):
    _fails(_write(tmp_path, "a.jsonl", '["x"]'), "a.jsonl, line 1: bad JSON: \"['x']\" is not")
    _fails(_write(tmp_path, "a.json", '[{"text": 1}, 2]'), "a.json, item 2: bad JSON: '2' is not")
    _fails(_write(tmp_path, "b.json", '[{"text": 1},\n'), "b.json, line 2: bad JSON")
    _fails(_write(tmp_path, "c.json", b'[{"text": "\xff"}]'), "c.json: not UTF-8 text at byte 11")


def test_bytes_that_are_no_text_end_a_row_of_csv_as_text_does(tmp_path):
    file = _write(tmp_path, "a.csv", b'a,b\nx,"one\ncaf\xe9"\ny,two\n')
    bad = BadRows("skip")
    assert _read(file, ("a", "b"), bad) == [("line 4", ("y", "two"))]
    _fails(file, "a.csv, line 3: not UTF-8 text", columns=("a", "b"))


def test_a_quote_that_is_never_closed_counts_every_line_that_it_takes(tmp_path):
    file = _write(tmp_path, "a.csv", 'x\n"open\n' + "y\n" * 9)
    bad = BadRows("skip")
    assert _read(file, ("a",), bad) == [("line 1", ("x",))]
    assert dict(bad.reasons) == {"bad CSV": 10}


def test_skipped_rows_are_counted_over_files_and_reported_once(tmp_path, caplog):
    _write(tmp_path, "a.jsonl", '{"text": 1}\nx\n{"txt": 1}\ny\n')
    _write(tmp_path, "b.tsv", "1\t2\n1\n")
    bad = BadRows("skip")
    with caplog.at_level(logging.WARNING):
        assert _read(tmp_path, ("text",), bad) == [("line 1", (1,)), ("line 2", ("1",))]
        assert caplog.text == ""
        bad.report()
    (record,) = caplog.records
    message = "left out bad rows: 2 bad JSON, 1 missing column, 1 too many columns"
    assert record.getMessage() == message
    caplog.clear()
    BadRows("skip").report()
    assert caplog.text == ""


def test_where_every_row_is_bad_nothing_is_left_to_read(tmp_path):
    file = _write(tmp_path, "a.tsv", "1\n2\n")
    with pytest.raises(UserError, match=r"a\.tsv has no good row \(2 too few columns\)"):
        _read(file, TWO, BadRows("skip"))


def test_damaged_gzip_is_an_error_even_where_bad_rows_are_skipped(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": 1}\n' * 9999)[:-9])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz is not a whole gzip file"):
        _read(file, ("text",), BadRows("skip"))


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    file = _write(tmp_path, "a.jsonl", "{}")

    def refuse(self, *arguments):
        raise PermissionError(13, "Permission denied", os.fspath(self))

    monkeypatch.setattr(Path, "open", refuse)
    _fails(file, f"cannot read {file}: Permission denied")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_what_is_written_is_read(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    file = _write(folder, "a.jsonl", "".join(json.dumps(dict(a=a, b=b)) + "\n" for a, b in rows))
    assert [fields for _, fields in _read(file, ("a", "b"))] == rows
    fields = [
        (a, b) for a, b in rows if not set(a + b) & set("\t\r\n") and (a + b).strip() and a != "a"
    ]
    if fields:
        tsv = _write(folder, "a.tsv", "".join(f"{a}\t{b}\n" for a, b in fields))
        assert [row for _, row in _read(tsv, ("a", "b"))] == fields


def test_the_shared_sentiment_files():
    if "JAXSEQ_DATA" not in os.environ:
        pytest.skip("JAXSEQ_DATA does not name the data directory")
    rows = _read("$JAXSEQ_DATA/sentiment/rt_polarity.dev.tsv", TWO)
    assert len(rows) == 1066
    assert sum(label == "1" for _, (label, _) in rows) == 570
