"""Keys are counted by two hashes of their ids, which say the same as the ids themselves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.database import Database
from pipeline.store.keys import SEEDS, count_keys, fold_strings
from tests.store.sample import Row, store

_SEED, _OTHER = SEEDS


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=60), st.integers(0, 5))
def test_equal_strings_and_no_others_have_equal_hashes(texts: list[str], skipped: int) -> None:
    column = pa.array(texts, pa.string())
    hashes = fold_strings(column, seed=_SEED)
    assert len({(text, word) for text, word in zip(texts, hashes.tolist(), strict=True)}) == len(set(texts))
    assert len(set(hashes.tolist())) == len(set(texts))
    # whatever stands around a string in its buffer is not part of it
    assert fold_strings(column.slice(skipped), seed=_SEED).tolist() == hashes.tolist()[skipped:]


def test_bytes_that_are_zero_and_words_that_change_places_count() -> None:
    texts = ["", "\0", "\0\0", "a", "a\0", "12345678", "12345678\0", "1234567812345678", "abcdefgh12345678",
             "12345678abcdefgh", "é", "e\u0301"]  # fmt: skip
    assert len(set(fold_strings(pa.array(texts), seed=_SEED).tolist())) == len(texts)


def test_every_bit_of_a_hash_is_even_among_ids_that_only_count_up() -> None:
    ids = pa.array([f"doc-{number:09}" for number in range(50_000)])
    one, two = fold_strings(ids, seed=_SEED), fold_strings(ids, seed=_OTHER)
    for words in (one, one ^ two):
        bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
        assert np.abs(bits - 0.5).max() < 0.02  # nine standard deviations


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
