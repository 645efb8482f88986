"""Programs that were compiled once, kept for the next run."""

import hashlib
import platform
from pathlib import Path

import jax

from jaxseq.cache_folder import cache_folder

LIMIT = 4 * 2**30
"""Bytes that are kept, the newest."""


def keep_compiled_programs(limit: int = LIMIT) -> Path | None:
    """Has JAX keep what takes it more than a second to compile; returns the folder.

    It is `compiled` in jaxseq's cache folder ($JAXSEQ_CACHE, or in $XDG_CACHE_HOME). One that the
    user names ($JAX_COMPILATION_CACHE_DIR, or `jax_compilation_cache_dir`) stays, and is left as
    it is: None. $JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing. Call it before JAX compiles.

    Programs for CPUs are compiled for the one at hand, which JAX does not look at when it finds
    them again: where a home directory is shared, each kind of machine has a folder of its own.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return None
    folder = cache_folder() / "compiled" / _machine()
    _forget(folder, limit)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _machine() -> str:
    """What tells processors apart that do not run each other's programs."""
    words = [platform.machine()]
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        for field in ("model name", "flags", "Features"):
            words += [line for line in lines if line.startswith(field)][:1]
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _forget(folder: Path, limit: int) -> None:
    """Removes the oldest entries beyond `limit` bytes; JAX itself would keep all for ever."""
    kept = 0
    entries = [(path, path.stat()) for path in folder.glob("*-cache")]
    for path, stat in sorted(entries, key=lambda entry: -entry[1].st_mtime):
        kept += stat.st_size
        if kept > limit:
            path.unlink(missing_ok=True)  # another process may have been quicker
