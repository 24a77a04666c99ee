"""Keys are counted by hashes of their ids, which say the same as the ids themselves."""

from __future__ import annotations

from collections import Counter

from pipeline.store.database import Database
from pipeline.store.keys import count_keys
from tests.store.sample import Row, store


def test_keys_are_counted(database: Database) -> None:
    rows = [Row("a", 0), Row("a", 1), Row("b", 0), Row("b", 0), Row("", 0), Row("c" * 500, 7)]
    counts = count_keys(store(database, rows))
    keys = Counter((row.id, row.chunk) for row in rows)
    assert (counts.num_rows, counts.num_documents) == (6, 4)
    assert counts.num_repeated == sum(times - 1 for times in keys.values())


def test_counts_are_of_rows_not_of_versions(database: Database) -> None:
    dataset = store(database, [Row(str(number)) for number in range(20)])
    counts = count_keys(dataset)
    dataset.create_scalar_index("id", "BTREE")
    assert counts.is_of(database.open("documents"))
    dataset.delete("id = '3'")
    assert not counts.is_of(dataset)
