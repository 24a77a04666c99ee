"""URIs -> the shards of a corpus, in an order that depends on nothing but what is there.

Knows listings of file systems; knows nothing of rows. Called by flows, once for a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, groupby
from typing import Any

from fsspec import AbstractFileSystem

from pipeline.corpus.formats import format_of, read_extensions, split_name
from pipeline.corpus.layouts import select_corpus, visible
from pipeline.corpus.splits import CorpusFile, bundle_texts, split_file
from pipeline.corpus.streams import is_missing_bucket, storage_errors
from pipeline.errors import CorpusError, SettingsError
from pipeline.records import Format, Shard
from pipeline.retry import retrying
from pipeline.storage import is_local, normalise, open_filesystem, redact

SPLIT_BYTES = 64 * 2**20
# Footers of large Parquet files are fetched side by side: each costs a few round trips to the store.
_NUM_FOOTER_THREADS = 16
_MAGIC = "*?["

Info = dict[str, Any]


def locate(uris: Sequence[str], *, format: Format | None = None, split_bytes: int = SPLIT_BYTES) -> list[Shard]:
    """Every shard of a corpus, sorted by URI, then start; a file that several URIs name is read once.

    Args:
        uris: Files, folders (recursive; BEIR and BRIGHT folders are known) and globs, local or in any store.
        format: Read files as this format; None for what each extension says.
        split_bytes: About how many stored bytes a shard has, where its format can be split. At least 1.

    Raises:
        CorpusError: nothing is there, or nothing there can be read.
        StorageError: a store refused, or has no such bucket.
        SettingsError: no URI at all, or `split_bytes` below 1.
    """
    uris = [uris] if isinstance(uris, str) else list(uris)
    if not uris or split_bytes < 1:
        raise SettingsError("locate needs at least one URI and a shard size of at least one byte")
    files: dict[str, CorpusFile] = {}
    for uri in uris:
        for file in _expand(normalise(uri), format):
            files.setdefault(_identity(file.uri), file)
    texts = sorted((file for file in files.values() if file.format is Format.TEXT), key=lambda file: file.base)
    tables = [file for file in files.values() if file.format is not Format.TEXT]
    with ThreadPoolExecutor(_NUM_FOOTER_THREADS) as pool:
        pieces = chain.from_iterable(pool.map(lambda file: split_file(file, split_bytes=split_bytes), tables))
        bundles = (
            bundle_texts(group, split_bytes=split_bytes) for _, group in groupby(texts, key=lambda file: file.base)
        )
        shards = [*pieces, *chain.from_iterable(bundles)]
    return sorted(shards, key=lambda shard: (shard.uri, shard.start, shard.members))


def _identity(uri: str) -> str:
    """One spelling a file, so that s3:// and s3a://, or a link and its target, are read once."""
    return os.path.realpath(uri) if is_local(uri) else uri.replace("s3a://", "s3://", 1)


def _expand(uri: str, format: Format | None) -> list[CorpusFile]:
    """The corpus files behind one normalised URI."""
    with storage_errors(uri):
        return retrying(lambda: _list(uri, format), what=f"listing {uri}")


def _list(uri: str, format: Format | None) -> list[CorpusFile]:
    fs, path = open_filesystem(uri)
    try:
        info = fs.info(path)
    except FileNotFoundError as error:
        if is_missing_bucket(error):
            raise
        # Only now: a name with brackets or question marks that exists is meant literally.
        if any(char in uri for char in _MAGIC):
            return _expand_glob(fs, path, uri=uri, format=format)
        raise CorpusError(f"nothing at {redact(uri)}; expected a file, a folder or a glob") from error
    if info["type"] == "directory":
        return _expand_folder(fs, path, uri=uri, format=format)
    folder = uri[: len(uri) - len(uri.rsplit("/", 1)[-1])].rstrip("/")
    return [_corpus_file(uri, info, base=folder, format=format)]


def _expand_folder(fs: AbstractFileSystem, path: str, *, uri: str, format: Format | None) -> list[CorpusFile]:
    infos = {_below(name, path): info for name, info in _list_files(fs, path)}
    names = [name for name in infos if visible(name)]
    selected = select_corpus(names, format=format, folder=redact(uri))
    return [_corpus_file(f"{uri}/{name}", infos[name], base=uri, format=format) for name in selected]


def _expand_glob(fs: AbstractFileSystem, path: str, *, uri: str, format: Format | None) -> list[CorpusFile]:
    """Files that match, and the files of folders that match."""
    base, base_path = _literal_part(uri), _literal_part(path)
    try:
        # Local listings leave out folders that may not be read, unless told to raise.
        matches = fs.glob(path, detail=True, **({"on_error": "raise"} if is_local(uri) else {}))
    except FileNotFoundError:
        matches = {}
    files: list[CorpusFile] = []
    for name, info in sorted(matches.items()):
        relative = _below(name, base_path)
        info = _follow(fs, info)
        if not relative or not visible(relative):
            continue
        if info["type"] != "directory":
            if format or format_of(relative):
                files.append(_corpus_file(f"{base}/{relative}", info, base=base, format=format))
        elif not path.endswith("**"):
            folder = _expand_folder(fs, name, uri=f"{base}/{relative}", format=format)
            # Ids of text files stay apart when two folders that match hold files of one name.
            files += [replace(file, base=base) for file in folder]
    if not files:
        what = f"{len(matches)} names that match, but no file ending in {read_extensions()}" if matches else "no match"
        raise CorpusError(f"nothing to read at {redact(uri)}: {what}; check the pattern or give a folder")
    return files


def _literal_part(pattern: str) -> str:
    """The folder before the first wildcard."""
    first = min(pattern.index(char) for char in _MAGIC if char in pattern)
    return pattern[:first].rsplit("/", 1)[0]


def _below(name: str, folder: str) -> str:
    return name[len(folder) :].lstrip("/")


def _list_files(
    fs: AbstractFileSystem, folder: str, *, seen: frozenset[str] = frozenset()
) -> Iterator[tuple[str, Info]]:
    """Every file below a folder; links to folders are followed, each once on a path, so that a loop ends."""
    local = "file" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol)
    if local:
        seen |= {os.path.realpath(folder)}
    # By default a local listing leaves out folders that may not be read; their documents would count as deleted.
    listing = fs.find(folder, detail=True, **({"on_error": "raise"} if local else {}))
    for name, info in listing.items():
        target = _follow(fs, info)
        if target["type"] != "directory":
            yield name, target
        elif target.get("islink") and os.path.realpath(name) not in seen:
            yield from _list_files(fs, name, seen=seen)


def _follow(fs: AbstractFileSystem, info: Info) -> Info:
    """What a link points to; a listing shows size and time of the link itself. Broken links stay as they are."""
    if not info.get("islink"):
        return info
    try:
        return dict(fs.info(info["name"]))
    except FileNotFoundError:
        return info


def _corpus_file(uri: str, info: Info, *, base: str, format: Format | None) -> CorpusFile:
    known = format_of(uri)
    if format is None and known is None:
        raise CorpusError(
            f"{redact(uri)} has no extension that is known (expected {read_extensions()}); rename it or give --format"
        )
    size_bytes = int(info.get("size") or 0)
    return CorpusFile(
        uri=uri,
        base=base or "/",  # a file in the root folder; "" would mean the working directory
        format=format or (known[0] if known else Format.TEXT),
        compression=split_name(uri)[1],
        size_bytes=size_bytes,
        version=_version(info, size_bytes),
    )


def _version(info: Info, size_bytes: int) -> str:
    """The etag, which stands for the bytes; else size and time, which nearly do; "" where there is neither."""
    for key in ("ETag", "etag"):
        if info.get(key):
            return str(info[key]).removeprefix("W/").strip('"')
    times = (info.get(key) for key in ("mtime", "LastModified", "last_modified", "updated", "modified", "created"))
    time = next((time for time in times if time is not None), None)
    return "" if time is None else f"{size_bytes}-{time}"
