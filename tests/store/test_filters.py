"""A person's filter finds the rows they mean, in a table whose metadata is as untidy as people's metadata is."""

from __future__ import annotations

import json
from pathlib import Path

import lance
import pytest

from pipeline.errors import TableError
from pipeline.store.database import Database
from pipeline.store.filters import to_lance
from pipeline.store.search import nearest
from tests.store.sample import Row, store, unit_vectors

_METADATA = {
    "plain": {"year": 2019, "source": "web", "ok": True, "score": 0.5, "depth": -3, "Größe": 7},
    "other": {"year": 2020, "source": "book", "ok": False, "score": 1.5, "depth": 3},
    "quote": {"year": 2021, "source": "o'neil", "note": 'say "a\\b"'},
    "csv": {"year": "2020", "source": "Web", "ok": "true"},
    "untidy": {"year": "unknown", "source": ["web"], "ok": "maybe", "score": [1], "depth": {"of": {"it": 2}}},
    "nulls": {"year": None, "source": None},
    "empty": {},
    "odd": {"odd name": "z", "a.b": 2, "say \\": 1},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> lance.LanceDataset:
    database = Database.at(str(tmp_path_factory.mktemp("filters")))
    rows = [
        Row(name, text=f"about {name}; metadata.year = 1999", metadata=json.dumps(fields, sort_keys=True))
        for name, fields in _METADATA.items()
    ]
    return store(database, rows)


def _found(dataset: lance.LanceDataset, where: str) -> set[str]:
    return {hit.id for hit in nearest(dataset, unit_vectors(1)[0], top_k=100, where=where)}


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        # numbers, however they are written, and years that a CSV file made strings of
        ("metadata.year = 2020", "other csv"),
        ("metadata.year=2020", "other csv"),
        ("metadata.year >= 2020", "other quote csv"),
        ("metadata.year <> 2020", "plain quote"),
        ("metadata.year > 999", "plain other quote csv"),
        ("999 < metadata.year", "plain other quote csv"),
        ("metadata.year between 999 and 2019", "plain"),
        ("metadata.year not between 2020 and 2030", "plain"),
        ("metadata.year in (2019, 2021)", "plain quote"),
        ("metadata.year not in (2019, 2021)", "other csv"),
        ("metadata.year > 2.02e3", "quote"),
        ("metadata.score > .7", "other"),
        ("metadata.score < 1e0", "plain"),
        ("metadata.depth < -1", "plain"),
        ("metadata.depth = - 3", "plain"),
        ("METADATA.year = 2019", "plain"),
        # strings
        ("metadata.source = 'web'", "plain"),
        ("metadata.source in ('web', 'book')", "plain other"),
        ("metadata.source like 'w%'", "plain"),
        ("metadata.source not like 'w%' and metadata.year > 0", "other quote csv"),
        ("metadata.source ilike 'w%'", "plain csv"),
        ("metadata.source = 'o''neil'", "quote"),
        ("metadata.note = 'say \"a\\b\"'", "quote"),
        ("metadata.year = '2020'", "other csv"),
        ("metadata.source like '%\"web\"%'", "untidy"),
        # truth values
        ("metadata.ok = true", "plain csv"),
        ("metadata.ok = FALSE", "other"),
        ("metadata.ok is true", "plain csv"),
        ("metadata.ok is not true and metadata.year > 0", "other quote"),
        # absence
        ("metadata.year is null", "nulls empty odd"),
        ("metadata.year is not null", "plain other quote csv untidy"),
        ("metadata.absent = 1 or metadata.absent = 'x'", ""),
        # names
        ("metadata.\"odd name\" = 'z'", "odd"),
        ('metadata."a.b" = 2', "odd"),
        ('metadata."say \\" = 1', "odd"),
        ("metadata.depth.of.it = 2", "untidy"),
        ("metadata.Größe = 7", "plain"),
        # columns, and text that only looks like a field
        ("id = 'plain' or metadata.year = 2021", "plain quote"),
        ("id in ('plain', 'empty') and not metadata.year is null", "plain"),
        ("text = 'about plain; metadata.year = 1999'", "plain"),
        ("text like '%metadata.year = 1999' and metadata.year = 2019", "plain"),
        ("text like '%''metadata.year%' or metadata.year = 2021", "quote"),
    ],
)
def test_it_finds_what_is_meant(dataset: lance.LanceDataset, where: str, ids: str) -> None:
    assert _found(dataset, where) == set(ids.split())


@pytest.mark.parametrize(
    "where",
    [
        "id = 'a'",
        "text like '%metadata.x%'",
        "'metadata.x' = title",
        "title = 'it''s metadata.x = 1'",
        "my_metadata.x = 1",
    ],
)
def test_what_is_no_field_is_left_alone(where: str) -> None:
    assert to_lance(where) == where


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("nope = 1", "No field named nope"),
        ("metadata.year =", "an expression, found: EOF"),
        ("metadata.ok", "does not return a boolean"),
        ("1", "does not return a boolean"),
    ],
)
def test_a_filter_that_cannot_be_used_says_why(dataset: lance.LanceDataset, where: str, reason: str) -> None:
    with pytest.raises(TableError) as caught:
        _found(dataset, where)
    message = str(caught.value)
    assert reason in message
    assert message.startswith(f"the filter {where!r} cannot be used")
    assert "\n" not in message
    assert str(Path.home()) not in message
    assert "write SQL over id, title" in message
