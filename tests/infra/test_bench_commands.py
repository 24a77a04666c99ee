"""Benchmarks' commands say mistakes as `t1` does, without a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("name", "options"), [("tokenise", []), ("encode", ["--corpus"])])
def test_a_wrong_path_is_said(tmp_path: Path, name: str, options: list[str]) -> None:
    # in a process of its own: measuring on one core, it keeps its process there
    command = [sys.executable, "-m", f"infra.bench.{name}", *options, str(tmp_path / "nowhere.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "nowhere.jsonl" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
