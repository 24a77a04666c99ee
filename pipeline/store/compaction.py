"""Which fragments of a table are merged, and when: a policy of sizes alone, free of Lance.

A fragment begins as a window of documents, so a table would become tens of thousands of them, and every commit writes
all their names. As in a log-structured merge, neighbours are merged once together they are `min_fragments` times as
large as the largest size among them, up to a bound in bytes and rows; a fragment of which much is deleted is rewritten.

Write amplification: every merge makes the fragment of each of its rows at least `min_fragments` times larger, so of n
rows a fragment at first and N at most, a row is merged at most log(N / n) / log(min_fragments) times: by the defaults
three times from windows of 64 rows, and once from those of 2,048 or more. Rewriting what is deleted adds at most
(1 - max_deleted) / max_deleted rows, 2.3, for each row that was deleted. Indexes of which Lance has to write every
entry anew (`rewrites`) are left alone until at least a sixteenth of their rows is rewritten with them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

# A fragment is what tasks share out among themselves when they read a table, and what is rewritten when rows go.
MAX_ROWS = 2**18
# Below it, what was indexed is not rewritten: rows of an index that are, at least.
_MIN_INDEXED_SHARE = 1 / 16
# Sizes are shares of the largest fragment that is allowed; no class is for less than this.
_LEAST = 2.0**-30


@dataclass(frozen=True, slots=True)
class FragmentSize:
    """What the policy sees of a fragment.

    Attributes:
        number: Its name in the table.
        num_rows: As stored, deleted ones among them.
        num_deleted: Of these, deleted.
        num_bytes: Of its data files.
        segments: Names of the parts of indexes that cover it. Lance merges only fragments that the same ones cover.
    """

    number: int
    num_rows: int
    num_deleted: int
    num_bytes: int
    segments: frozenset[str] = frozenset()

    @property
    def num_left(self) -> int:
        """Rows that are not deleted."""
        return self.num_rows - self.num_deleted


@dataclass(frozen=True, slots=True)
class CompactionBounds:
    """When fragments are merged, and how large they become.

    Attributes:
        max_bytes: Data files of a merged fragment.
        max_rows: Its rows.
        min_fragments: So many of the bound of a size class are merged, or twice as many of half that; >= 2.
        max_deleted: Share of deleted rows above which a fragment is rewritten.
    """

    max_bytes: int
    max_rows: int = MAX_ROWS
    min_fragments: int = 16
    max_deleted: float = 0.3


@dataclass(frozen=True, slots=True)
class _Piece:
    """A fragment, or neighbours that will be one; `share` is of the largest fragment that is allowed."""

    numbers: tuple[int, ...]
    share: float
    num_left: int
    is_due: bool = False


def choose_runs(fragments: Sequence[FragmentSize], bounds: CompactionBounds) -> list[tuple[int, ...]]:
    """The numbers of neighbours that are to become one fragment, a tuple for each; one that stands alone is rewritten.

    Once this is done there is nothing left to do until fragments are added, rows deleted, or indexes changed.

    Args:
        fragments: Of a version, in its order.
        bounds: When and how large.
    """
    chosen: dict[frozenset[str], list[_Piece]] = defaultdict(list)
    num_rows: Counter[frozenset[str]] = Counter()
    for segments, stretch in groupby(fragments, key=lambda fragment: fragment.segments):
        known = list(stretch)
        num_rows[segments] += sum(fragment.num_left for fragment in known)
        pieces = _merge([_piece(fragment, bounds) for fragment in known], bounds)
        chosen[segments] += [piece for piece in pieces if piece.is_due or len(piece.numbers) > 1]
    return [
        piece.numbers
        for segments, pieces in chosen.items()
        if not segments or sum(piece.num_left for piece in pieces) >= _MIN_INDEXED_SHARE * num_rows[segments]
        for piece in pieces
    ]


def _piece(fragment: FragmentSize, bounds: CompactionBounds) -> _Piece:
    left = fragment.num_left / max(1, fragment.num_rows)
    share = max(left * fragment.num_bytes / bounds.max_bytes, fragment.num_left / bounds.max_rows, _LEAST)
    is_due = fragment.num_deleted > bounds.max_deleted * fragment.num_rows
    return _Piece((fragment.number,), share, fragment.num_left, is_due)


def _merge(pieces: list[_Piece], bounds: CompactionBounds) -> list[_Piece]:
    """One pass from the smallest class to the largest: what it makes is too large for the classes before."""
    pieces = list(_join_due(pieces))
    for bound in _classes(min(piece.share for piece in pieces), bounds.min_fragments):
        merged: list[_Piece] = []
        for is_small, stretch in groupby(pieces, key=lambda piece: piece.share <= bound):
            some = list(stretch)
            enough = is_small and sum(piece.share for piece in some) >= bounds.min_fragments * bound
            merged += _share_out(some, bound) if enough else some
        pieces = merged
    return pieces


def _classes(least: float, min_fragments: int) -> list[float]:
    """Bounds of size classes, each twice the one before.

    The last is what still can grow `min_fragments` times where a stretch that is too large for one fragment is shared
    out among two: ((1 - bound) / 2 - bound) / bound is then `min_fragments`.
    """
    last = 1 / (2 * min_fragments + 3)
    return [last / 2**power for power in range(max(0, math.ceil(math.log2(last / least))), -1, -1)]


def _join_due(pieces: Sequence[_Piece]) -> Iterator[_Piece]:
    """Neighbours that are rewritten anyway become one, while they fit."""
    pending: list[_Piece] = []
    for piece in pieces:
        if pending and (not piece.is_due or sum(other.share for other in pending) + piece.share > 1):
            yield _joined(pending)
            pending = []
        if piece.is_due:
            pending.append(piece)
        else:
            yield piece
    if pending:
        yield _joined(pending)


def _share_out(pieces: Sequence[_Piece], bound: float) -> Iterator[_Piece]:
    """As few fragments as hold these, all of about one size: at most `bound` off, as no piece is larger."""
    num_parts = math.ceil(sum(piece.share for piece in pieces) / (1 - bound))
    part = sum(piece.share for piece in pieces) / num_parts
    before, places = 0.0, []
    for piece in pieces:
        places.append(min(int((before + piece.share / 2) / part), num_parts - 1))
        before += piece.share
    for _, some in groupby(zip(places, pieces, strict=True), key=lambda pair: pair[0]):
        yield _joined([piece for _, piece in some])


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    numbers = tuple(number for piece in pieces for number in piece.numbers)
    share, num_left = sum(piece.share for piece in pieces), sum(piece.num_left for piece in pieces)
    return _Piece(numbers, share, num_left, is_due=any(piece.is_due for piece in pieces))
