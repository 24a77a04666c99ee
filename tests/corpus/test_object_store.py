"""A corpus in an S3 bucket: the same documents as from a local folder, and plain words where the store refuses."""

from __future__ import annotations

import gzip

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.locate import locate
from pipeline.corpus.queries import read_queries
from pipeline.corpus.read import read_shard
from pipeline.errors import CorpusError, StorageError
from pipeline.records import Document, FieldMap, Reason
from pipeline.storage import open_filesystem

pytestmark = pytest.mark.s3
FIELDS = FieldMap(text="text", id="_id")
LINES = b"".join(b'{"_id": "%d", "text": "text %d"}\n' % (i, i) for i in range(1_000))


def store(uri: str) -> fsspec.AbstractFileSystem:
    return open_filesystem(uri)[0]


def test_rows_from_a_bucket(s3: str) -> None:
    fs = store(s3)
    fs.pipe(f"{s3}/b/plain.jsonl", LINES)
    fs.pipe(f"{s3}/a/packed.jsonl.gz", gzip.compress(LINES))
    fs.pipe(f"{s3}/.hidden.jsonl", LINES)
    with fs.open(f"{s3}/c.parquet", "wb") as file:
        pq.write_table(pa.table({"_id": ["p"], "text": ["in Parquet"]}), file)
    shards = locate([s3], split_bytes=10_000)
    assert [shard.uri for shard in locate([s3])] == [
        f"{s3}/a/packed.jsonl.gz", f"{s3}/b/plain.jsonl", f"{s3}/c.parquet",
    ]  # fmt: skip
    assert locate([f"{s3.replace('s3://', 's3a://')}/**", f"{s3}/c.parquet"], split_bytes=10_000) == shards
    ids = [item.id for shard in shards for item in read_shard(shard, FIELDS)]
    assert ids == [*map(str, range(1_000)), *map(str, range(1_000)), "p"]
    assert read_queries(f"{s3}/b/plain.jsonl")[999].text == "text 999"


def test_texts_from_a_bucket(s3: str) -> None:
    fs = store(s3)
    for name, content in (("a.md", b"# Title\n\ntext"), ("empty.txt", b""), ("sub/b.txt", b"more")):
        fs.pipe(f"{s3}/{name}", content)
    (shard,) = locate([s3])
    first, empty, second = read_shard(shard, FIELDS)
    assert first == Document("a.md", "Title", "# Title\n\ntext", "{}", f"{s3}/a.md", 0)
    assert empty.reason == Reason.EMPTY_TEXT  # type: ignore[union-attr]
    assert second.id == "sub/b.txt"


def test_the_version_is_of_the_bytes(s3: str) -> None:
    fs = store(s3)
    versions = []
    for content in (LINES, LINES[::-1], LINES):
        fs.pipe(f"{s3}/a.jsonl", content)
        versions.append(locate([s3])[0].version)
    assert versions[0] == versions[2] != versions[1]


def test_what_is_absent_is_named(s3: str) -> None:
    for uri in (s3, f"{s3}/absent.jsonl", f"{s3}/*.jsonl"):
        with pytest.raises(CorpusError) as caught:
            locate([uri])
        assert uri in str(caught.value)
    with pytest.raises(StorageError, match="bucket"):
        locate(["s3://there-is-no-such-bucket/x.jsonl"])


def test_an_object_that_went_away_is_an_error(s3: str) -> None:
    fs = store(s3)
    fs.pipe(f"{s3}/a.jsonl", LINES)
    (shard,) = locate([s3])
    fs.rm(f"{s3}/a.jsonl")
    with pytest.raises(CorpusError, match=r"a\.jsonl"):
        list(read_shard(shard, FIELDS))
