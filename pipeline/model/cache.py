"""The folder that fetched and converted models are kept in, and a lock so that two processes fill it once.

Set `T1_CACHE` to move it; on a cluster each node keeps its own.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """`$T1_CACHE`, else `$XDG_CACHE_HOME/t1-index`, else `~/.cache/t1-index`."""
    explicit = os.environ.get("T1_CACHE")
    base = Path(explicit) if explicit else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t1-index"
    base.mkdir(parents=True, exist_ok=True)
    return base


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Holds a lock file beside `target`; the operating system drops it when the process dies."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(target.name + ".lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
