"""Data by name: copies go first; downloads are checked, resumed, kept aside where wrong."""

import hashlib
import http.server
import io
import os
import re
import tarfile
import threading
from pathlib import Path

import pytest
from tiny import call

from jaxseq.data import catalog
from jaxseq.data.catalog import CatalogFile, find, is_here
from jaxseq.data.catalog_entries import CATALOG
from jaxseq.data.fetch import fetch, unpack
from jaxseq.data.files import absolute
from jaxseq.errors import UserError

CONTENT = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the first answer breaks off half-way where `breaks` is set."""

    asked: list[str | None]
    breaks: bool
    status: int

    def do_GET(self):
        self.asked.append(self.headers.get("Range"))
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if type(self).status != 200:
            self.send_error(type(self).status)
            return
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT) // 2 if type(self).breaks else len(CONTENT)
        type(self).breaks = False
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """(URL of the content, the server's class)."""
    # A proxy of the machine's would be asked for 127.0.0.1 otherwise.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    kind = type("Own", (Server,), {"asked": [], "breaks": False, "status": 200})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/data.bin", kind
        running.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server, tmp_path):
    url, kind = server
    to = tmp_path / "deep" / "data.bin"
    for _ in range(2):
        assert fetch(url, DIGEST, to).read_bytes() == CONTENT
    assert kind.asked == [None]
    assert [file.name for file in to.parent.iterdir()] == ["data.bin"]


def test_a_broken_download_is_gone_on_with(server, tmp_path):
    url, kind = server
    kind.breaks = True
    to = tmp_path / "data.bin"
    half = len(CONTENT) // 2
    with pytest.raises(UserError, match=r"cannot fetch .* bytes are kept.*goes on from there"):
        fetch(url, DIGEST, to)
    assert not to.exists()
    have = (tmp_path / "data.bin.part").stat().st_size
    assert 0 < have <= half
    assert fetch(url, DIGEST, to).read_bytes() == CONTENT
    assert kind.asked == [None, f"bytes={have}-"]
    assert not (tmp_path / "data.bin.part").exists()


def test_a_download_that_was_whole_already_needs_no_more(server, tmp_path):
    url, _ = server
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch(url, DIGEST, tmp_path / "data.bin").read_bytes() == CONTENT


def test_what_is_not_as_it_was_is_kept_aside(server, tmp_path):
    url, _ = server
    to = tmp_path / "data.bin"
    with pytest.raises(UserError, match=r"SHA-256 is not 0000.*data\.bin\.rejected and not used"):
        fetch(url, "0" * 64, to)
    assert not to.exists()
    assert (tmp_path / "data.bin.rejected").read_bytes() == CONTENT
    assert fetch(url, DIGEST, to).read_bytes() == CONTENT  # a new try starts anew


def test_no_network_and_no_such_file_are_said(server, tmp_path):
    url, kind = server
    kind.status = 404
    with pytest.raises(UserError, match=r"cannot fetch .*: 404 Not Found; .*JAXSEQ_DATA"):
        fetch(url, DIGEST, tmp_path / "data.bin")
    with pytest.raises(UserError, match=r"cannot fetch .*: ConnectionError; without a network"):
        fetch("http://127.0.0.1:1/x", DIGEST, tmp_path / "x")


def archive(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            made.addfile(member, io.BytesIO(b"ok"))
    return path


def test_archives_are_unpacked_once_and_nowhere_else(tmp_path):
    good = archive(tmp_path / "a.tar.gz", ["Set/part/one.txt"])
    for _ in range(2):
        folder = unpack(good, tmp_path / "set")
        assert (folder / "Set" / "part" / "one.txt").read_text() == "ok"
    with pytest.raises(UserError, match="is damaged"):
        unpack(archive(tmp_path / "b.tar.gz", ["../outside.txt"]), tmp_path / "b")
    assert not (tmp_path / "outside.txt").exists()
    assert not (tmp_path / "b").exists()
    (tmp_path / "c.tar.gz").write_bytes(good.read_bytes()[:-30])
    with pytest.raises(UserError, match="is damaged"):
        unpack(tmp_path / "c.tar.gz", tmp_path / "c")


def test_a_copy_goes_before_the_cache_and_the_cache_before_the_network(
    server, tmp_path, monkeypatch
):
    url, kind = server
    file = CatalogFile("small/data.bin", url, DIGEST)
    entry = catalog.DataSet("small", "", "", "", {"all": file, "hub": "hf://a/b?split=train"})
    monkeypatch.setattr("jaxseq.data.catalog_entries.CATALOG", (entry,))
    monkeypatch.setenv("JAXSEQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXSEQ_DATA", raising=False)
    assert absolute(Path("catalog:small/hub")) == Path("hf://a/b?split=train")
    only = catalog.DataSet("small", "", "", "", {"all": file})
    monkeypatch.setattr("jaxseq.data.catalog_entries.CATALOG", (only,))
    assert not is_here("small")
    cached = tmp_path / "cache" / "data" / "small" / "data.bin"
    assert absolute(Path("catalog:small/all")) == cached
    assert is_here("small")
    assert find("small/all") == cached
    copy = tmp_path / "data" / "small" / "data.bin"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(b"mine")
    monkeypatch.setenv("JAXSEQ_DATA", str(tmp_path / "data"))
    assert find("catalog:small/all") == copy
    assert kind.asked == [None]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eng-frs/train", "the catalog has no 'eng-frs'; did you mean 'eng-fra'"),
        ("eng-fra/trian", "no split 'trian'; did you mean 'train'"),
        ("eng-fra", "no split ''; there are train, validation, test"),
        ("eng-fra/train", r"cannot be fetched: .*\$JAXSEQ_DATA/translation/eng-fra.train.tsv"),
    ],
)
def test_names_that_lead_nowhere(name, message, monkeypatch, tmp_path):
    monkeypatch.delenv("JAXSEQ_DATA", raising=False)
    monkeypatch.setenv("JAXSEQ_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=message):
        find(name)


def test_every_entry_is_whole():
    assert len({entry.name for entry in CATALOG}) == len(CATALOG)
    for entry in CATALOG:
        assert entry.what
        assert entry.licence
        assert entry.source.startswith("https://")
        for file in entry.splits.values():
            if isinstance(file, CatalogFile) and file.url:
                assert re.fullmatch("[0-9a-f]{64}", file.sha256), entry.name
            assert isinstance(file, CatalogFile) or file.startswith("hf://")


def test_copies_of_this_machine_are_those_of_the_catalog():
    if "JAXSEQ_DATA" not in os.environ:
        pytest.skip("JAXSEQ_DATA does not name the data")
    checked = 0
    for entry in CATALOG:
        for split, file in entry.splits.items():
            if isinstance(file, CatalogFile) and file.sha256 and is_here(entry.name):
                path = find(f"{entry.name}/{split}")
                if path.is_file():
                    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256, path
                    checked += 1
    assert checked > 15


def test_the_verb_lists_and_finds(capsys, monkeypatch, tmp_path):
    status, out, _ = call(capsys, "data")
    assert status == 0
    assert "catalog:librispeech/{train-clean-100," in out
    assert "CC BY-SA 4.0" in out
    copy = tmp_path / "names" / "names.txt"
    copy.parent.mkdir()
    copy.write_text("ann\n")
    monkeypatch.setenv("JAXSEQ_DATA", str(tmp_path))
    status, out, _ = call(capsys, "data", "names")
    assert (status, out) == (0, f"catalog:names/all  {copy}\n")
    status, _, err = call(capsys, "data", "nams")
    assert (status, "did you mean 'names'" in err) == (2, True)
