"""A fingerprint changes with everything that shapes a document's vector, and with nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.model.bundle import open_bundle
from pipeline.model.load import load_encoder
from pipeline.settings import ModelSettings
from tests.model.models import copy_model, open_small

ASKED: dict[str, Any] = {"document_instruction": "w1 w2", "chunk_tokens": 128, "overlap_tokens": 16}


def fingerprint(model: Path | str, **settings: Any) -> str:
    return open_small(model, **(ASKED | settings)).identity.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"document_instruction": "w1 w3"},
        {"document_instruction": ""},
        {"document_opening": "w4"},
        {"chunk_tokens": 129},
        {"overlap_tokens": 17},
        {"dim": 64},
        {"vector_dtype": "float16"},
        {"compute_dtype": "bfloat16"},
    ],
    ids=lambda change: "-".join(map(str, next(iter(change.items())))),
)
def test_it_changes(tiny: Path, change: dict[str, Any]) -> None:
    assert fingerprint(tiny, **change) != fingerprint(tiny)


@pytest.mark.parametrize(
    "change",
    [{"query_instruction": "w9"}, {"query_opening": "w9"}, {"dim": 128}, {"compute_dtype": "float32"}],
    ids=lambda change: next(iter(change)),
)
def test_it_stays(tiny: Path, change: dict[str, Any]) -> None:
    assert fingerprint(tiny, **change) == fingerprint(tiny)


def test_batches_and_threads_do_not_count(tiny: Path) -> None:
    bundle = open_small(tiny)
    before = bundle.identity.fingerprint
    load_encoder(bundle, device="cpu", threads=1, batch_tokens=100)
    assert bundle.identity.fingerprint == before


def test_the_device_counts_only_by_its_arithmetic(tiny: Path) -> None:
    for dtype, same in (("float32", True), ("bfloat16", True), ("auto", False)):
        settings = ModelSettings(model=str(tiny), compute_dtype=dtype)
        prints = {open_bundle(settings, device=device).identity.fingerprint for device in ("cpu", "cuda")}
        assert (len(prints) == 1) == same


def test_where_the_files_are_does_not_count_and_what_is_in_them_does(tiny: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    assert fingerprint(folder) == fingerprint(tiny)
    with (folder / "model.safetensors").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        (last,) = handle.read(1)
        handle.seek(-1, os.SEEK_END)
        handle.write(bytes([last ^ 1]))
    assert fingerprint(folder) != fingerprint(tiny)


def test_a_tokenizer_counts(tiny: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"w19999"', '"x19999"'))
    assert fingerprint(folder) != fingerprint(tiny)


def test_a_window_that_cuts_chunks_counts_as_the_chunks_it_gives(tiny: Path) -> None:
    bundle = open_small(tiny, chunk_tokens=100_000)
    assert bundle.chunk_tokens == bundle.max_body_tokens == bundle.identity.chunking[0] < 4_096
    assert bundle.identity.fingerprint == open_small(tiny, chunk_tokens=50_000).identity.fingerprint


def test_opening_a_model_imports_no_torch(tiny: Path) -> None:
    code = (
        "import sys; from pipeline.model.bundle import open_bundle; from pipeline.settings import ModelSettings\n"
        f"open_bundle(ModelSettings(model={str(tiny)!r}), device='cpu').tokenizer.encode(['w1'])\n"
        "print(sorted({'torch', 'transformers', 'peft', 'ray', 'lance'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
