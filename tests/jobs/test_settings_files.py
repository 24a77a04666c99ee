"""A TOML file under, flags over it; what is not known or out of bounds is refused with its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import SettingsError
from pipeline.settings import IndexSettings, load_settings

_TOML = """
db = "from-file"
[corpus]
uris = ["one", "two"]
limit = 10
keep_missing = true
[encoder]
model = "minilm"
[commit]
max_seconds = 5
"""


@pytest.fixture
def toml(tmp_path: Path) -> str:
    (tmp_path / "t1.toml").write_text(_TOML)
    return str(tmp_path / "t1.toml")


def test_the_file_alone(toml: str) -> None:
    settings = load_settings(toml, {})
    assert (settings.db, settings.corpus.uris, settings.corpus.limit) == ("from-file", ("one", "two"), 10)
    assert (settings.encoder.model, settings.commit.max_seconds) == ("minilm", 5.0)
    assert settings.pool == IndexSettings(db="x").pool


def test_flags_come_over_the_file(toml: str) -> None:
    settings = load_settings(toml, {"db": "flag", "corpus.uris": ("three",), "encoder.dim": 64, "pool.threads": 2})
    assert (settings.db, settings.corpus.uris, settings.corpus.limit) == ("flag", ("three",), 10)
    assert (settings.encoder.model, settings.encoder.dim, settings.pool.threads) == ("minilm", 64, 2)


def test_flags_that_were_not_given_change_nothing(toml: str) -> None:
    flags: dict[str, Any] = {"db": None, "corpus.uris": (), "corpus.limit": None, "encoder.model": None}
    assert load_settings(toml, flags) == load_settings(toml, {})


def test_settings_do_not_change() -> None:
    settings = load_settings(None, {"db": "db"})
    with pytest.raises(ValueError, match="frozen"):
        settings.db = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "no database was named; pass --db"),
        ({"db": "d", "corpus.colour": "red"}, "corpus.colour: Extra inputs are not permitted"),
        ({"db": "d", "colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"db": "d", "corpus.limit": 0}, r"corpus\.limit: .*greater than or equal to 1 \(found 0\)"),
        ({"db": "d", "corpus.max_quarantine": 1.5}, r"corpus\.max_quarantine: .*less than or equal to 1"),
        ({"db": "d", "corpus.max_delete": -0.1}, r"corpus\.max_delete: .*greater than or equal to 0"),
        ({"db": "d", "encoder.dim": 4}, r"encoder\.dim: .*greater than or equal to 8"),
        ({"db": "d", "encoder.chunk_tokens": 31}, r"encoder\.chunk_tokens: .*greater than or equal to 32"),
        ({"db": "d", "encoder.chunk_tokens": 64, "encoder.overlap_tokens": 33}, "at most half of chunk_tokens"),
        ({"db": "d", "encoder.compute_dtype": "float8"}, r"encoder\.compute_dtype: .*'bfloat16'.*found 'float8'"),
        ({"db": "d", "pool.encoders_min": 0}, r"pool\.encoders_min: .*greater than or equal to 1"),
        ({"db": "d", "commit.max_seconds": 0}, r"commit\.max_seconds: .*greater than 0"),
    ],
)
def test_a_wrong_value_is_named(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(None, flags)
    assert "\n" not in str(caught.value)


def test_two_mistakes_are_said_together() -> None:
    with pytest.raises(SettingsError, match=r"corpus\.limit: .*; encoder\.dim: "):
        load_settings(None, {"db": "d", "corpus.limit": 0, "encoder.dim": 1})


@pytest.mark.parametrize("value", ["corpus = 3", 'corpus = "a"', "corpus = []"])
def test_a_section_that_is_no_table(tmp_path: Path, value: str) -> None:
    (tmp_path / "t1.toml").write_text(f'db = "d"\n{value}\n')
    with pytest.raises(SettingsError, match="corpus"):
        load_settings(str(tmp_path / "t1.toml"), {"corpus.limit": 3})
    with pytest.raises(SettingsError, match="corpus"):
        load_settings(str(tmp_path / "t1.toml"), {})
