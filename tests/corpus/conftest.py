"""One way to hand bytes to the readers, for every format."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.corpus.locate import locate
from pipeline.corpus.read import MAX_TEXT_CHARS, read_shard
from pipeline.records import Document, FieldMap, Rejected

Item = Document | Rejected
ReadBytes = Callable[..., list[Item]]


@pytest.fixture(scope="session")
def read_bytes(tmp_path_factory: pytest.TempPathFactory) -> ReadBytes:
    """Writes a file of the given name and reads it whole; `shard` of each item is cut to the file's name."""
    folder = tmp_path_factory.mktemp("read")
    number = itertools.count()

    def read(
        name: str, content: bytes, fields: FieldMap | None = None, *, max_text_chars: int = MAX_TEXT_CHARS
    ) -> list[Item]:
        path: Path = folder / str(next(number)) / name
        path.parent.mkdir()
        path.write_bytes(content)
        fields = fields or FieldMap(text="text", id="_id", title="title")
        (shard,) = locate([str(path)])
        return [
            replace(item, shard=Path(item.shard).name)
            for item in read_shard(shard, fields, max_text_chars=max_text_chars)
        ]

    return read
