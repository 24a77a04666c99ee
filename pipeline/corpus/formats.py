"""File names -> how to read them.

Knows extensions only, never a file's bytes. Called by `layouts`, `locate` and `queries`.
"""

from __future__ import annotations

from pipeline.records import Format

COMPRESSIONS = {"gz": "gzip", "gzip": "gzip", "zst": "zstd", "zstd": "zstd"}
EXTENSIONS = {
    "jsonl": Format.JSONL,
    "ndjson": Format.JSONL,
    "json": Format.JSONL,
    "parquet": Format.PARQUET,
    "csv": Format.CSV,
    "tsv": Format.TSV,
    "txt": Format.TEXT,
    "md": Format.TEXT,
    "markdown": Format.TEXT,
    "rst": Format.TEXT,
}
# Parquet compresses inside, and a text file is read whole together with its neighbours.
_COMPRESSIBLE = frozenset({Format.JSONL, Format.CSV, Format.TSV})


def read_extensions() -> str:
    """The extensions that are read, as one phrase for error messages."""
    compressible = " ".join(f".{ext}" for ext, format in EXTENSIONS.items() if format in _COMPRESSIBLE)
    others = " ".join(f".{ext}" for ext, format in EXTENSIONS.items() if format not in _COMPRESSIBLE)
    return f"{compressible} (also .gz and .zst) {others}"


def split_name(name: str) -> tuple[str, str]:
    """The extension of a file name below its compression, and the compression ("gzip", "zstd" or "").

    >>> split_name("a/corpus.JSONL.gz")
    ('jsonl', 'gzip')
    """
    parts = name.rsplit("/", 1)[-1].lower().split(".")[1:]
    compression = COMPRESSIONS.get(parts[-1], "") if parts else ""
    if compression:
        parts.pop()
    return (parts[-1] if parts else ""), compression


def format_of(name: str) -> tuple[Format, str] | None:
    """Format and compression of a file name, or None where it is none that is read."""
    extension, compression = split_name(name)
    format = EXTENSIONS.get(extension)
    if format is None or (compression and format not in _COMPRESSIBLE):
        return None
    return format, compression
