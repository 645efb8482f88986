"""Files from the network: fetched once, checked, and gone on with where a connection broke."""

import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from jaxseq.errors import UserError

_PIECE = 1 << 20
_SECONDS = 30


def fetch(url: str, sha256: str, to: Path) -> Path:
    """The file `to`, with what `url` gives; nothing is asked for where it is there and right.

    What has come is kept in `to`.part, and the next call goes on from there. Content of another
    SHA-256 (in hex; "" takes any) is kept as `to`.rejected and never used. Raises UserError for
    that, and where the network or the disk fails.
    """
    import pooch
    import requests

    part = to.with_name(f"{to.name}.part")

    def download(url: str, output_file: Any, _: Any) -> None:
        _go_on(url, part)
        shutil.copyfile(part, output_file)

    downloader: Any = download  # pooch types the parameters otherwise than it passes them
    known = f"sha256:{sha256}" if sha256 else None
    try:
        pooch.retrieve(url, known, to.name, to.parent, downloader=downloader)
    except ValueError as error:  # of another SHA-256: pooch has thrown its copy away
        if not part.exists():
            raise
        rejected = to.with_name(f"{to.name}.rejected")
        os.replace(part, rejected)
        raise UserError(
            f"{url} is not what it was: its SHA-256 is not {sha256}; what came is kept in "
            f"{rejected} and not used. Fetch it again, or name a copy that you trust"
        ) from error
    except requests.RequestException as error:
        kept = part.stat().st_size if part.exists() else 0
        going_on = f"; {kept:,} bytes are kept, the next try goes on from there" if kept else ""
        raise UserError(
            f"cannot fetch {url}: {_in_short(error)}{going_on}; without a network, put a copy "
            "under $JAXSEQ_DATA (`jaxseq data` says where)"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write {to}: {error.strerror or error}; make room") from error
    part.unlink(missing_ok=True)
    return to


def unpack(archive: Path, folder: Path) -> Path:
    """`folder` with the files of a tar archive, unpacked once, whole or not at all.

    No member may lie outside of it. Raises UserError for a damaged archive.
    """
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with tarfile.open(archive) as members:
            members.extractall(unfinished, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{archive} is damaged ({error}); delete it and fetch it again") from error
    os.replace(unfinished, folder)
    return folder


def _go_on(url: str, part: Path) -> None:
    """Fetches what `part` does not have yet."""
    import requests

    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    asked = {"Range": f"bytes={have}-"} if have else {}
    with requests.get(url, stream=True, headers=asked, timeout=_SECONDS) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            return  # there is no more of it
        answer.raise_for_status()
        goes_on = answer.status_code == requests.codes.partial_content
        with part.open("ab" if goes_on else "wb") as file:
            for piece in answer.iter_content(_PIECE):
                file.write(piece)


def _in_short(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    return type(error).__name__
