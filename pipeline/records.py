"""The nouns that travel between layers, as small frozen dataclasses.

Knows nothing of files, models, tables or Ray; everybody imports it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import StrEnum

HASH_BYTES = 16


class Format(StrEnum):
    """How a shard's bytes become documents."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    CSV = "csv"
    TSV = "tsv"
    TEXT = "text"


class Reason(StrEnum):
    """Why a document was set aside; stored in the quarantine table."""

    BROKEN_JSON = "broken_json"
    NOT_AN_OBJECT = "not_an_object"
    BROKEN_ROW = "broken_row"
    NOT_UTF8 = "not_utf8"
    NO_TEXT = "no_text"
    EMPTY_TEXT = "empty_text"
    WRONG_TYPE = "wrong_type"
    TOO_LONG = "too_long"
    NO_ID = "no_id"
    DUPLICATE_ID = "duplicate_id"
    UNREADABLE = "unreadable"
    OUT_OF_MEMORY = "out_of_memory"
    NOT_FINITE = "not_finite"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Shard:
    """One piece of a corpus that one task reads.

    Attributes:
        uri: Full URI of the file; for `Format.TEXT`, of the folder that `members` are relative to.
        format: How to read it.
        compression: "gzip", "zstd" or "" for none.
        size_bytes: Bytes as stored (compressed).
        version: What the store says changes when the bytes change: an etag, else size and modification time; "" where
            it says nothing.
        start: First byte of this piece (plain JSONL) or first row group (Parquet).
        end: One past the last byte or row group; None for "to the end".
        members: For `Format.TEXT`, the files of this piece, relative to `uri`, sorted.
    """

    uri: str
    format: Format
    compression: str = ""
    size_bytes: int = 0
    version: str = ""
    start: int = 0
    end: int | None = None
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldMap:
    """Which columns of a row hold what.

    Attributes:
        text: Column of the text.
        id: Column of the id; None makes the id a hash of the content.
        title: Column of the title; None for none.
        metadata: Columns kept as JSON; None keeps every column not named above.
    """

    text: str
    id: str | None = None
    title: str | None = None
    metadata: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """One document as read.

    Attributes:
        id: Unique in the corpus; never empty.
        title: May be empty.
        text: Never blank; stripped.
        metadata: A JSON object as text, keys sorted; "{}" when there is none.
        shard: URI of the file it came from.
        offset: Byte offset of the line (JSONL, in the uncompressed stream), else the row number, from 0.
    """

    id: str
    title: str
    text: str
    metadata: str
    shard: str
    offset: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that could not become a document.

    Attributes:
        shard: URI of the file.
        offset: As in `Document`.
        reason: Why.
        detail: One sentence for a person.
        id: Its id where one could be read, else "".
        text: The first `QUARANTINE_TEXT_CHARS` characters of the raw row or text.
    """

    shard: str
    offset: int
    reason: Reason
    detail: str
    id: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """One question asked of the index.

    Attributes:
        id: Unique among the queries of a run.
        text: Never blank; stripped.
        excluded_ids: Documents that must not be among its hits (BRIGHT leaves out a question's own page).
        task: Names the collection it comes from, such as BRIGHT's "biology"; decides how it is reasoned about. "" for
            none.
    """

    id: str
    text: str
    excluded_ids: tuple[str, ...] = ()
    task: str = ""


class FinishReason(StrEnum):
    """How a trajectory ended; the first is the only good one."""

    STOP = "stop"
    LENGTH = "length"
    EMPTY = "empty"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What a model wrote about a query before it was embedded.

    Attributes:
        key: 32 hexadecimal characters, from `fingerprint.trajectory_key`.
        query: The query's text.
        task: As in `Query`.
        text: What the model wrote, stripped; "" where it wrote nothing.
        num_tokens: Tokens it wrote.
        finish_reason: How it ended.
        reasoner: Fingerprint of the model and instruction.
        source: The model's name as people know it, or where it was imported from.
        sampling: JSON of the sampling settings.
        sample: Number of the sample, from 0.
        num_attempts: 1, or 2 where the first one came to nothing.
    """

    key: str
    query: str
    task: str
    text: str
    num_tokens: int
    finish_reason: FinishReason
    reasoner: str
    source: str
    sampling: str
    sample: int = 0
    num_attempts: int = 1

    @property
    def is_usable(self) -> bool:
        """Whether it is searched with: it came to its own end and says something."""
        return self.finish_reason is FinishReason.STOP and bool(self.text)


QUARANTINE_TEXT_CHARS = 2_000
_length = struct.Struct("<Q").pack


def content_hash(title: str, text: str, metadata: str) -> bytes:
    """16 bytes that change whenever anything stored of a document changes.

    BLAKE2b over length-prefixed UTF-8 parts, so that ("a", "b") and ("ab", "") differ. Written out: a run
    that finds nothing to do does little else.
    """
    one = title.encode("utf-8", "surrogatepass")
    two = text.encode("utf-8", "surrogatepass")
    three = metadata.encode("utf-8", "surrogatepass")
    whole = b"".join((_length(len(one)), one, _length(len(two)), two, _length(len(three)), three))
    return hashlib.blake2b(whole, digest_size=HASH_BYTES).digest()


def id_hash(document_id: str) -> bytes:
    """16 bytes that stand for a document id in compact arrays: the first half of SHA-256, which Lance computes too."""
    return hashlib.sha256(document_id.encode("utf-8", "surrogatepass")).digest()[:HASH_BYTES]
