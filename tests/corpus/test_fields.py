"""Which columns hold what, without anybody saying so."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.fields import detect_fields
from pipeline.corpus.locate import locate
from pipeline.errors import CorpusError, SettingsError
from pipeline.records import FieldMap, Shard


def shards_of(folder: Path, *rows: object, name: str = "a.jsonl") -> list[Shard]:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return locate([str(folder)])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"_id": "1", "title": "t", "text": "x", "metadata": {}}, FieldMap("text", "_id", "title")),
        ({"id": "1", "content": "x"}, FieldMap("content", "id")),
        ({"docid": "1", "headline": "t", "body": "x"}, FieldMap("body", "docid", "headline")),
        ({"ID": "1", "Title": "t", "Text": "x"}, FieldMap("Text", "ID", "Title")),
        ({"id": 7, "passage": "x"}, FieldMap("passage", "id")),
        ({"pid": "1", "abstract": "long", "text": "x"}, FieldMap("text", "pid")),
        ({"text": "x"}, FieldMap("text")),
        ({"id": None, "text": "x"}, FieldMap("text")),
        ({"id": 1.5, "text": "x"}, FieldMap("text")),
        ({"id": ["1"], "text": "x"}, FieldMap("text")),
        ({"text": None, "contents": "x"}, FieldMap("contents")),
        ({"text": 3, "contents": "x"}, FieldMap("contents")),
        ({"text": "x", "title": ""}, FieldMap("text", None, "title")),
    ],
)
def test_names_that_corpora_use_are_known(tmp_path: Path, row: object, expected: FieldMap) -> None:
    assert detect_fields(shards_of(tmp_path, row))[0] == expected


def test_what_most_rows_use_wins(tmp_path: Path) -> None:
    rows = [{"text": "" if i else "x", "body": f"b{i}"} for i in range(20)]
    assert detect_fields(shards_of(tmp_path, *rows))[0].text == "body"


def test_a_column_that_repeats_is_no_id(tmp_path: Path) -> None:
    rows = [{"doc_id": str(i // 10), "pid": str(i), "text": "x"} for i in range(50)]
    assert detect_fields(shards_of(tmp_path, *rows))[0].id == "pid"


def test_a_duplicate_in_a_small_corpus_does_not_cost_the_ids(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "x"}, {"id": "1", "text": "y"}]
    assert detect_fields(shards_of(tmp_path, *rows))[0].id == "id"


def test_options_override(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, {"id": "1", "text": "x", "body": "y", "key": "k", "name": "n", "url": "u"})
    fields, sentence = detect_fields(shards, text="body", id="key", title="name", metadata=["url"])
    assert fields == FieldMap("body", "key", "name", ("url",))
    assert sentence == "id from key, title from name, text from body, metadata from url"
    fields, sentence = detect_fields(shards, id="", title="", metadata=[])
    assert fields == FieldMap("text", None, None, ())
    assert sentence == "id from a hash of the content, no title, text from text, no metadata"


def test_what_is_left_is_metadata_and_is_said(tmp_path: Path) -> None:
    _, sentence = detect_fields(shards_of(tmp_path, {"id": "1", "text": "x", "url": "u"}, {"year": 1, "text": "y"}))
    assert sentence == "id from id, no title, text from text, metadata from url, year"


@pytest.mark.parametrize("options", [{"text": "txet"}, {"id": "ident"}, {"title": "t"}, {"metadata": ["url", "no"]}])
def test_an_unknown_column_lists_those_there_are(tmp_path: Path, options: dict[str, object]) -> None:
    shards = shards_of(tmp_path, {"id": "1", "text": "x", "url": "u"})
    (option,) = options
    with pytest.raises(SettingsError, match="id, text, url") as caught:
        detect_fields(shards, **options)  # type: ignore[arg-type]
    assert f"--{option}-field" in str(caught.value)


def test_no_text_column_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a1, b2; name it with --text-field"):
        detect_fields(shards_of(tmp_path, {"a1": "x", "b2": "y"}))


def test_a_text_column_of_any_name_can_be_given(tmp_path: Path) -> None:
    assert detect_fields(shards_of(tmp_path, {"a1": "x", "b2": "y"}), text="b2")[0] == FieldMap("b2")


def test_many_columns_are_listed_in_short(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="and 70 more"):
        detect_fields(shards_of(tmp_path, {f"c{i}": 1 for i in range(100)}))


def test_bad_rows_are_looked_past(tmp_path: Path) -> None:
    assert detect_fields(shards_of(tmp_path, 1, "two", {"id": "1", "text": "x"}))[0] == FieldMap("text", "id")


def test_empty_shards_are_looked_past(tmp_path: Path) -> None:
    shards_of(tmp_path, name="a.jsonl")
    shards = shards_of(tmp_path, {"id": "1", "text": "x"}, name="b.jsonl")
    assert detect_fields(shards)[0] == FieldMap("text", "id")


def test_a_corpus_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no rows"):
        detect_fields(shards_of(tmp_path))


def test_a_corpus_without_a_good_row_shows_the_first(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, 1, 2)
    with pytest.raises(CorpusError, match=r"a\.jsonl at 0: a JSON int"):
        detect_fields(shards)


def test_one_json_array_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"id": "1", "text": "x"}], indent=1))
    with pytest.raises(CorpusError, match="one object a line"):
        detect_fields(locate([str(tmp_path)]))


def test_text_files_need_no_columns(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    shards = locate([str(tmp_path)])
    fields, sentence = detect_fields(shards)
    assert fields.text == "text"
    assert "paths" in sentence
    with pytest.raises(SettingsError, match="no columns"):
        detect_fields(shards, text="body")


def test_other_formats_are_detected_alike(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "content": ["a", "b"]}), tmp_path / "a.parquet")
    assert detect_fields(locate([str(tmp_path / "a.parquet")]))[0] == FieldMap("content", "id")
    (tmp_path / "b.csv").write_text("id,title,text\n1,,a\n2,,b\n")
    assert detect_fields(locate([str(tmp_path / "b.csv")]))[0] == FieldMap("text", "id", "title")
