"""JSON lines -> rows.

Each line is decoded on its own, so that one bad line costs only itself. Called by `read`.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator

from pipeline.corpus.rows import Row, rejected
from pipeline.corpus.streams import DamagedStream, is_cut, open_stream, read_lines
from pipeline.records import Reason, Rejected, Shard

# NaN and infinities, which Python's own json.dumps writes, are null: JSON has neither.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


def read_jsonl(
    shard: Shard, *, max_line_bytes: int, only: Container[int] | None = None
) -> Iterator[tuple[int, Row] | Rejected]:
    """The objects of a shard, each with the byte offset of its line in the uncompressed stream.

    Blank lines are no rows. A shard that breaks off ends in one `Rejected` of reason `UNREADABLE`.

    Args:
        shard: Of format JSONL; `start` and `end` are honoured where it is not compressed.
        max_line_bytes: A longer line is rejected without being held in memory.
        only: Offsets of the lines that are decoded; the others are passed over, in a thirtieth of the time. None for
            all.

    Raises:
        CorpusError: the file is not there.
        StorageError: the store refused.
    """
    next_offset = shard.start
    with open_stream(shard.uri, compression=shard.compression) as stream:
        try:
            for offset, line in read_lines(stream, max_bytes=max_line_bytes, start=shard.start, end=shard.end):
                next_offset = offset + len(line)
                if only is not None and offset not in only:
                    continue
                if is_cut(line, max_line_bytes):
                    detail = f"the line is longer than {max_line_bytes:,} bytes"
                    yield rejected(shard.uri, offset=offset, reason=Reason.TOO_LONG, detail=detail, raw=line)
                elif stripped := line.strip():
                    yield _parse(shard.uri, offset, stripped)
        except DamagedStream as damage:
            yield rejected(shard.uri, offset=next_offset, reason=Reason.UNREADABLE, detail=str(damage))


def _parse(uri: str, offset: int, line: bytes) -> tuple[int, Row] | Rejected:
    """One line; raw_decode skips two checks of json.loads, which also takes UTF-16 and broken surrogates."""
    try:
        text = str(line, "utf-8")
        value, end = _DECODER.raw_decode(text)
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 at byte {error.start} of the line ({error.reason})"
        return rejected(uri, offset=offset, reason=Reason.NOT_UTF8, detail=detail, raw=line)
    except (ValueError, RecursionError) as error:
        # ValueError also: an integer of more digits than Python converts.
        return rejected(uri, offset=offset, reason=Reason.BROKEN_JSON, detail=f"not JSON: {error}", raw=line)
    if end != len(text):
        detail = f"not JSON: extra data after the value, at character {end}"
        return rejected(uri, offset=offset, reason=Reason.BROKEN_JSON, detail=detail, raw=line)
    if type(value) is not dict:
        detail = f"a JSON {type(value).__name__}, expected an object"
        return rejected(uri, offset=offset, reason=Reason.NOT_AN_OBJECT, detail=detail, raw=line)
    return offset, value
