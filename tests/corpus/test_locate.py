"""What counts as the corpus when a user names files, folders and globs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.locate import locate
from pipeline.corpus.read import read_shard
from pipeline.corpus.splits import MAX_BUNDLE_FILES
from pipeline.errors import CorpusError, SettingsError, StorageError
from pipeline.records import FieldMap, Format, Rejected

LINE = b'{"_id": "1", "text": "one"}\n'
FIELDS = FieldMap(text="text", id="_id")


def lay(folder: Path, *names: str, content: bytes = LINE) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def lay_parquet(path: Path, num_rows: int = 1, row_group_size: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"_id": [str(i) for i in range(num_rows)], "text": [f"text {i}" for i in range(num_rows)]}
    pq.write_table(pa.table(rows), path, row_group_size=row_group_size)
    return path


def names(folder: Path, *uris: str | Path, **options: object) -> list[str]:
    shards = locate([str(uri) for uri in uris or (folder,)], **options)  # type: ignore[arg-type]
    found = []
    for shard in shards:
        found += [f"{shard.uri}/{name}" for name in shard.members] or [shard.uri]
    return [os.path.relpath(uri, folder) for uri in found]


def test_a_file(tmp_path: Path) -> None:
    lay(tmp_path, "a.jsonl", "b.jsonl")
    (shard,) = locate([str(tmp_path / "a.jsonl")])
    assert (shard.uri, shard.format, shard.compression) == (str(tmp_path / "a.jsonl"), Format.JSONL, "")
    assert (shard.start, shard.end, shard.size_bytes) == (0, None, len(LINE))
    assert shard.version


def test_one_uri_may_be_given_as_a_string(tmp_path: Path) -> None:
    lay(tmp_path, "a.jsonl")
    assert locate(str(tmp_path)) == locate([str(tmp_path)])


def test_relative_paths_and_file_uris_are_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "a.jsonl")
    monkeypatch.chdir(tmp_path)
    whole = locate([str(tmp_path / "a.jsonl")])
    assert locate(["a.jsonl"]) == whole == locate([f"file://{tmp_path}/a.jsonl"])


def test_a_folder_is_read_with_its_folders(tmp_path: Path) -> None:
    lay(tmp_path, "b.jsonl", "a/z.csv", "a/deep/er/x.jsonl.gz", "c.tsv.zst")
    assert names(tmp_path) == ["a/deep/er/x.jsonl.gz", "a/z.csv", "b.jsonl", "c.tsv.zst"]


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a.jsonl", Format.JSONL, ""),
        ("a.ndjson", Format.JSONL, ""),
        ("a.json", Format.JSONL, ""),
        ("a.jsonl.gz", Format.JSONL, "gzip"),
        ("a.jsonl.zst", Format.JSONL, "zstd"),
        ("A.JSONL.GZ", Format.JSONL, "gzip"),
        ("a.v2.csv.gz", Format.CSV, "gzip"),
        ("a.tsv", Format.TSV, ""),
        ("a.parquet", Format.PARQUET, ""),
        ("a.txt", Format.TEXT, ""),
        ("a.md", Format.TEXT, ""),
        ("a.rst", Format.TEXT, ""),
    ],
)
def test_the_extension_says_how_to_read(tmp_path: Path, name: str, format: Format, compression: str) -> None:
    (shard,) = locate([str(lay(tmp_path, name))])
    assert (shard.format, shard.compression) == (format, compression)


def test_a_glob(tmp_path: Path) -> None:
    lay(tmp_path, "2024/a.jsonl", "2024/b.jsonl", "2025/a.jsonl", "2025/a.bin", "other/a.jsonl")
    assert names(tmp_path, tmp_path / "202?" / "*") == ["2024/a.jsonl", "2024/b.jsonl", "2025/a.jsonl"]
    assert names(tmp_path, tmp_path / "**" / "b*.jsonl") == ["2024/b.jsonl"]


def test_a_glob_of_folders_reads_what_is_in_them(tmp_path: Path) -> None:
    lay(tmp_path, "2024/a.jsonl", "2025/deep/a.jsonl", "other/a.jsonl")
    assert names(tmp_path, tmp_path / "202*") == ["2024/a.jsonl", "2025/deep/a.jsonl"]


def test_a_name_that_looks_like_a_glob_and_exists_is_meant(tmp_path: Path) -> None:
    lay(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert names(tmp_path, tmp_path / "a[1].jsonl") == ["a[1].jsonl"]


def test_what_several_uris_name_is_read_once(tmp_path: Path) -> None:
    lay(tmp_path, "a.jsonl", "b.jsonl")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    uris = [tmp_path, tmp_path / "a.jsonl", tmp_path / "*.jsonl", tmp_path / "link.jsonl"]
    assert len(names(tmp_path, *uris)) == 2


def test_text_files_that_several_uris_name_are_read_once(tmp_path: Path) -> None:
    lay(tmp_path, "a.md", "b/c.md", content=b"text")
    assert names(tmp_path, tmp_path, tmp_path / "a.md", tmp_path / "b") == ["a.md", "b/c.md"]


def test_order_is_of_names_and_not_of_arguments(tmp_path: Path) -> None:
    lay(tmp_path, "c.jsonl", "a.jsonl", "b/a.jsonl")
    uris = [str(tmp_path / name) for name in ("c.jsonl", "b", "a.jsonl")]
    assert locate(uris) == locate(uris[::-1]) == locate([str(tmp_path)])


def test_a_beir_folder_reads_only_its_corpus(tmp_path: Path) -> None:
    lay(tmp_path, "corpus.jsonl", "queries.jsonl", "qrels/test.tsv", "README.md")
    assert names(tmp_path) == ["corpus.jsonl"]


@pytest.mark.parametrize("packed", ["corpus.jsonl.gz", "corpus.jsonl.zst"])
def test_a_beir_corpus_may_be_compressed(tmp_path: Path, packed: str) -> None:
    lay(tmp_path, packed, "queries.jsonl")
    assert names(tmp_path) == [packed]
    lay(tmp_path, "corpus.jsonl")
    assert names(tmp_path) == ["corpus.jsonl"]


def test_a_bright_root_reads_only_its_documents(tmp_path: Path) -> None:
    for kind in ("documents", "long_documents", "examples", "gpt4_reason"):
        for task in ("biology", "pony"):
            lay_parquet(tmp_path / kind / f"{task}-00000-of-00001.parquet")
    lay(tmp_path, "README.md")
    documents = ["documents/biology-00000-of-00001.parquet", "documents/pony-00000-of-00001.parquet"]
    assert names(tmp_path) == documents
    assert names(tmp_path, tmp_path / "documents") == documents
    assert names(tmp_path, tmp_path / "long_documents") == [f"long_{name}" for name in documents]


def test_bright_queries_alone_are_no_corpus(tmp_path: Path) -> None:
    lay_parquet(tmp_path / "examples" / "biology-00000-of-00001.parquet")
    with pytest.raises(CorpusError, match="documents/"):
        locate([str(tmp_path)])


def test_hidden_files_and_leftovers_are_no_documents(tmp_path: Path) -> None:
    lay(tmp_path, "a.jsonl", ".hidden.jsonl", ".git/x.jsonl", "_temporary/0/b.jsonl", "_delta_log/0.json")
    lay(tmp_path, "p.bin", "no_extension")
    assert names(tmp_path) == ["a.jsonl"]
    assert names(tmp_path, tmp_path / "**") == ["a.jsonl"]


def test_a_hidden_file_that_is_named_is_read(tmp_path: Path) -> None:
    lay(tmp_path, ".hidden.jsonl")
    assert names(tmp_path, tmp_path / ".hidden.jsonl") == [".hidden.jsonl"]


def test_companions_of_tables_are_no_documents(tmp_path: Path) -> None:
    lay(tmp_path, "part-0.jsonl", "README.md", "LICENSE.txt", "dataset_info.json")
    assert names(tmp_path) == ["part-0.jsonl"]


def test_a_readme_among_texts_is_a_document(tmp_path: Path) -> None:
    lay(tmp_path, "README.md", "guide.md")
    assert names(tmp_path) == ["README.md", "guide.md"]


def test_texts_beside_tables_are_ambiguous(tmp_path: Path) -> None:
    lay(tmp_path, "a.jsonl", "guide.md")
    with pytest.raises(CorpusError, match=r"a\.jsonl.*guide\.md.*--format"):
        locate([str(tmp_path)])
    assert names(tmp_path, format=Format.TEXT) == ["guide.md"]
    assert names(tmp_path, format=Format.JSONL) == ["a.jsonl"]


def test_nothing_readable_says_what_was_seen(tmp_path: Path) -> None:
    lay(tmp_path, "a.pdf", "b.pdf", "c.docx", "Makefile")
    with pytest.raises(CorpusError, match=r"2 with \.pdf") as caught:
        locate([str(tmp_path)])
    for piece in (str(tmp_path), "1 with .docx", "no extension", ".jsonl", ".parquet"):
        assert piece in str(caught.value)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no file at all"):
        locate([str(tmp_path)])


@pytest.mark.parametrize("name", ["absent", "absent.jsonl", "absent/*.jsonl", "*.jsonl"])
def test_an_absent_path_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError) as caught:
        locate([str(tmp_path / name)])
    assert str(tmp_path / name) in str(caught.value)


def test_a_glob_that_matches_nothing_readable_says_so(tmp_path: Path) -> None:
    lay(tmp_path, "a.pdf")
    with pytest.raises(CorpusError, match="1 names that match"):
        locate([str(tmp_path / "*")])


def test_one_absent_uri_among_others_is_an_error(tmp_path: Path) -> None:
    lay(tmp_path, "a.jsonl")
    with pytest.raises(CorpusError, match="absent"):
        locate([str(tmp_path), str(tmp_path / "absent")])


def test_no_uri_or_no_size_is_a_mistake_of_settings(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        locate([])
    with pytest.raises(SettingsError):
        locate([str(lay(tmp_path, "a.jsonl"))], split_bytes=0)


def test_an_unknown_scheme_is_a_storage_error_without_secrets() -> None:
    with pytest.raises(StorageError) as caught:
        locate(["nowhere://user:hunter2@host/x"])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.md"])
def test_the_version_changes_with_the_file(tmp_path: Path, name: str) -> None:
    lay(tmp_path, name)
    (before,) = locate([str(tmp_path)])
    assert locate([str(tmp_path)]) == [before]
    stat = (tmp_path / name).stat()
    os.utime(tmp_path / name, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    (touched,) = locate([str(tmp_path)])
    assert touched.version != before.version
    lay(tmp_path, name, content=LINE * 2)
    os.utime(tmp_path / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (longer,) = locate([str(tmp_path)])
    assert longer.version != before.version


def test_the_version_of_a_link_is_that_of_its_target(tmp_path: Path) -> None:
    lay(tmp_path / "target", "a.jsonl")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").symlink_to(tmp_path / "target" / "a.jsonl")
    (before,) = locate([str(tmp_path / "corpus")])
    lay(tmp_path / "target", "a.jsonl", content=LINE * 2)
    (after,) = locate([str(tmp_path / "corpus")])
    assert before.version != after.version
    assert after.size_bytes == 2 * len(LINE)


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    lay(tmp_path / "elsewhere", "x.jsonl")
    corpus = lay(tmp_path / "corpus", "a.jsonl")
    (corpus / "link").symlink_to(tmp_path / "elsewhere")
    (corpus / "loop").symlink_to(corpus)
    assert names(corpus) == ["a.jsonl", "link/x.jsonl"]


def test_plain_json_lines_are_split_by_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(b'{"_id": "%d", "text": "t"}\n' % i for i in range(100)))
    shards = locate([str(path)], split_bytes=300)
    assert [shard.end for shard in shards[:-1]] == [shard.start for shard in shards[1:]]
    assert (shards[0].start, shards[-1].end) == (0, path.stat().st_size)
    assert len({shard.version for shard in shards}) == 1
    ids = [item.id for shard in shards for item in read_shard(shard, FIELDS)]
    assert ids == [str(i) for i in range(100)]


def test_parquet_is_split_by_row_groups(tmp_path: Path) -> None:
    path = lay_parquet(tmp_path / "a.parquet", num_rows=10, row_group_size=3)
    shards = locate([str(path)], split_bytes=1)
    assert [(shard.start, shard.end) for shard in shards] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    items = [item for shard in shards for item in read_shard(shard, FIELDS)]
    assert [(item.id, item.offset) for item in items] == [(str(i), i) for i in range(10)]


def test_what_is_compressed_is_not_split(tmp_path: Path) -> None:
    lay(tmp_path, "a.jsonl.gz", content=LINE * 100)
    (shard,) = locate([str(tmp_path)], split_bytes=10)
    assert (shard.start, shard.end) == (0, None)


@pytest.mark.parametrize("footer", [b"\xff" * 16, b"\x00" * 16, b""])
def test_a_damaged_footer_is_left_to_the_reader(tmp_path: Path, footer: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"x" * 100 + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    (shard,) = locate([str(path)], split_bytes=10)
    (item,) = read_shard(shard, FIELDS)
    assert isinstance(item, Rejected)


def test_texts_are_bundled_by_number_and_size(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{i:04}.txt" for i in range(MAX_BUNDLE_FILES + 1)), content=b"x" * 10)
    shards = locate([str(tmp_path)])
    assert [len(shard.members) for shard in shards] == [MAX_BUNDLE_FILES, 1]
    shards = locate([str(tmp_path)], split_bytes=100)
    assert {len(shard.members) for shard in shards[:-1]} == {10}
    members = [name for shard in shards for name in shard.members]
    assert members == sorted(members)
    assert len(members) == MAX_BUNDLE_FILES + 1


def test_texts_of_two_folders_of_a_glob_keep_apart(tmp_path: Path) -> None:
    lay(tmp_path, "2024/a.md", "2025/a.md")
    shards = locate([str(tmp_path / "202*")])
    ids = [item.id for shard in shards for item in read_shard(shard, FIELDS)]
    assert ids == ["2024/a.md", "2025/a.md"]


@pytest.fixture
def memory() -> Iterator[str]:
    """A folder in fsspec's memory file system."""
    root = f"/{uuid.uuid4().hex}"
    yield f"memory:/{root}"
    fs = fsspec.filesystem("memory")
    if fs.exists(root):
        fs.rm(root, recursive=True)


def test_other_stores(memory: str) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe(f"{memory}/a/x.jsonl", LINE)
    fs.pipe(f"{memory}/a/.hidden.jsonl", LINE)
    fs.pipe(f"{memory}/b.jsonl", LINE)
    found = [f"{memory}/a/x.jsonl", f"{memory}/b.jsonl"]
    assert [shard.uri for shard in locate([memory])] == found
    assert [shard.uri for shard in locate([f"{memory}/"])] == found
    assert [shard.uri for shard in locate([f"{memory}/*", f"{memory}/a/x.jsonl"])] == found
    items = [item for shard in locate([memory]) for item in read_shard(shard, FIELDS)]
    assert [(item.id, item.shard) for item in items] == [("1", uri) for uri in found]


def test_texts_in_other_stores(memory: str) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe(f"{memory}/x.md", b"# Title\n\ntext")
    fs.pipe(f"{memory}/sub/y.txt", b"text")
    for uris in ([memory], [f"{memory}/**"]):
        items = [item for shard in locate(uris) for item in read_shard(shard, FIELDS)]
        assert [(item.id, item.shard) for item in items] == [
            ("sub/y.txt", f"{memory}/sub/y.txt"),
            ("x.md", f"{memory}/x.md"),
        ]


def test_a_file_at_the_root_of_a_store() -> None:
    name = f"{uuid.uuid4().hex}.jsonl"
    fs = fsspec.filesystem("memory")
    fs.pipe(f"/{name}", LINE)
    try:
        items = [item for uri in (name, f"{name[:-6]}*") for item in read_shard(*locate([f"memory://{uri}"]), FIELDS)]
    finally:
        fs.rm(f"/{name}")
    assert [item.id for item in items] == ["1", "1"]


def test_the_version_in_another_store_changes_with_the_file(memory: str) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe(f"{memory}/a.jsonl", LINE)
    before = locate([memory])
    assert before == locate([memory])
    fs.pipe(f"{memory}/a.jsonl", LINE * 2)
    (after,) = locate([memory])
    assert replace(after, version="", size_bytes=0) == replace(before[0], version="", size_bytes=0)
    assert after.version != before[0].version
