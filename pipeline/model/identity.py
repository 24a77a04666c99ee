"""SHA-256 digests of weight files, remembered by path, size and modification time so that gigabytes are read once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pipeline.model.cache import cache_folder, exclusive

HEAD_FILE = "t1_head.safetensors"


def weight_files(folder: Path) -> list[Path]:
    """The model's own safetensors in a checkpoint folder: neither a head nor an adapter that lies beside them."""
    return [p for p in folder.glob("*.safetensors") if p.name not in (HEAD_FILE, "adapter_model.safetensors")]


def digest_weights(folder: str) -> str:
    """One digest over the configuration, all weight files and any code of a checkpoint folder."""
    return _combine([*weight_files(Path(folder)), *Path(folder).glob("*.py"), Path(folder) / "config.json"])


def digest_adapter(folder: str) -> str:
    """One digest over a peft adapter's weights and configuration."""
    return _combine([p for p in Path(folder).iterdir() if p.name.startswith("adapter_") and p.is_file()])


def digest_head(folder: str) -> str:
    """Digest of the means and projection applied after pooling; "" where there are none."""
    head = Path(folder) / HEAD_FILE
    return _file_digest(head) if head.is_file() else ""


def _combine(files: list[Path]) -> str:
    state = hashlib.sha256()
    for path in sorted(files, key=lambda p: p.name):
        state.update(f"{path.name}\n{_file_digest(path)}\n".encode())
    return state.hexdigest()


def _file_digest(path: Path) -> str:
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = cache_folder() / "digests.json"
    with exclusive(memory):
        known: dict[str, str] = json.loads(memory.read_text()) if memory.is_file() else {}
        if key not in known:
            with path.open("rb") as handle:
                known[key] = hashlib.file_digest(handle, "sha256").hexdigest()
            partial = memory.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(known))
            partial.replace(memory)
        return known[key]
