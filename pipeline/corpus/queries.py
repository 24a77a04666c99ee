"""Queries from a file, a folder of a benchmark, or an open stream.

Unlike documents, queries are few and asked for by name, so the first bad one stops with its file and line.
Called by flows and by the evaluation.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from pipeline.corpus.fields import ID_NAMES
from pipeline.corpus.formats import format_of, split_name
from pipeline.corpus.parquet import read_parquet
from pipeline.corpus.streams import DamagedStream, open_stream, storage_errors
from pipeline.errors import CorpusError
from pipeline.records import Format, Query, Rejected, Shard
from pipeline.storage import join, normalise, open_filesystem, redact

_TEXT_NAMES = ("text", "query", "question", "contents")
_BEIR_QUERIES = ("queries.jsonl", "queries.jsonl.gz", "queries.jsonl.zst")
# What BRIGHT writes where a query excludes no document.
_NONE_EXCLUDED = "N/A"

_Rows = Iterable[tuple[str, Mapping[str, Any]]]


def read_queries(source: str | TextIO) -> list[Query]:
    """Every query of a source, in its order.

    Args:
        source: URI of a file with one query a line, of JSON lines (BEIR, BRIGHT) or of Parquet (BRIGHT), each but
            Parquet also .gz or .zst; or of a BEIR folder, or a BRIGHT folder with one file of examples; or an open
            text stream. Where no extension says so, lines are JSON if the first that is not blank begins with "{".

    Raises:
        CorpusError: there is no query, an id comes twice, or a line is not one; names the file and the line.
        StorageError: the store refused.
    """
    if not isinstance(source, str):
        name = str(getattr(source, "name", "") or "the stream")
        try:
            queries = _from_lines(source, name)
        except UnicodeDecodeError as error:
            raise CorpusError(f"{name} cannot be read ({error}); expected UTF-8 text, one query a line") from error
    else:
        uri = _find_file(normalise(source))
        queries = _from_parquet(uri) if format_of(uri) == (Format.PARQUET, "") else _from_file(uri)
        name = redact(uri)
    if not queries:
        raise CorpusError(f"{name} holds no query; expected one a line")
    seen: set[str] = set()
    for query in queries:
        if query.id in seen:
            raise CorpusError(f"{name}: the query id {query.id!r} comes twice; ids must be unique")
        seen.add(query.id)
    return queries


def _find_file(uri: str) -> str:
    """The file of queries behind a URI: itself, or the one that its folder holds."""
    fs, path = open_filesystem(uri)
    with storage_errors(uri):
        if not fs.isdir(path):
            return uri
        names = sorted(name[len(path) :].lstrip("/") for name in fs.find(path, maxdepth=2))
    found = [name for name in _BEIR_QUERIES if name in names][:1]
    found = found or [name for name in names if name.startswith("examples/") and name.endswith(".parquet")]
    found = found or [name for name in names if "/" not in name and name.endswith(".parquet")]
    if len(found) != 1:
        what = (
            f"{len(found)} files of queries: {', '.join(found[:20])}"
            if found
            else f"none of {_BEIR_QUERIES[0]}, *.parquet"
        )
        raise CorpusError(f"{redact(uri)} holds {what}; expected one, so give the file itself")
    return join(uri, found[0])


def _from_file(uri: str) -> list[Query]:
    extension, compression = split_name(uri)
    try:
        with open_stream(uri, compression=compression) as stream, io.TextIOWrapper(stream, "utf-8-sig") as lines:
            return _from_lines(lines, redact(uri), extension=extension)
    except (DamagedStream, UnicodeDecodeError) as error:
        raise CorpusError(f"{redact(uri)} cannot be read ({error}); expected UTF-8 text, one query a line") from error


def _from_lines(lines: Iterable[str], name: str, *, extension: str = "") -> list[Query]:
    numbered = [(f"{name}:{number}", line.strip()) for number, line in enumerate(lines, 1)]
    numbered = [(place, line) for place, line in numbered if line.lstrip("\ufeff")]
    is_json = extension in ("jsonl", "ndjson", "json") or (
        extension not in ("txt", "md") and bool(numbered) and numbered[0][1].lstrip("\ufeff").startswith("{")
    )
    if not is_json:
        return [
            _query(place, number, {"text": line.lstrip("\ufeff")}) for number, (place, line) in enumerate(numbered, 1)
        ]
    return _from_rows(_parse_lines(numbered))


def _parse_lines(numbered: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, line in numbered:
        try:
            row = json.loads(line.lstrip("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{place}: not JSON ({error}); expected one object a line") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{place}: a JSON {type(row).__name__}; expected an object with one of {_TEXT_NAMES}")
        yield place, row


def _from_parquet(uri: str) -> list[Query]:
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for item in read_parquet(Shard(uri=uri, format=Format.PARQUET)):
        if isinstance(item, Rejected):
            raise CorpusError(f"{redact(uri)} cannot be read: {item.detail}")
        rows.append((f"{redact(uri)}, row {item[0]}", item[1]))
    return _from_rows(rows)


def _from_rows(rows: _Rows) -> list[Query]:
    return [_query(place, number, row) for number, (place, row) in enumerate(rows, 1)]


def _query(place: str, number: int, row: Mapping[str, Any]) -> Query:
    texts = (row[name].strip() for name in _TEXT_NAMES if isinstance(row.get(name), str))
    text = next(filter(None, texts), "")
    if not text:
        columns = ", ".join(map(str, row)) or "none"
        raise CorpusError(f"{place}: no text; expected one of {', '.join(_TEXT_NAMES)}, found the columns {columns}")
    if not _is_utf8(text):
        raise CorpusError(f"{place}: the text is not UTF-8: it holds bytes or lone surrogates that UTF-8 cannot store")
    id = next((row[name] for name in ID_NAMES if row.get(name) not in (None, "")), number)
    if not isinstance(id, (str, int)) or isinstance(id, bool) or not _is_utf8(str(id)):
        raise CorpusError(f"{place}: the id {id!r} is a {type(id).__name__}; expected a string or an integer")
    excluded = row.get("excluded_ids") or ()
    if not isinstance(excluded, (list, tuple)) or not all(
        isinstance(item, str) and _is_utf8(item) for item in excluded
    ):
        raise CorpusError(f"{place}: excluded_ids is {excluded!r}; expected a list of strings, each valid Unicode")
    task = row["task"] if isinstance(row.get("task"), str) else ""
    return Query(str(id), text, tuple(item for item in excluded if item != _NONE_EXCLUDED), task)


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
