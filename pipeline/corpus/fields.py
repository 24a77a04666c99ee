"""Which columns of a corpus hold text, id and title: detected from its first rows, said aloud, overridden by options.

Knows names that corpora use; knows no file format. Called by flows before anything is read in earnest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from pipeline.corpus.read import read_rows
from pipeline.corpus.rows import Row
from pipeline.errors import CorpusError, SettingsError
from pipeline.records import FieldMap, Format, Rejected, Shard

# In order of preference.
TEXT_NAMES = (
    "text", "contents", "content", "body", "passage", "document", "abstract", "paragraph", "page_content",
    "passage_text", "raw_content", "article", "context", "chunk", "txt",
)  # fmt: skip
ID_NAMES = (
    "_id", "id", "doc_id", "docid", "document_id", "docno", "pid", "passage_id", "corpus_id", "corpusid", "uid",
    "uuid", "key", "idx",
)  # fmt: skip
TITLE_NAMES = ("title", "headline", "heading", "name", "subject")
_NUM_SAMPLED_ROWS = 50
_NUM_SAMPLED_SHARDS = 20
# With fewer rows than this, a value that repeats is a duplicate document rather than proof of a column that is no id.
_MIN_ROWS_TO_DOUBT = 10


def detect_fields(
    shards: Sequence[Shard],
    *,
    text: str | None = None,
    id: str | None = None,
    title: str | None = None,
    metadata: Sequence[str] | None = None,
) -> tuple[FieldMap, str]:
    """The field map of a corpus, and one sentence that says what holds what.

    Args:
        shards: As `locate` gives them; the first that have rows are looked at.
        text: Column of the text; None to detect it.
        id: Column of the id; None to detect it, "" for ids made of the content.
        title: Column of the title; None to detect it, "" for none.
        metadata: Columns kept as metadata; None for all that are left.

    Raises:
        CorpusError: no row can be read, or no column of text is recognised.
        SettingsError: a column was named that no row has.
    """
    tables = [shard for shard in shards if shard.format is not Format.TEXT]
    if shards and not tables:
        if any((text, id, title, metadata)):
            raise SettingsError("text files have no columns; leave out --text-field and its like")
        return FieldMap(text="text", id="id"), "text from whole files, id from their paths, title from first headings"
    rows = _sample(tables)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for option, names in (("text", [text]), ("id", [id]), ("title", [title]), ("metadata", metadata or ())):
        _check_named(option, names, columns)
    found_text = text or _choose(TEXT_NAMES, rows, kinds=(str, bytes))
    if not found_text:
        raise CorpusError(
            f"no column of text is recognised; the columns are: {_listed(columns)}; name it with --text-field"
        )
    found_id = _choose(ID_NAMES, rows, kinds=(str, bytes, int), distinct=True) if id is None else id
    if title is None:
        # Where every title is blank, the column still is no metadata.
        blank_too = [{name: value or "-" for name, value in row.items()} for row in rows]
        title = _choose(TITLE_NAMES, blank_too, kinds=(str, bytes), taken=found_text)
    fields = FieldMap(
        text=found_text,
        id=found_id or None,
        title=title or None,
        metadata=None if metadata is None else tuple(metadata),
    )
    return fields, describe_fields(fields, columns)


def describe_fields(fields: FieldMap, columns: Sequence[str]) -> str:
    """One sentence for people: "id from _id, title from title, text from text, metadata from source, url".

    Args:
        fields: The field map.
        columns: Every column that was seen.
    """
    named = (fields.text, fields.id, fields.title)
    kept = [name for name in columns if name not in named] if fields.metadata is None else fields.metadata
    return ", ".join(
        (
            f"id from {fields.id}" if fields.id else "id from a hash of the content",
            f"title from {fields.title}" if fields.title else "no title",
            f"text from {fields.text}",
            f"metadata from {_listed(kept)}" if kept else "no metadata",
        )
    )


def _sample(shards: Sequence[Shard]) -> list[Row]:
    """The first rows of the first shard that has any."""
    first_rejected: Rejected | None = None
    for shard in shards[:_NUM_SAMPLED_SHARDS]:
        # Some more than wanted, because bad rows do not count.
        items = list(islice(read_rows(shard), 2 * _NUM_SAMPLED_ROWS))
        rows = [item[1] for item in items if not isinstance(item, Rejected)]
        if rows:
            return rows[:_NUM_SAMPLED_ROWS]
        first_rejected = first_rejected or next((item for item in items if isinstance(item, Rejected)), None)
    if first_rejected is None:
        raise CorpusError(f"the corpus has no rows ({len(shards)} shards looked at); give files that are not empty")
    hint = ""
    if first_rejected.text.lstrip().startswith("["):
        hint = "; it looks like one JSON array: write one object a line (jq -c '.[]' in.json > out.jsonl)"
    raise CorpusError(
        f"no row of the corpus can be read; the first, in {first_rejected.shard} at {first_rejected.offset}: "
        f"{first_rejected.detail}{hint}"
    )


def _check_named(option: str, names: Sequence[str | None], columns: Sequence[str]) -> None:
    for name in names:
        if name and name not in columns:
            raise SettingsError(f"--{option}-field {name!r}: no such column; the columns are: {_listed(columns)}")


def _choose(
    names: Sequence[str], rows: Sequence[Row], *, kinds: tuple[type, ...], taken: str = "", distinct: bool = False
) -> str | None:
    """The first known name that most rows use, else the first that any uses; exact spelling before another case."""
    columns = dict.fromkeys(name for row in rows for name in row if name != taken)
    by_lower = {name.lower(): name for name in reversed(columns)}
    candidates = [name if name in columns else by_lower.get(name, "") for name in names]
    usable: Mapping[str, list[Any]] = {
        name: [row[name] for row in rows if _is_usable(row.get(name), kinds)] for name in candidates if name
    }
    for least in (len(rows) / 2, 1):
        for name, values in usable.items():
            if len(values) >= least and not (distinct and _repeats(values)):
                return name
    return None


def _is_usable(value: object, kinds: tuple[type, ...]) -> bool:
    return type(value) in kinds and not (isinstance(value, (str, bytes)) and not value.strip())


def _repeats(values: Sequence[Any]) -> bool:
    """True for a column that cannot be an id, such as a passage's doc_id."""
    return len(values) >= _MIN_ROWS_TO_DOUBT and len(set(values)) < len(values) / 2


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(name[:60] for name in columns[:30])
    return f"{shown} and {len(columns) - 30} more" if len(columns) > 30 else shown or "none"
