"""A shard -> its documents and its rejected rows, streamed.

The one entry to the readers, one of which knows each format. Called by `fields`, and by flows in every reading task.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from pipeline.corpus.delimited import read_delimited
from pipeline.corpus.jsonl import read_jsonl
from pipeline.corpus.parquet import read_parquet
from pipeline.corpus.rows import DocumentBuilder, Row
from pipeline.corpus.textfiles import read_texts
from pipeline.records import Document, FieldMap, Format, Rejected, Shard

MAX_TEXT_CHARS = 10_000_000
# A line of JSON spends up to six bytes on a character (\u00e9), and holds the other columns too.
_LINE_BYTES_PER_CHAR = 8
_LINE_SLACK_BYTES = 64 * 2**10


def read_shard(
    shard: Shard, fields: FieldMap, *, max_text_chars: int = MAX_TEXT_CHARS, only: Container[int] | None = None
) -> Iterator[Document | Rejected]:
    """Every row of a shard, as a document or with the reason why it is none.

    No row is lost and no row's content raises. Memory is bounded by `max_text_chars`, not by the file. A file that
    breaks off (truncated, damaged) gives the rows before that, then one `Rejected` of reason `UNREADABLE`.

    Args:
        shard: As `locate` gives it.
        fields: Which columns hold what; text files need none of it.
        max_text_chars: A longer text is rejected as `TOO_LONG`.
        only: Offsets of the rows that are wanted, of a shard that can pass over the others (`passes_over`); None for
            all.

    Raises:
        CorpusError: the file is not there, or the header of a CSV file cannot be read.
        StorageError: the store refused, at the start or midway; reading again may help.
    """
    if shard.format is Format.TEXT:
        yield from read_texts(shard, max_text_chars=max_text_chars)
        return
    build = DocumentBuilder(fields, shard=shard.uri, max_text_chars=max_text_chars).build
    for item in read_rows(shard, columns=_columns(fields), max_text_chars=max_text_chars, only=only):
        yield build(*item) if type(item) is tuple else item  # type: ignore[misc]


def passes_over(shard: Shard) -> bool:
    """Whether rows of a shard that are not wanted cost next to nothing: where a row is a line, decoded on its own."""
    return shard.format is Format.JSONL


def read_rows(
    shard: Shard,
    *,
    columns: Sequence[str] | None = None,
    max_text_chars: int = MAX_TEXT_CHARS,
    only: Container[int] | None = None,
) -> Iterator[tuple[int, Row] | Rejected]:
    """The rows of a shard before any field map is applied, each with its offset.

    Args:
        shard: Of any format but TEXT.
        columns: What is needed, for formats that can leave the rest unread; None for every column.
        max_text_chars: Bounds the length of lines and cells.
        only: As `read_shard` takes it.
    """
    max_line_bytes = _LINE_BYTES_PER_CHAR * max_text_chars + _LINE_SLACK_BYTES
    if shard.format is Format.PARQUET:
        return read_parquet(shard, columns=columns)
    if shard.format is Format.JSONL:
        return read_jsonl(shard, max_line_bytes=max_line_bytes, only=only)
    return read_delimited(shard, max_field_chars=max_text_chars + _LINE_SLACK_BYTES, max_line_bytes=max_line_bytes)


def _columns(fields: FieldMap) -> list[str] | None:
    if fields.metadata is None:
        return None
    named = [fields.text, fields.id, fields.title, *fields.metadata]
    return list(dict.fromkeys(name for name in named if name is not None))
