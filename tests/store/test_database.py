"""A database folder: what is absent, half there or refused is said in one sentence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import StorageError, TableError
from pipeline.store import live
from pipeline.store.database import LIVE, Database
from tests.store.sample import Row, store


def test_one_spelling_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Database.at("db") == Database.at(f"{tmp_path}/db/") == Database.at(f"file://{tmp_path}/db")
    assert Database.at("s3a://bucket/db/") == Database.at("s3://bucket/db")


def test_a_table_that_is_not_there(database: Database) -> None:
    assert not database.exists("documents")
    assert database.live_version() is None
    with pytest.raises(TableError, match="run `t1 index"):
        database.open("documents")
    with pytest.raises(TableError, match="run `t1 index"):
        database.open("documents", version=LIVE)


def test_a_version_that_is_not_there(database: Database) -> None:
    store(database, [Row("a")])
    with pytest.raises(TableError, match="no version 99"):
        database.open("documents", version=99)
    with pytest.raises(TableError, match="no published version yet"):
        database.open("documents", version=LIVE)
    with pytest.raises(TableError, match="nightly"):
        database.open("documents", version="nightly")


def test_a_version_is_opened_by_number_or_tag(database: Database) -> None:
    first = live.publish(store(database, [Row("a")]))
    second = int(store(database, [Row("b")]).version)
    counts = {version: database.open("documents", version=version).count_rows() for version in (first, second, LIVE)}
    assert counts == {first: 1, second: 2, LIVE: 1}
    assert database.open("documents").count_rows() == 2


def test_records_are_appended(database: Database) -> None:
    rows = pa.table({"a": [1, 2]})
    database.append("runs", rows.slice(0, 0))
    assert not database.exists("runs")
    database.append("runs", rows)
    database.append("runs", rows)
    assert database.open("runs").to_table().column("a").to_pylist() == [1, 2, 1, 2]


def test_a_writable_folder_is_left_as_it_was(database: Database) -> None:
    database.check_writable()
    assert list(Path(database.uri).iterdir()) == []


def test_several_try_to_write_at_once(database: Database) -> None:
    """As runs that start together do: one removes what the other one wrote."""
    with ThreadPoolExecutor(4) as runs:
        for run in [runs.submit(database.check_writable) for _ in range(400)]:
            run.result()
    assert list(Path(database.uri).iterdir()) == []


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "db").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write to"):
        Database.at(str(tmp_path / "db")).check_writable()
