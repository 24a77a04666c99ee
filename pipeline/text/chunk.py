"""Where a long text is cut: at headings, then paragraphs, lines, sentences, words.

Pure: works on a string and the character offsets of its tokens; knows no tokenizer. Called by `text.tokenise`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

# Better places to cut come first. A cut at character c means: one chunk ends before c, another may begin at c.
_HEADING = re.compile(r"(?m)^(?=#{1,6}[ \t]+\S)")
_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
_LINE = re.compile(r"\n+")
_SENTENCE = re.compile(r"[.!?][\"')\]]*\s+|[。！？]")
_WORD = re.compile(r"\s+")
_FENCE = re.compile(r"(?m)^[ \t]*(```+|~~~+)")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a text."""

    start: int
    end: int


class Cuts:
    """The places a text may be cut, by rank: 0 is best. Found once a text."""

    def __init__(self, text: str) -> None:
        headings = _outside_fences(text, [m.start() for m in _HEADING.finditer(text) if m.start() > 0])
        self.headings = headings
        patterns = (_PARAGRAPH, _LINE, _SENTENCE, _WORD)
        self.ranks: list[list[int]] = [headings, *([m.end() for m in p.finditer(text)] for p in patterns)]

    def best(self, low: int, high: int) -> int | None:
        """The best cut in (low, high], the latest of its rank; None when there is none."""
        for positions in self.ranks:
            i = bisect_right(positions, high) - 1
            if i >= 0 and positions[i] > low:
                return positions[i]
        return None

    def restart(self, low: int, high: int) -> int:
        """Where an overlap that may begin anywhere in [low, high) does: at a line, sentence or word, else at `low`."""
        for positions in self.ranks[2:]:
            i = bisect_left(positions, low)
            if i < len(positions) and positions[i] < high:
                return positions[i]
        return low


def _outside_fences(text: str, positions: list[int]) -> list[int]:
    """Drops positions inside ``` blocks, where a line beginning with `#` is a comment."""
    fences: list[int] = []
    opening = ""
    for match in _FENCE.finditer(text):
        # A block that ~~~ opens may hold ```, and is closed by as many marks as opened it, or more.
        if not opening or match[1].startswith(opening):
            fences.append(match.start())
            opening = "" if opening else match[1]
    return [p for p in positions if bisect_right(fences, p) % 2 == 0] if fences else positions


def next_span(
    cuts: Cuts, starts: Sequence[int], ends: Sequence[int], *, begin: int, max_tokens: int, length: int
) -> Span:
    """The chunk that begins at character `begin` and holds at most `max_tokens` tokens.

    Args:
        cuts: Where the text may be cut.
        starts: First character of each token, ascending.
        ends: One past the last character of each token.
        begin: First character of the chunk, < length.
        max_tokens: Tokens it may hold, >= 1.
        length: Characters of the text.

    Returns:
        A span that begins at `begin` and is never empty. It ends at the best cut in its second half, so that chunks
        are not much shorter than they may be; at a token's end when there is no cut there.
    """
    first = bisect_left(starts, begin)
    last = first + max_tokens
    if last >= len(starts):
        return Span(begin, length)
    limit = max(starts[last], begin + 1)
    middle = max(starts[first + max_tokens // 2], begin)
    cut = cuts.best(middle, limit)
    return Span(begin, cut if cut is not None else max(min(ends[last - 1], limit), begin + 1))


def next_begin(cuts: Cuts, starts: Sequence[int], *, span: Span, overlap_tokens: int) -> int:
    """Where the chunk after `span` begins: at most `overlap_tokens` back, at a line, sentence or word.

    Never across a heading, and never back beyond half of the span, so that the number of chunks stays bounded where a
    long title leaves little room for the text.
    """
    if overlap_tokens == 0 or _is_cut(cuts.headings, span.end):
        return span.end
    first, last = bisect_left(starts, span.start), bisect_left(starts, span.end)
    overlap_tokens = min(overlap_tokens, (last - first) // 2)
    if overlap_tokens == 0:
        return span.end
    low = starts[last - overlap_tokens]
    heading = _last_at_or_before(cuts.headings, span.end)
    begin = max(cuts.restart(low, span.end), heading)
    return begin if begin > span.start else span.end


def _is_cut(positions: Sequence[int], at: int) -> bool:
    i = bisect_left(positions, at)
    return i < len(positions) and positions[i] == at


def _last_at_or_before(positions: Sequence[int], at: int) -> int:
    i = bisect_right(positions, at) - 1
    return positions[i] if i >= 0 else 0
