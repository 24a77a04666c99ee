"""Weight files are read once; a file that changed is read again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.model.identity import digest_adapter, digest_head, digest_weights


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read; digests are remembered in a cache of the test's own."""
    monkeypatch.setenv("T1_CACHE", str(tmp_path / "cache"))
    seen: list[str] = []
    file_digest = hashlib.file_digest

    def counted(handle: Any, algorithm: str) -> Any:
        seen.append(Path(handle.name).name)
        return file_digest(handle, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "t1_head.safetensors", "adapter_model.safetensors"):
        (folder / name).write_text(name)
    return folder


def test_an_unchanged_file_is_not_read_again(folder: Path, reads: list[str]) -> None:
    first = digest_weights(str(folder))
    assert sorted(reads) == ["config.json", "model.safetensors"]
    assert digest_weights(str(folder)) == first
    assert len(reads) == 2


def test_a_changed_file_is_read_again(folder: Path, reads: list[str]) -> None:
    first = digest_weights(str(folder))
    weights = folder / "model.safetensors"
    before = weights.stat()
    weights.write_text("Model.safetensors")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert digest_weights(str(folder)) != first
    assert reads.count("model.safetensors") == 2
    assert reads.count("config.json") == 1


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "modeling_own.py"])
def test_another_shard_or_code_counts(folder: Path, reads: list[str], name: str) -> None:
    first = digest_weights(str(folder))
    (folder / name).write_text("more")
    assert digest_weights(str(folder)) != first


def test_head_and_adapter_have_digests_of_their_own(folder: Path, reads: list[str]) -> None:
    weights, head, adapter = digest_weights(str(folder)), digest_head(str(folder)), digest_adapter(str(folder))
    (folder / "t1_head.safetensors").write_text("another head")
    (folder / "adapter_model.safetensors").write_text("another adapter")
    assert digest_weights(str(folder)) == weights
    assert digest_head(str(folder)) != head
    assert digest_adapter(str(folder)) != adapter
    (folder / "t1_head.safetensors").unlink()
    assert digest_head(str(folder)) == ""
