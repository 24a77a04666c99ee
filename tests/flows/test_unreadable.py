"""Half of an upload, or of a listing, takes nothing from readers."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import SettingsError
from pipeline.flows.index import index
from pipeline.flows.report import RunReport
from pipeline.store.database import Database
from tests.flows.corpora import document, settings_for, table_rows, write_jsonl

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

NUM_DOCUMENTS = 30
SENTENCE = "could not be read to the end, so this run deletes no document"


def _rows(shard: int, version: str = "") -> list[dict[str, Any]]:
    """Documents whose texts do not compress, so that half a file holds about half of them."""
    draw = random.Random(shard)
    return [document(f"d{shard}-{n:02}", f"{draw.randbytes(600).hex()}{version}") for n in range(NUM_DOCUMENTS)]


def _packed(name: str, rows: Sequence[dict[str, Any]]) -> bytes:
    if name.endswith("parquet"):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows)), sink)
        return sink.getvalue().to_pybytes()
    return gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode())


def _write(path: Path, rows: Sequence[dict[str, Any]], *, share: float = 1.0) -> None:
    path.parent.mkdir(exist_ok=True)
    content = _packed(path.name, rows)
    path.write_bytes(content[: int(len(content) * share)])


def _run(folder: Path, **flags: Any) -> RunReport:
    return index(settings_for(folder / "corpus", folder / "db", **flags))


def _ids(folder: Path) -> set[str]:
    return {row["id"] for row in table_rows(folder / "db")}


@pytest.mark.parametrize("name", ["1.jsonl.gz", "1.parquet"])
def test_a_shard_that_breaks_off_deletes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    corpus = tmp_path / "corpus"
    _write(corpus / "0.jsonl.gz", _rows(0))
    _write(corpus / name, _rows(1))
    _write(corpus / "2.jsonl.gz", _rows(2))
    assert _run(tmp_path).shards_unreadable == 0
    before = _ids(tmp_path)
    assert SENTENCE not in capsys.readouterr().err

    _write(corpus / name, _rows(1), share=0.5)
    _write(corpus / "2.jsonl.gz", _rows(2, "changed")[:-2])
    report = _run(tmp_path)
    assert (report.status, report.documents_deleted, report.shards_unreadable) == ("published", 0, 1)
    assert _ids(tmp_path) == before
    assert sum(row["text"].endswith("changed") for row in table_rows(tmp_path / "db")) == NUM_DOCUMENTS - 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if SENTENCE in line]
    assert said.startswith(str(corpus / name))

    # the same bytes: the shard is not opened, and what is known of it is that it breaks off
    (corpus / "0.jsonl.gz").unlink()
    _write(corpus / "3.jsonl.gz", _rows(3))
    report = _run(tmp_path)
    assert (report.documents_deleted, report.shards_unreadable) == (0, 1)
    assert _ids(tmp_path) > before
    (said,) = [line for line in capsys.readouterr().err.splitlines() if SENTENCE in line]
    assert said.startswith(str(corpus / name))

    _write(corpus / name, _rows(1)[:-1])
    report = _run(tmp_path)
    assert (report.documents_deleted, report.shards_unreadable) == (NUM_DOCUMENTS + 3, 0)
    assert SENTENCE not in capsys.readouterr().err


def test_a_new_encoder_does_not_publish_half_a_listing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    write_jsonl(corpus, [document(f"d{n}", "two words " * 40) for n in range(10)])
    chunks = {"encoder__chunk_tokens": 32, "encoder__overlap_tokens": 8}
    index(settings_for(corpus, tmp_path / "db", **chunks), quiet=True)
    before = Database.at(str(tmp_path / "db")).live_version()
    write_jsonl(corpus, [document(f"d{n}", "two words " * 40) for n in range(4)])
    other = settings_for(corpus, tmp_path / "db", encoder__model="hashing://32")
    with pytest.raises(SettingsError, match="has 10 documents and the one to be made would have 4, 6 fewer") as caught:
        index(other, quiet=True)
    assert "--max-delete 0.5" in str(caught.value)
    assert Database.at(str(tmp_path / "db")).live_version() == before
    # a trial, or a corpus that is said to be a part, has no old rows to keep either
    write_jsonl(corpus, [document(f"d{n}", "two words " * 40) for n in range(10)])
    for flags in ({"corpus__limit": 3}, {"corpus__limit": 4, "corpus__keep_missing": True}):
        with pytest.raises(SettingsError, match="more than --max-delete"):
            index(settings_for(corpus, tmp_path / "db", encoder__model="hashing://32", **flags), quiet=True)
    report = index(other.model_copy(update={"corpus": other.corpus.model_copy(update={"limit": 5})}), quiet=True)
    assert report.documents_encoded == 5


def test_a_new_encoder_waits_for_a_shard_that_breaks_off(tmp_path: Path) -> None:
    name = tmp_path / "corpus" / "0.jsonl.gz"
    _write(name, _rows(0))
    _write(tmp_path / "corpus" / "1.jsonl.gz", _rows(1))
    _run(tmp_path)
    _write(name, _rows(0), share=0.5)
    with pytest.raises(SettingsError, match=rf"has 60 documents .* the part of {name} that cannot be read"):
        _run(tmp_path, encoder__model="hashing://32")
    assert len(_ids(tmp_path)) == 60
    _write(name, _rows(0))
    assert _run(tmp_path, encoder__model="hashing://32").documents_encoded == 60


def test_what_a_run_deleted_and_did_not_publish_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that may delete half each would together take three quarters from readers."""
    from pipeline.flows import index as index_module

    corpus = tmp_path / "corpus.jsonl"
    rows = [document(f"d{n}") for n in range(12)]

    def run() -> RunReport:
        return index(settings_for(corpus, tmp_path / "db"), quiet=True)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    write_jsonl(corpus, rows)
    run()
    write_jsonl(corpus, rows[:6])
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "_publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run()
    write_jsonl(corpus, rows[:3])
    with pytest.raises(SettingsError, match="has 12 documents and the one to be made would have 3"):
        run()
    write_jsonl(corpus, rows[:7])
    assert run().documents_encoded == 1
