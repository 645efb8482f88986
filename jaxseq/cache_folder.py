"""Where jaxseq keeps what it could make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$JAXSEQ_CACHE`, or `jaxseq` in `$XDG_CACHE_HOME`, which is ~/.cache where it is not set."""
    own = os.environ.get("JAXSEQ_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxseq"
