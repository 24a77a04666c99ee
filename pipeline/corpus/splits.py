"""Files -> shards: byte ranges of plain JSONL, row groups of Parquet, bundles of text files.

Knows sizes and footers; never reads a row. Called by `locate`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.corpus.parquet import is_damage
from pipeline.corpus.streams import open_stream
from pipeline.records import Format, Shard

MAX_BUNDLE_FILES = 1_000


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file of a corpus, as a listing shows it.

    Attributes:
        uri: Full URI.
        base: URI of the folder that ids of text files are relative to.
        format: How to read it.
        compression: "gzip", "zstd" or "" for none.
        size_bytes: As stored; 0 where the store does not say.
        version: As in `Shard`.
    """

    uri: str
    base: str
    format: Format
    compression: str
    size_bytes: int
    version: str

    @property
    def name(self) -> str:
        """Path relative to `base`."""
        return self.uri[len(self.base) :].lstrip("/")


def split_file(file: CorpusFile, *, split_bytes: int) -> list[Shard]:
    """Cut one file of rows into pieces of about `split_bytes` stored bytes, where its format allows that.

    Raises:
        CorpusError: the file is not there.
        StorageError: the store refused.
    """
    if file.size_bytes > split_bytes and not file.compression:
        if file.format is Format.JSONL:
            starts = range(0, file.size_bytes, split_bytes)
            ends = [*starts[1:], file.size_bytes]
            return [_piece(file, start, end, end - start) for start, end in zip(starts, ends, strict=True)]
        if file.format is Format.PARQUET:
            pieces = list(_group_row_groups(_row_group_sizes(file.uri), split_bytes))
            if len(pieces) > 1:
                return [_piece(file, start, end, size) for start, end, size in pieces]
    return [_piece(file, 0, None, file.size_bytes)]


def _piece(file: CorpusFile, start: int, end: int | None, size_bytes: int) -> Shard:
    return Shard(
        uri=file.uri,
        format=file.format,
        compression=file.compression,
        size_bytes=size_bytes,
        version=file.version,
        start=start,
        end=end,
    )


def _row_group_sizes(uri: str) -> list[int]:
    """Stored bytes of each row group; empty where the footer is damaged, which the reader will report as a row."""
    with open_stream(uri) as stream:
        try:
            metadata = pq.ParquetFile(stream).metadata
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            return []
        groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
        return [sum(group.column(i).total_compressed_size for i in range(group.num_columns)) for group in groups]


def _group_row_groups(sizes: Sequence[int], split_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Consecutive row groups of `split_bytes` or a little more: (first, one past the last, stored bytes)."""
    start, size_bytes = 0, 0
    for index, group_bytes in enumerate(sizes):
        size_bytes += group_bytes
        if size_bytes >= split_bytes or index == len(sizes) - 1:
            yield start, index + 1, size_bytes
            start, size_bytes = index + 1, 0


def bundle_texts(files: Iterable[CorpusFile], *, split_bytes: int) -> Iterator[Shard]:
    """Text files of one base, at most `MAX_BUNDLE_FILES` or about `split_bytes` a shard."""
    bundle: list[CorpusFile] = []
    size_bytes = 0
    for file in sorted(files, key=lambda file: file.name):
        if bundle and (len(bundle) == MAX_BUNDLE_FILES or size_bytes + file.size_bytes > split_bytes):
            yield _bundle(bundle, size_bytes)
            bundle, size_bytes = [], 0
        bundle.append(file)
        size_bytes += file.size_bytes
    if bundle:
        yield _bundle(bundle, size_bytes)


def _bundle(files: Sequence[CorpusFile], size_bytes: int) -> Shard:
    versions = hashlib.blake2b(digest_size=16)
    for file in files:
        versions.update(f"{file.name}\0{file.version}\0".encode("utf-8", "surrogateescape"))
    return Shard(
        uri=files[0].base,
        format=Format.TEXT,
        size_bytes=size_bytes,
        version=versions.hexdigest() if all(file.version for file in files) else "",
        members=tuple(file.name for file in files),
    )
