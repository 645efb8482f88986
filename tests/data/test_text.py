import gzip
import os
import sys

import pytest

from jaxseq.data.text import Document, read_documents, split_documents, standard_library
from jaxseq.errors import UserError


def _fails(path, *parts):
    with pytest.raises(UserError) as error:
        read_documents(path)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message


def test_a_file_of_any_name_is_one_document_with_its_line_endings(tmp_path):
    file = tmp_path / "corpus.dat"
    file.write_bytes("a\r\nb\rc\né".encode())
    assert read_documents(file) == [Document("corpus.dat", "a\r\nb\rc\né")]


def test_gzip_is_decompressed(tmp_path):
    file = tmp_path / "corpus.txt.gz"
    file.write_bytes(gzip.compress(b"zipped\r\n"))
    assert read_documents(file) == [Document("corpus.txt.gz", "zipped\r\n")]


def test_a_directory_is_read_recursively_sorted_by_path(tmp_path):
    for name, text in {
        "b.txt": "2",
        "a/z.md": "1",
        "a.txt": "0",
        "c/d/e.PY": "4",
        "c/LICENSE": "3",
        ".hidden.txt": "no",
        ".git/config.txt": "no",
        "empty.txt": "",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "f.txt.gz").write_bytes(gzip.compress(b"5"))
    assert [(d.name, d.text) for d in read_documents(tmp_path)] == [
        ("a.txt", "0"),
        ("a/z.md", "1"),
        ("b.txt", "2"),
        ("c/LICENSE", "3"),
        ("c/d/e.PY", "4"),
        ("f.txt.gz", "5"),
    ]


def test_files_skipped_in_a_directory_are_counted_in_a_warning(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    assert len(read_documents(tmp_path)) == 1
    assert "skipped 2 files by suffix: 2 *.png" in caplog.text


def test_nothing_skipped_is_no_warning(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("text")
    read_documents(tmp_path)
    assert caplog.text == ""


def test_missing_path(tmp_path):
    _fails(tmp_path / "absent.txt", "No such file", "check the path")


def test_a_path_below_a_file(tmp_path):
    (tmp_path / "file.txt").write_text("text")
    _fails(tmp_path / "file.txt" / "more.txt", "Not a directory")


def test_empty_file(tmp_path):
    (tmp_path / "a.txt").touch()
    _fails(tmp_path / "a.txt", "is empty")


def test_empty_directory_and_one_without_text(tmp_path):
    _fails(tmp_path, "found 0 empty text files", "name a directory")
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    _fails(tmp_path, "found 1 empty text files, and skipped 1 *.png")


def test_what_is_neither_file_nor_directory(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    _fails(tmp_path / "pipe", "neither a file nor a directory")


def test_text_that_is_not_utf8_names_line_and_byte(tmp_path):
    file = tmp_path / "latin.txt"
    file.write_bytes("one\ntwo\nthr\xe9e\n".encode("latin-1"))
    _fails(file, "line 3 (byte 11)", "iconv")


def test_a_bad_file_in_a_directory_is_named_not_dropped(tmp_path):
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfeb\0a\0d\0")
    with pytest.raises(UserError, match=r"b\.txt, line 1 \(byte 0\)"):
        read_documents(tmp_path)


@pytest.mark.parametrize(
    "damaged",
    [
        b"not gzip at all",
        gzip.compress(b"text" * 100)[:-9],
        gzip.compress(b"text" * 100)[:-8] + b"\0" * 8,
        gzip.compress(b"text")[:10] + b"\xff" * 20,
    ],
    ids=["plain", "truncated", "checksum", "garbage"],
)
def test_damaged_gzip(damaged, tmp_path):
    file = tmp_path / "a.txt.gz"
    file.write_bytes(damaged)
    _fails(file, "not a whole gzip file", "fetch it again")


def test_an_unreadable_file(tmp_path, monkeypatch):
    # Not by chmod: root, as whom containers run tests, may read everything.
    file = tmp_path / "a.txt"
    file.write_text("secret")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("jaxseq.data.text.Path.read_bytes", refuse)
    _fails(file, "Permission denied", "check the path and its permissions")


def test_an_unreadable_directory(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr("os.scandir", refuse)
    _fails(tmp_path, "Permission denied")


def test_a_link_loop(tmp_path):
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    _fails(tmp_path / "loop.txt", "symbolic links")


def test_standard_library_is_a_few_megabytes_sorted_and_the_same_twice():
    documents = standard_library()
    names = [document.name for document in documents]
    assert names == sorted(names)
    assert {"argparse.py", "inspect.py", "typing.py"} <= set(names)
    assert all(name.removesuffix(".py") in sys.stdlib_module_names for name in names)
    assert 3e6 < sum(len(document.text) for document in documents) < 8e6
    assert standard_library() == documents


def test_standard_library_leaves_out_what_is_not_the_library_or_not_utf8(tmp_path, monkeypatch):
    (tmp_path / "abc.py").write_text("pass\n")
    (tmp_path / "ast.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "sitecustomize.py").write_text("pass\n")
    monkeypatch.setattr("jaxseq.data.text.sysconfig.get_path", lambda name: str(tmp_path))
    assert standard_library() == [Document("abc.py", "pass\n")]
    (tmp_path / "abc.py").unlink()
    with pytest.raises(UserError, match=r"no sources.*--data\.path"):
        standard_library()


def _documents(n):
    return [Document(f"{i:03}.txt", str(i)) for i in range(n)]


@pytest.mark.parametrize("n", [2, 3, 10, 11, 97, 164])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.3, 0.5, 0.999])
def test_split_holds_out_whole_files(n, fraction):
    documents = _documents(n)
    train, validation = split_documents(documents, fraction)
    assert train
    assert validation
    assert sorted(train + validation, key=lambda d: d.name) == documents
    assert len(validation) == min(max(1, round(n * fraction)), n - 1)
    assert split_documents(documents, fraction) == (train, validation)


def test_held_out_files_are_spread_evenly():
    _, validation = split_documents(_documents(100), 0.1)
    assert [int(d.text) for d in validation] == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]


def test_a_single_document_is_cut_where_nanogpt_cuts_tiny_shakespeare():
    text = "x" * 1_003_854 + "y" * (1_115_394 - 1_003_854)
    train, validation = split_documents([Document("input.txt", text)], 0.1)
    assert [(d.name, set(d.text)) for d in train + validation] == [
        ("input.txt", {"x"}),
        ("input.txt", {"y"}),
    ]
    assert len(train[0].text) == 1_003_854 == int(1_115_394 * 0.9)


@pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 1000])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.25, 0.5])
def test_a_single_document_is_never_overlapped_or_lost(n, fraction):
    text = "".join(chr(65 + i % 50) for i in range(n))
    (train,), (validation,) = split_documents([Document("a", text)], fraction)
    assert train.text + validation.text == text
    assert len(train.text) == int(n * (1 - fraction))
