"""Which files of a folder are the corpus: BEIR and BRIGHT folders, and plain folders with their companions.

Works on names alone, so it needs no storage. Called by `locate`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pipeline.corpus.formats import format_of, read_extensions, split_name
from pipeline.errors import CorpusError
from pipeline.records import Format

# Plain first: where one corpus lies there both plain and compressed, only the plain one can be split.
BEIR_CORPUS = ("corpus.jsonl", "corpus.jsonl.zst", "corpus.jsonl.gz")
# Folders of https://huggingface.co/datasets/xlangai/BRIGHT hold TASK-00000-of-00001.parquet.
_BRIGHT_FILE = re.compile(r"(documents|examples)/[^/]+-\d{5}-of-\d{5}\.parquet")
# What other writers leave behind: a killed job's files, and a Delta table's log, which is .json and .parquet too.
_INTERNAL_FOLDERS = frozenset({"_temporary", "_delta_log"})
# Files that describe a folder of tables and are no documents of it.
_COMPANIONS = frozenset({
    "readme", "license", "licence", "notice", "note", "notes", "changelog", "citation", "contributing",
    "config", "dataset_dict", "dataset_info", "dataset_infos", "metadata", "schema", "state",
})  # fmt: skip


def visible(name: str) -> bool:
    """False for hidden files, files in hidden folders, and what other writers keep for themselves.

    Args:
        name: Path relative to the folder that was given.
    """
    parts = name.split("/")
    return not any(part.startswith(".") for part in parts) and _INTERNAL_FOLDERS.isdisjoint(parts[:-1])


def select_corpus(names: Sequence[str], *, format: Format | None, folder: str) -> list[str]:
    """The names among a folder's files that hold documents, sorted.

    Args:
        names: Visible files, relative to the folder.
        format: Keep only this format; None for what the layout and the extensions say.
        folder: For messages.

    Raises:
        CorpusError: nothing can be read, or text files lie beside tables so that the meaning is unclear.
    """
    readable = [name for name in sorted(names) if (kind := format_of(name)) and format in (None, kind[0])]
    selected = _select_beir(readable) or _select_bright(readable, folder)
    if selected:
        return selected
    if not readable:
        raise CorpusError(_nothing_readable(names, format=format, folder=folder))
    return readable if format else _drop_companions(readable, folder)


def _select_beir(names: list[str]) -> list[str]:
    return [name for name in BEIR_CORPUS if name in names][:1]


def _select_bright(names: list[str], folder: str) -> list[str]:
    tasks = [name for name in names if _BRIGHT_FILE.fullmatch(name)]
    documents = [name for name in tasks if name.startswith("documents/")]
    if tasks and not documents:
        raise CorpusError(
            f"{folder} holds BRIGHT queries (examples/) but no documents/; "
            "give the folder that also has documents/, or one of its folders of Parquet files by name"
        )
    return documents


def _drop_companions(names: list[str], folder: str) -> list[str]:
    """Leave out README.md and its like where the folder's documents are rows of tables."""
    tables = [name for name in names if not _is_text(name) and not _is_companion(name)]
    if not tables:
        return names
    texts = [name for name in names if _is_text(name) and not _is_companion(name)]
    if texts:
        raise CorpusError(
            f"{folder} holds {len(tables)} files of rows (such as {tables[0]}) and {len(texts)} text files "
            f"(such as {texts[0]}); say which are the documents: give a glob such as {folder}/**/*.jsonl, or --format"
        )
    return tables


def _is_text(name: str) -> bool:
    kind = format_of(name)
    return kind is not None and kind[0] is Format.TEXT


def _is_companion(name: str) -> bool:
    stem = name.rsplit("/", 1)[-1].split(".")[0].lower()
    return stem in _COMPANIONS and (_is_text(name) or split_name(name)[0] == "json")


def _nothing_readable(names: Sequence[str], *, format: Format | None, folder: str) -> str:
    kinds = Counter(f".{extension}" if (extension := split_name(name)[0]) else "no extension" for name in names)
    found = ", ".join(f"{count} with {kind}" for kind, count in kinds.most_common(5)) or "no file at all"
    wanted = f"that can be read as {format.value}" if format else "that can be read"
    return f"{folder} holds no file {wanted} (found {found}); files that are read end in {read_extensions()}"
