"""Mistakes at `t1 cache`: exit code 2 and one sentence; and data alone on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.store.database import Database
from pipeline.store.trajectories import TrajectoryCache
from tests.store.trajectory_rows import cached


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "db"
    TrajectoryCache(Database.at(str(folder))).add([cached(1), cached(2)])
    return folder


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["stats", "--db", "absent"], "no trajectories"),
        (["prune", "--db", "{db}"], "nothing says which"),
        (["prune", "--db", "{db}", "--finish", "well"], "--finish"),
        (["prune", "--db", "{db}", "--older-than", "nan"], "not a finite number"),
        (["prune", "--db", "{db}", "--keep-reasoner", "TYPO"], "'TYPO' is no reasoner's fingerprint here; found r;"),
        (["import", "--db", "{db}", "--task", "bilogy", "x.jsonl"], "no task 'bilogy'"),
        (["export", "--db", "{db}", "--out", "rows.csv"], "expected a name in .jsonl or .parquet"),
        (["import", "--db", "{db}", "absent.jsonl"], "absent.jsonl"),
        (["import", "--db", "{db}"], "SOURCES"),
    ],
)
def test_a_mistake_is_one_sentence(t1: Any, db: Path, arguments: list[str], part: str) -> None:
    done = t1("cache", *(argument.format(db=db) for argument in arguments))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert part in done.stderr


def test_rows_alone_are_on_stdout(t1: Any, db: Path) -> None:
    done = t1("cache", "export", "--db", db, "--out", "-")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(row["query"] for row in rows) == ["what is 1?", "what is 2?"]
    assert json.loads(done.stderr)["rows"] == 2
