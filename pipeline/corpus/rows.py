"""One row -> `Document` or `Rejected`, whatever file it came from.

Knows the field map and what a document must be; knows no file format. Called by every reader of rows.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

from pipeline.records import QUARANTINE_TEXT_CHARS, Document, FieldMap, Reason, Rejected, content_hash
from pipeline.storage import is_local, redact

Row = Mapping[str, Any]
_COMPACT = (",", ":")
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=_COMPACT, allow_nan=False).encode
_MAX_ID_CHARS = 10_000
# Titles are numbers now and then (years, ticket numbers); anything else that is no string is a wrong column.
_NUMBERS = (int, float, Decimal)


class _Refusal(Exception):
    """Why a row cannot become a document; never leaves this module."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class DocumentBuilder:
    """Turns the rows of one file into documents by one field map."""

    __slots__ = ("_id", "_max_chars", "_metadata", "_named", "_shard", "_text", "_title")

    def __init__(self, fields: FieldMap, *, shard: str, max_text_chars: int) -> None:
        """Prepare for one file.

        Args:
            fields: Which columns hold what.
            shard: URI of the file.
            max_text_chars: A longer text is rejected, as are longer metadata.
        """
        self._text, self._id, self._title, self._metadata = fields.text, fields.id, fields.title, fields.metadata
        self._named = frozenset(name for name in (fields.text, fields.id, fields.title) if name is not None)
        self._shard = shown(shard)
        self._max_chars = max_text_chars

    def build(self, offset: int, row: Row) -> Document | Rejected:
        """The document in a row, or why there is none; never raises for what the row holds.

        Args:
            offset: As in `Document`.
            row: Column name -> value.
        """
        try:
            text = self._clean_text(row)
            title = self._clean_title(row)
            id = self._clean_id(row, title, text)
            metadata = self._clean_metadata(row)
        except _Refusal as refusal:
            return rejected(
                self._shard,
                offset=offset,
                reason=refusal.reason,
                detail=refusal.detail,
                raw=_excerpt(row, self._text),
                id=_readable_id(row, self._id),
            )
        return Document(id, title, text, metadata, self._shard, offset)

    def _clean_text(self, row: Row) -> str:
        if self._text not in row:
            columns = ", ".join(str(name)[:40] for name in list(row)[:20]) or "none"
            raise _Refusal(Reason.NO_TEXT, f"no column {self._text!r}; the row has: {columns}")
        value = row[self._text]
        if value is None:
            raise _Refusal(Reason.EMPTY_TEXT, f"{self._text!r} is null")
        text = _storable_string(value, self._text).strip()
        if not text:
            raise _Refusal(Reason.EMPTY_TEXT, f"{self._text!r} is blank")
        if len(text) > self._max_chars:
            raise _Refusal(
                Reason.TOO_LONG, f"{self._text!r} has {len(text):,} characters, more than {self._max_chars:,}"
            )
        return text

    def _clean_title(self, row: Row) -> str:
        value = row.get(self._title) if self._title is not None else None
        if value is None or value != value:
            return ""
        if isinstance(value, _NUMBERS) and not isinstance(value, bool):
            return str(value)
        title = _storable_string(value, str(self._title)).strip()
        if len(title) > self._max_chars:
            raise _Refusal(Reason.TOO_LONG, f"{self._title!r} has {len(title):,} characters")
        return title

    def _clean_id(self, row: Row, title: str, text: str) -> str:
        if self._id is None:
            return f"sha-{content_hash(title, text, '').hex()}"
        value = row.get(self._id)
        if value is None:
            raise _Refusal(Reason.NO_ID, f"no {self._id!r} in this row, or null")
        # type(), not isinstance(): True is an int too.
        id = str(value) if type(value) is int else _storable_string(value, self._id)
        if not id or id.isspace():
            raise _Refusal(Reason.NO_ID, f"{self._id!r} is blank")
        if len(id) > _MAX_ID_CHARS:
            raise _Refusal(Reason.TOO_LONG, f"{self._id!r} has {len(id):,} characters, more than {_MAX_ID_CHARS:,}")
        return id

    def _clean_metadata(self, row: Row) -> str:
        if self._metadata is None:
            named = self._named
            kept = {name: value for name, value in row.items() if value is not None and name not in named}
        else:
            kept = {name: row[name] for name in self._metadata if row.get(name) is not None}
        if not kept:
            return "{}"
        try:
            metadata = encode_metadata(kept)
        except RecursionError:
            raise _Refusal(Reason.WRONG_TYPE, "the columns kept as metadata are nested too deeply") from None
        if not metadata.isascii() and not _is_storable(metadata):
            raise _Refusal(Reason.NOT_UTF8, "the metadata hold lone surrogates, which UTF-8 cannot store")
        if len(metadata) > self._max_chars:
            raise _Refusal(Reason.TOO_LONG, f"the metadata have {len(metadata):,} characters")
        return metadata


def encode_metadata(columns: Row) -> str:
    """A JSON object as text: keys sorted, no blanks between tokens, no null at its top.

    Values that JSON lacks become what a reader would expect: dates ISO 8601, decimals their digits, bytes base64,
    NaN and infinities null.
    """
    try:
        return _encode(columns)
    except (TypeError, ValueError):
        plain = {str(name): _plain(value) for name, value in columns.items()}
        return _encode({name: value for name, value in plain.items() if value is not None})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if isinstance(value, (date, time)) else str(value)


def rejected(shard: str, *, offset: int, reason: Reason, detail: str, raw: str | bytes = "", id: str = "") -> Rejected:
    """A `Rejected` whose strings can all be stored as UTF-8, and whose shard is named as in `shown`.

    Args:
        shard: URI of the file.
        offset: As in `Document`.
        reason: Why.
        detail: One sentence for a person.
        raw: The row as it stands in the file; cut to what quarantine keeps.
        id: Its id where one could be read.
    """
    if isinstance(raw, bytes):
        # Four bytes a character at most.
        raw = raw[: 4 * QUARANTINE_TEXT_CHARS].decode("utf-8", "replace")
    return Rejected(
        shown(shard),
        offset,
        reason,
        storable(detail),
        storable(id[:_MAX_ID_CHARS]),
        storable(raw[:QUARANTINE_TEXT_CHARS]),
    )


def _storable_string(value: Any, column: str) -> str:
    """A string that UTF-8 can hold; bytes (Parquet's binary columns) are decoded."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Refusal(Reason.NOT_UTF8, f"{column!r} is binary and not UTF-8 ({error.reason})") from None
    if not isinstance(value, str):
        raise _Refusal(Reason.WRONG_TYPE, f"{column!r} is of type {type(value).__name__}, not a string")
    # isascii() reads a flag; encoding is left to the texts that need it.
    if not value.isascii() and not _is_storable(value):
        raise _Refusal(
            Reason.NOT_UTF8, f"{column!r} is not valid Unicode: it holds bytes or surrogates UTF-8 cannot store"
        )
    return value


def _is_storable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str) -> str:
    """The same text, with a question mark for each surrogate, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def shown(uri: str) -> str:
    """A file's URI as it is stored with a row: it says where the row came from, and opens nothing.

    Without a credential, which tables, their backups and the hits of a search would hand on. A local name holds none;
    its bytes that are no UTF-8 come as surrogates, which no table stores.
    """
    return storable(uri if is_local(uri) else redact(uri))


def _readable_id(row: Row, column: str | None) -> str:
    value = row.get(column) if column is not None else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _excerpt(row: Row, text_column: str) -> str:
    text = row.get(text_column)
    if isinstance(text, str) and text.strip():
        return text
    try:
        return json.dumps(row, ensure_ascii=False, separators=_COMPACT, default=str)
    except (TypeError, ValueError, RecursionError):
        return ""
