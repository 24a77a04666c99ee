"""Golden files: what a person decided is right, compared as text. T1_WRITE_GOLDEN=1 writes them anew, for `git "
"diff`."""

from __future__ import annotations

import os
from pathlib import Path


def check_golden(path: Path, text: str) -> None:
    """Compares a text with a golden file, or writes the file where the environment says so."""
    if os.environ.get("T1_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"no golden file {path.name}; run once with T1_WRITE_GOLDEN=1 and read what it wrote"
    assert text == path.read_text(encoding="utf-8")
