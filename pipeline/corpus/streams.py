"""Bytes of a corpus file: opened, decompressed, cut into lines of bounded length; a store's errors in plain words.

Knows nothing of rows. Called by `locate` and every reader.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO, cast

import zstandard

from pipeline.errors import CorpusError, StorageError
from pipeline.retry import retrying
from pipeline.storage import is_local, open_filesystem, redact

# How much is fetched from a remote store at a time; large enough to be worth a request, small enough for many readers.
BLOCK_BYTES = 8 * 2**20
_BUFFER_BYTES = 2**20
# Compressed bytes decoded at a time. Small, because one feed of a zip bomb grows 1,032-fold (gzip) or 32,768-fold
# (zstd), and because a damaged feed loses whatever it had decoded.
_FEED_BYTES = 8 * 2**10
_BOM = b"\xef\xbb\xbf"
# Client libraries of stores raise errors of their own, outside the OSError tree. Told by package, not imported.
_CLIENT_PACKAGES = frozenset({"botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "azure", "adlfs", "urllib3"})


class DamagedStream(Exception):
    """Compressed bytes end too early or do not decode; readers turn it into one `Rejected` row."""


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turn what a file system raises into one sentence without credentials.

    Raises:
        CorpusError: the file is not there.
        StorageError: the store refused, has no such bucket, or cannot be reached.
    """
    try:
        yield
    except FileNotFoundError as error:
        if is_missing_bucket(error):
            raise StorageError(
                f"the bucket of {redact(uri)} does not exist; check its name and the endpoint"
            ) from error
        raise CorpusError(f"no such file: {redact(uri)}; it may have been moved or deleted meanwhile") from error
    except PermissionError as error:
        raise StorageError(
            f"no permission to read {redact(uri)} ({_reason(error)}); check the file's rights or the credentials"
        ) from error
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _CLIENT_PACKAGES:
            raise
        raise StorageError(
            f"cannot read {redact(uri)} ({_reason(error)}); check that the store answers and its credentials are set"
        ) from error


def is_missing_bucket(error: BaseException) -> bool:
    """True where a FileNotFoundError of s3fs means the bucket and not the key."""
    response = getattr(error.__cause__, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") == "NoSuchBucket"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return redact(text[:300]) or type(error).__name__


@contextmanager
def open_stream(uri: str, *, compression: str = "") -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file, buffered.

    Args:
        uri: Local path or any URI that fsspec opens.
        compression: "gzip", "zstd" or "" for none.

    Raises:
        CorpusError: the file is not there (also while it is read).
        StorageError: the store refused (also while it is read).
        DamagedStream: while reading, where the compressed data is truncated or wrong.
    """
    with storage_errors(uri):
        fs, path = open_filesystem(uri)
        opened = retrying(lambda: fs.open(path, "rb", block_size=BLOCK_BYTES), what=f"opening {uri}")
        with opened as file:
            # fsspec's remote files read lines in Python; a C buffer over them is several times faster.
            source = io.BufferedReader(
                cast(io.RawIOBase, file) if is_local(uri) else _Resumed(file, uri), _BUFFER_BYTES
            )
            try:
                yield io.BufferedReader(_Inflated(source, compression), _BUFFER_BYTES) if compression else source
            finally:
                # A text wrapper that was put on top has closed it already.
                if not source.closed:
                    source.detach()


def read_lines(
    stream: BinaryIO, *, max_bytes: int, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, bytes]]:
    r"""Lines whose first byte lies in [start, end), each with the offset of that byte.

    A byte order mark at offset 0 is dropped. A line longer than `max_bytes` comes as its first `max_bytes` bytes
    without a newline (see `is_cut`); the rest of it is passed over, so memory stays bounded.

    Args:
        stream: Uncompressed; must seek where `start` > 0.
        max_bytes: Longest line that is returned whole, its b"\n" included.
        start: Byte offset; a line that began before it belongs to the piece before.
        end: One past the last byte; None for the end of the stream.
    """
    readline = partial(stream.readline, max_bytes)
    offset = start
    if start:
        # Begin one byte early: where that byte is a newline, the line at `start` is ours.
        stream.seek(start - 1)
        offset += _skip_line(stream) - 1
    for line in iter(readline, b""):
        if end is not None and offset >= end:
            return
        yield offset, line.removeprefix(_BOM) if not offset else line
        offset += len(line)
        if is_cut(line, max_bytes):
            offset += _skip_line(stream)


def is_cut(line: bytes, max_bytes: int) -> bool:
    """True where `read_lines` returned only the beginning of a line."""
    # The mark may have been taken off the first line, hence the slack.
    return len(line) >= max_bytes - len(_BOM) and not line.endswith(b"\n")


def _skip_line(stream: BinaryIO) -> int:
    """Pass over everything up to and including the next newline; returns how many bytes that was."""
    skipped = 0
    for piece in iter(partial(stream.readline, _BUFFER_BYTES), b""):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped


class _Resumed(io.RawIOBase):
    """A store's file; a read that fails for a moment is made again from the same place, so no byte comes twice."""

    def __init__(self, file: BinaryIO, uri: str) -> None:
        super().__init__()
        self._file = file
        self._uri = uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, target: Any) -> int:
        begin = self._file.tell()

        def read() -> bytes:
            self._file.seek(begin)
            return self._file.read(len(target))

        data = retrying(read, what=f"reading {self._uri}")
        target[: len(data)] = data
        return len(data)


class _Inflated(io.RawIOBase):
    """Decompressed bytes of a gzip or zstd file of any number of members or frames.

    Own code, because `gzip.GzipFile` drops decoded bytes that precede an error, and zstandard's stream reader takes a
    truncated file for a complete one.
    """

    def __init__(self, source: BinaryIO, compression: str) -> None:
        super().__init__()
        self._source = source
        self._compression = compression
        self._new_decoder = _DECODERS[compression]
        self._decoder: Any = None
        self._num_members = 0
        self._fed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            if not self._fill():
                return 0
        size = min(len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _fill(self) -> bool:
        """Decode one more feed; False at the end of the file."""
        data = self._next_feed()
        if not data:
            if self._decoder is not None:
                raise DamagedStream(f"the {self._compression} data stops before its end: the file is truncated")
            return False
        if self._decoder is None:
            self._decoder = self._new_decoder()
            self._num_members += 1
        try:
            self._ready = memoryview(self._decoder.decompress(data))
        except (zlib.error, zstandard.ZstdError) as error:
            raise DamagedStream(f"the {self._compression} data is damaged ({error})") from error
        if self._decoder.eof:
            self._fed, self._decoder = self._decoder.unused_data, None
        return True

    def _next_feed(self) -> bytes:
        data, self._fed = self._fed or self._source.read(_FEED_BYTES), b""
        if self._decoder is None and self._num_members:
            # Tapes and some writers pad a file with zeros after its last member; the gzip program accepts them too.
            while data and not (data := data.lstrip(b"\0")):
                data = self._source.read(_FEED_BYTES)
        return data


_DECODERS: dict[str, Callable[[], Any]] = {
    # 31 = a window of 2^15 bytes, with the gzip header expected and the checksum verified.
    "gzip": lambda: zlib.decompressobj(31),
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
