"""Documents stay whole on their way through Ray Data, however small its blocks are."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flows.index import index
from pipeline.flows.packing import pack, unpack
from pipeline.store.database import Database
from tests.flows.corpora import document, settings_for, write_jsonl


@given(parts=st.lists(st.lists(st.text(max_size=5), max_size=4), min_size=1, max_size=4))
def test_what_was_packed_comes_back(parts: list[list[str]]) -> None:
    tables = [pa.table({"a": pa.array(part, pa.string())}) for part in parts]
    block = pa.concat_tables(map(pack, tables))
    assert block.num_rows == len(parts)
    assert unpack(block).column("a").to_pylist() == [value for part in parts for value in part]


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_no_document_is_in_two_fragments(tmp_path: Path) -> None:
    # a window's rows are many times what Ray Data wants a block to be, and most documents have several chunks
    text = " ".join(f"word{n}" for n in range(120))
    write_jsonl(tmp_path / "corpus.jsonl", [document(n, f"{n} {text}") for n in range(200)])
    settings = settings_for(
        tmp_path / "corpus.jsonl", str(tmp_path / "db"), encoder__model="hashing://2048", encoder__chunk_tokens=32,
        encoder__overlap_tokens=4, pool__direct_documents=0, pool__window_documents=40,
    )  # fmt: skip
    report = index(settings, quiet=True)
    assert report.num_chunks > 3 * 200
    seen: set[str] = set()
    fragments = Database.at(str(tmp_path / "db")).open("documents").get_fragments()
    assert len(fragments) > 2
    for fragment in fragments:
        ids = set(fragment.to_table(columns=["id"]).column("id").to_pylist())
        assert not ids & seen
        seen |= ids
    assert len(seen) == 200
