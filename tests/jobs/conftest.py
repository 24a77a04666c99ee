"""The command line as a person meets it: a process of its own, its exit code and what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def t1() -> Run:
    """Runs `t1` with arguments, and text on stdin."""

    def run(*arguments: str | Path, stdin: str = "", code: str = "") -> subprocess.CompletedProcess[str]:
        program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from jobs.cli import main; main()"
        command = [sys.executable, "-c", code or program, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=200, check=False)

    return run
