"""One empty database a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database.at(str(tmp_path / "db"))
