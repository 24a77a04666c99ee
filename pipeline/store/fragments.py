"""Encoded rows to Lance fragments: data files that belong to no version until the committer commits them.

Runs in parallel on any worker. A fragment that is never committed is invisible and costs only its bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import FragmentMetadata, write_fragments

from pipeline.retry import retrying
from pipeline.storage import lance_options


@dataclass(frozen=True, slots=True)
class WrittenFragments:
    """Fragments of one batch, as they travel to the committer.

    Attributes:
        fragments: JSON of each fragment's metadata.
        num_rows: Rows in them.
        size_bytes: Bytes of their data files.
    """

    fragments: tuple[str, ...]
    num_rows: int
    size_bytes: int


def write_rows(rows: pa.Table, uri: str, *, schema: pa.Schema) -> WrittenFragments:
    """Writes good rows to new data files of the table at `uri`.

    Args:
        rows: The schema's columns, `metadata` as plain JSON text.
        uri: The documents table.
        schema: Of the table.
    """
    if rows.num_rows == 0:
        return WrittenFragments((), 0, 0)
    columns = []
    for field in schema:
        column = rows.column(field.name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks)
        if field.name == "metadata":
            column = pa.ExtensionArray.from_storage(pa.json_(), column.cast(pa.string()))
        elif column.type != field.type:
            column = pc.cast(column, field.type)
        columns.append(column)
    table = pa.Table.from_arrays(columns, schema=schema)
    # an attempt that failed leaves files that no version names; the next one writes under new names
    written = retrying(
        lambda: write_fragments(
            table, uri, schema=schema, enable_stable_row_ids=True, storage_options=lance_options(uri)
        ),
        what=f"writing to {uri}",
    )
    size = sum(file.file_size_bytes or 0 for fragment in written for file in fragment.files)
    return WrittenFragments(tuple(json.dumps(f.to_json()) for f in written), table.num_rows, size)


def parse_fragments(fragments: tuple[str, ...] | list[str]) -> list[FragmentMetadata]:
    """Fragment metadata back from its JSON."""
    return [FragmentMetadata.from_json(text) for text in fragments]
