"""Documents to chunks with their token ids.

Tokenising runs on CPU, apart from the accelerator. Knows a tokenizer only as a protocol; called by the index flow's
read tasks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.prompts import document_body
from pipeline.text.chunk import Cuts, next_begin, next_span

TokenIds = NDArray[np.int32]

# A text is tokenised in segments of about this many characters: 100 MB of memory a million tokens is what offsets cost.
SEGMENT_CHARS = 200_000
# A title may use up to this share of a chunk; the rest of it is left out of the prompt (it stays in the table).
MAX_TITLE_SHARE = 0.25


class BodyTokenizer(Protocol):
    """What turns bodies into token ids; never sees a special token in a text."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""

    def offsets(self, text: str) -> tuple[list[int], list[int]]:
        """First character, and one past the last character, of each token of a text; both ascending."""


@dataclass(frozen=True, slots=True)
class ChunkTokens:
    """One chunk: its text as stored, and the token ids of its body (title and text), int32 [tokens]."""

    text: str
    token_ids: TokenIds


def chunk_documents(
    titles: Sequence[str], texts: Sequence[str], tokenizer: BodyTokenizer, *, max_tokens: int, overlap_tokens: int
) -> list[list[ChunkTokens]]:
    """The chunks of each document, in order.

    A document whose body fits in `max_tokens` is one chunk with its text unchanged. A longer one is cut (see
    `text.chunk`), each chunk carrying the title; chunks cover the whole text, and no chunk's body is longer than
    `max_tokens`.

    Args:
        titles: One a document; may be "".
        texts: One a document; not blank.
        tokenizer: Gives ids and offsets.
        max_tokens: Longest body, >= 32.
        overlap_tokens: Tokens repeated at the start of the next chunk, at most half of `max_tokens`.
    """
    bodies = [document_body(title, text[:SEGMENT_CHARS]) for title, text in zip(titles, texts, strict=True)]
    encoded = tokenizer.encode(bodies)
    result = []
    for title, text, ids in zip(titles, texts, encoded, strict=True):
        if len(ids) <= max_tokens and len(text) <= SEGMENT_CHARS:
            result.append([ChunkTokens(text, np.asarray(ids, dtype=np.int32))])
        else:
            cutter = _Cutter(tokenizer, title=title, max_tokens=max_tokens, overlap_tokens=overlap_tokens)
            result.append(list(cutter.chunks(text)))
    return result


class _Cutter:
    """Cuts one document; holds what stays the same over its chunks."""

    def __init__(self, tokenizer: BodyTokenizer, *, title: str, max_tokens: int, overlap_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.overlap_tokens = overlap_tokens
        self.title = self._short_title(title)
        self.title_tokens = len(tokenizer.encode([document_body(self.title, "")])[0]) if self.title else 0

    def chunks(self, text: str) -> Iterator[ChunkTokens]:
        for segment in _segments(text):
            yield from self._cut(segment)

    def _short_title(self, title: str) -> str:
        starts, ends = self.tokenizer.offsets(title) if title else ([], [])
        room = int(self.max_tokens * MAX_TITLE_SHARE)
        return title if len(starts) <= room else title[: ends[room - 1]].rstrip()

    def _cut(self, text: str) -> Iterator[ChunkTokens]:
        starts, ends = self.tokenizer.offsets(text)
        cuts = Cuts(text)
        # The blanks at the end make no chunk of their own, and none that only repeats the last one.
        begin, length = 0, len(text.rstrip())
        starts = starts[: bisect_left(starts, length)]
        while begin < length:
            room = self.max_tokens - self.title_tokens
            while True:
                span = next_span(cuts, starts, ends, begin=begin, max_tokens=max(room, 1), length=length)
                piece = text[span.start : span.end].strip()
                ids = self.tokenizer.encode([document_body(self.title, piece)])[0]
                if len(ids) <= self.max_tokens or room <= 1:
                    break
                # Cut text can tokenise to a little more than its share of the whole; give the excess back.
                room = max(
                    1,
                    min(room, bisect_left(starts, span.end) - bisect_left(starts, begin))
                    - (len(ids) - self.max_tokens),
                )
            if piece:
                yield ChunkTokens(piece, np.asarray(ids[: self.max_tokens], dtype=np.int32))
            if span.end >= length:
                return
            begin = next_begin(cuts, starts, span=span, overlap_tokens=self.overlap_tokens)


def _segments(text: str) -> Iterator[str]:
    """Pieces of at most `SEGMENT_CHARS`, cut at the last blank line or line end in reach."""
    begin = 0
    while len(text) - begin > SEGMENT_CHARS:
        limit = begin + SEGMENT_CHARS
        low = begin + SEGMENT_CHARS // 2
        cut = max(text.rfind("\n\n", low, limit), -1)
        cut = cut if cut > 0 else text.rfind("\n", low, limit)
        cut = cut if cut > 0 else text.rfind(" ", low, limit)
        cut = cut if cut > 0 else limit
        yield text[begin:cut]
        begin = cut
    yield text[begin:]
