"""Text and Markdown files: one document a file, its path the id."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.locate import locate
from pipeline.corpus.read import read_shard
from pipeline.errors import CorpusError
from pipeline.records import Document, FieldMap, Reason

Read = Callable[..., list[Any]]
FIELDS = FieldMap(text="text", id="id")


def test_a_text_file_is_a_document(read_bytes: Read) -> None:
    assert read_bytes("a.txt", b"  # no title in plain text\r\nwords\r\n") == [
        Document("a.txt", "", "# no title in plain text\nwords", "{}", "a.txt", 0)
    ]


def test_ids_are_paths_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.md", "sub/a.md", "a.md"):
        (tmp_path / name).write_text(f"# {name}\n\ntext")
    (shard,) = locate([str(tmp_path)])
    items = list(read_shard(shard, FIELDS))
    assert [(item.id, item.shard) for item in items] == [
        (name, str(tmp_path / name)) for name in ("a.md", "b.md", "sub/a.md")
    ]
    (alone,) = (item for shard in locate([str(tmp_path / "sub/a.md")]) for item in read_shard(shard, FIELDS))
    assert alone.id == "a.md"


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Title\n\ntext", "Title"),
        ("text\n\n## Second level ##\n", "Second level"),
        ("#no heading\n#\ttab\n", "tab"),
        ("```\n# a comment\n```\n# Title\n", "Title"),
        ("~~~\n```\n# a comment\n~~~\n# Title\n", "Title"),
        ("    # code\n", ""),
        ("---\ntitle: 'From the front'\ntags: x\n---\ntext", "From the front"),
        ("---\ntitle: Front\n---\n# Heading\n", "Heading"),
        ("---\n\nnot front matter: no end\n", ""),
        ("no heading", ""),
    ],
)
def test_the_title_is_the_first_heading(read_bytes: Read, text: str, title: str) -> None:
    (item,) = read_bytes("a.md", text.encode())
    assert item.title == title


def test_front_matter_is_no_prose(read_bytes: Read) -> None:
    (item,) = read_bytes("a.md", b"---\nlayout: page\n---\n\nwords\n\n---\n\nmore\n")
    assert item.text == "words\n\n---\n\nmore"


def test_a_byte_order_mark_is_taken_off(read_bytes: Read) -> None:
    (item,) = read_bytes("a.md", b"\xef\xbb\xbf# Title\ntext")
    assert (item.title, item.text) == ("Title", "# Title\ntext")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.EMPTY_TEXT),
        (b" \n\t\n", Reason.EMPTY_TEXT),
        (b"\xef\xbb\xbf", Reason.EMPTY_TEXT),
        (b"---\ntitle: x\n---\n", Reason.EMPTY_TEXT),
        (b"caf\xe9", Reason.NOT_UTF8),
        (b"x" * 101, Reason.TOO_LONG),
        ("é".encode() * 101, Reason.TOO_LONG),
        (b"x" * 10_000, Reason.TOO_LONG),
        ("x€".encode() * 10_000, Reason.TOO_LONG),
    ],
)
def test_a_bad_file_is_rejected(read_bytes: Read, content: bytes, reason: Reason) -> None:
    (item,) = read_bytes("a.md", content, max_text_chars=100)
    assert (item.reason, item.id, item.offset) == (reason, "a.md", 0)


def test_a_text_of_just_the_longest_is_kept(read_bytes: Read) -> None:
    for text in ("x" * 100, "𝄞" * 100, "\ufeff" + "𝄞" * 100):
        (item,) = read_bytes("a.txt", text.encode(), max_text_chars=100)
        assert item.text == text.removeprefix("\ufeff")


def test_one_bad_file_costs_only_itself(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03}.txt").write_bytes(b"\xff" if number == 50 else b"text")
    (shard,) = locate([str(tmp_path)])
    items = list(read_shard(shard, FIELDS))
    assert [item.id for item in items] == [f"{number:03}.txt" for number in range(100)]
    assert [item.id for item in items if not isinstance(item, Document)] == ["050.txt"]


def test_a_file_that_went_away_is_an_error(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("text")
    (shard,) = locate([str(tmp_path)])
    (tmp_path / "b.txt").unlink()
    with pytest.raises(CorpusError, match=r"b\.txt"):
        list(read_shard(shard, FIELDS))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("content", [b"text", b""])
def test_a_name_that_is_no_utf8_costs_only_its_file(tmp_path: Path, content: bytes) -> None:
    folder = os.fsencode(tmp_path)
    for name, text in ((b"a.txt", b"text"), (b"caf\xe9.txt", content)):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(text)
    (shard,) = locate([str(tmp_path)])
    good, bad = read_shard(shard, FIELDS)
    assert good.id == "a.txt"
    assert bad.reason == (Reason.NOT_UTF8 if content else Reason.EMPTY_TEXT)  # type: ignore[union-attr]
    assert (bad.id, bad.shard) == ("caf?.txt", f"{tmp_path}/caf?.txt")
