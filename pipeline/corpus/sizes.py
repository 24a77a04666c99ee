"""How much text shards hold, as far as a listing tells. Called by flows, to choose where something is read."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import Format, Shard

_TEXT_A_COMPRESSED_BYTE = 5


def is_small(shards: Sequence[Shard], *, most_bytes: int) -> bool:
    """Whether these shards hold so little.

    Args:
        shards: One of an unknown size is never small.
        most_bytes: Of all of them, as text.
    """
    known = all(shard.size_bytes > 0 for shard in shards)
    return known and sum(text_bytes(shard) for shard in shards) <= most_bytes


def text_bytes(shard: Shard) -> int:
    """Bytes of text in this piece, about; of one that goes by other units, or to the end, those of the whole."""
    if shard.end is not None and shard.format is Format.JSONL:
        return shard.end - shard.start
    return shard.size_bytes * (_TEXT_A_COMPRESSED_BYTE if shard.compression else 1)
