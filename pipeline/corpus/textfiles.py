"""Text and Markdown files -> documents, one a file.

A file's path is its id. The YAML front matter of a Markdown file is taken off, because it is settings of a site
generator and no prose; only its title is used, where no heading gives one. Called by `read`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

from fsspec import AbstractFileSystem

from pipeline.corpus.formats import split_name
from pipeline.corpus.rows import rejected, shown, storable
from pipeline.corpus.streams import storage_errors
from pipeline.records import Document, Reason, Rejected, Shard
from pipeline.retry import is_transient, retrying
from pipeline.storage import is_local, join, open_filesystem, redact

# Files fetched side by side: in an object store each costs a round trip of tens of milliseconds.
_NUM_FETCHED = 32
_MARKDOWN = frozenset({"md", "markdown"})
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+?)[ \t]*$", re.MULTILINE)
# Heading and code fence of https://spec.commonmark.org/0.31.2/ (sections 4.2 and 4.5).
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")


def read_texts(shard: Shard, *, max_text_chars: int) -> Iterator[Document | Rejected]:
    """One document for each file of a bundle; `shard` of a document is the file's own URI and its offset 0.

    Args:
        shard: Of format TEXT.
        max_text_chars: A longer file is rejected without being held in memory.

    Raises:
        CorpusError: a file is not there any more.
        StorageError: the store refused.
    """
    fs, folder = open_filesystem(shard.uri)
    members = iter(shard.members)
    # Four bytes a character at most, a byte order mark, and one byte more to see that there is more.
    max_bytes = 4 * max_text_chars + 4
    while names := list(islice(members, _NUM_FETCHED)):
        for name, content in zip(names, _fetch(fs, folder, names, shard.uri, max_bytes=max_bytes), strict=True):
            # a query belongs to a file of a web server, and may hold what opens it; the id is stored as it is
            id = name if is_local(shard.uri) or "?" not in name else redact(name)
            yield _read_text(join(shard.uri, name), id, content, max_text_chars=max_text_chars)


def _fetch(fs: AbstractFileSystem, folder: str, names: Sequence[str], uri: str, *, max_bytes: int) -> Iterator[bytes]:
    paths = [join(folder, name) for name in names]
    with storage_errors(uri):
        contents = retrying(lambda: _fetch_once(fs, paths, max_bytes=max_bytes), what=f"reading {uri}")
    for name, path, content in zip(names, paths, contents, strict=True):
        if isinstance(content, Exception):
            with storage_errors(join(uri, name)):
                # S3 refuses any range of an empty object.
                if retrying(partial(fs.size, path), what=f"reading {join(uri, name)}"):
                    raise content
            content = b""
        yield bytes(content)


def _fetch_once(fs: AbstractFileSystem, paths: list[str], *, max_bytes: int) -> list[bytes | Exception]:
    """The beginning of each file, or what went wrong with it for good."""
    contents = list(fs.cat_ranges(paths, [0] * len(paths), [max_bytes] * len(paths), on_error="return"))
    for content in contents:
        if isinstance(content, Exception) and is_transient(content):
            raise content
    return contents


def _read_text(uri: str, name: str, content: bytes, *, max_text_chars: int) -> Document | Rejected:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) > 4 * max_text_chars:
            return _reject(uri, name, content, Reason.TOO_LONG, f"longer than {max_text_chars:,} characters")
        detail = f"not UTF-8 at byte {error.start} ({error.reason})"
        return _reject(uri, name, content, Reason.NOT_UTF8, detail)
    text = text.replace("\r\n", "\n")
    title = ""
    if split_name(name)[0] in _MARKDOWN:
        text, title = _split_markdown(text)
    text = text.strip()
    if not text:
        return _reject(uri, name, content, Reason.EMPTY_TEXT, "the file is blank")
    if len(text) > max_text_chars:
        return _reject(uri, name, content, Reason.TOO_LONG, f"longer than {max_text_chars:,} characters")
    if storable(name) != name:
        return _reject(uri, name, content, Reason.NOT_UTF8, "the file's name is not UTF-8, and it would be the id")
    return Document(name, title, text, "{}", shown(uri), 0)


def _reject(uri: str, name: str, content: bytes, reason: Reason, detail: str) -> Rejected:
    return rejected(uri, offset=0, reason=reason, detail=detail, raw=content, id=name)


def _split_markdown(text: str) -> tuple[str, str]:
    """The text without its front matter, and its first heading or else the front matter's title."""
    title = ""
    if match := _FRONT_MATTER.match(text):
        text = text[match.end() :]
        if named := _FRONT_TITLE.search(match[1]):
            title = named[1].strip("\"'")
    return text, _first_heading(text) or title


def _first_heading(text: str) -> str:
    fence = ""
    for line in text.split("\n"):
        if marker := _FENCE.match(line):
            # A comment in a block of code looks like a heading.
            if not fence:
                fence = marker[1]
            elif marker[1].startswith(fence):
                fence = ""
        elif not fence and (heading := _HEADING.fullmatch(line)):
            return heading[1]
    return ""
