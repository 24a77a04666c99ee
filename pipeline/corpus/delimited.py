"""CSV and TSV -> rows; the first row names the columns.

CSV follows RFC 4180, strictly. TSV takes quotes for ordinary characters, as IANA's text/tab-separated-values has it: in
the passage files that come as TSV a lone quote is text, and treating it as quoting would join rows in silence.
Called by `read`.
"""

from __future__ import annotations

import csv
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from pipeline.corpus.rows import Row, rejected
from pipeline.corpus.streams import DamagedStream, is_cut, open_stream, read_lines
from pipeline.errors import CorpusError
from pipeline.records import Format, Reason, Rejected, Shard
from pipeline.storage import redact


def read_delimited(shard: Shard, *, max_field_chars: int, max_line_bytes: int) -> Iterator[tuple[int, Row] | Rejected]:
    """The rows of a shard, each with its number, from 0 after the header; an empty cell is null.

    A row with too few or too many cells, or with broken quoting, is rejected alone: the lines that a stray quote had
    swallowed are read again as rows of their own.

    Args:
        shard: Of format CSV or TSV.
        max_field_chars: A row with a longer cell is rejected.
        max_line_bytes: A longer line is rejected without being held in memory.

    Raises:
        CorpusError: the file is not there, or its header cannot be read.
        StorageError: the store refused.
    """
    # The limit is the process's; never lower what another reader asked for.
    csv.field_size_limit(max(csv.field_size_limit(), max_field_chars))
    row_number = 0
    with open_stream(shard.uri, compression=shard.compression) as stream:
        lines = _Lines(read_lines(stream, max_bytes=max_line_bytes), max_line_bytes)
        records = _read_records(lines, shard.format)
        header = _read_header(next(records, []), shard.uri)
        for row_number, record in enumerate(records):
            problem = record if isinstance(record, _Problem) else _misfit(record, header)
            if problem:
                raw = b"".join(lines.record)
                yield rejected(shard.uri, offset=row_number, reason=problem.reason, detail=problem.detail, raw=raw)
            else:
                yield row_number, {name: cell or None for name, cell in zip(header, record, strict=True)}
            row_number += 1
        if lines.damage:
            yield rejected(shard.uri, offset=row_number, reason=Reason.UNREADABLE, detail=lines.damage)


class _Problem(NamedTuple):
    reason: Reason
    detail: str


class _Lines:
    """Feeds lines to csv.reader, remembers those of the current record, and can take some of them back."""

    def __init__(self, lines: Iterator[tuple[int, bytes]], max_line_bytes: int) -> None:
        self._lines = lines
        self._max_line_bytes = max_line_bytes
        self._returned: deque[bytes] = deque()
        self.record: list[bytes] = []
        self.problem: _Problem | None = None
        self._problem_line = 0
        self.damage = ""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else self._pull()
        self.record.append(line)
        if is_cut(line, self._max_line_bytes):
            self._note(Reason.TOO_LONG, f"the line is longer than {self._max_line_bytes:,} bytes")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self._note(Reason.NOT_UTF8, f"not UTF-8 ({error.reason})")
            return line.decode("utf-8", "replace")

    def _note(self, reason: Reason, detail: str) -> None:
        if self.problem is None:
            self.problem, self._problem_line = _Problem(reason, detail), len(self.record) - 1

    def _pull(self) -> bytes:
        try:
            return next(self._lines)[1]
        except DamagedStream as damage:
            # For csv.reader the file just ends, so that a record it is in the middle of can still be taken apart.
            self.damage = str(damage)
            raise StopIteration from None

    def begin_record(self) -> None:
        self.record, self.problem, self._problem_line = [], None, 0

    def give_back(self) -> None:
        """Keep the first line of the current record and its problem; the others are read again."""
        if self._problem_line:
            self.problem, self._problem_line = None, 0
        self._returned.extendleft(reversed(self.record[1:]))
        del self.record[1:]


def _read_records(lines: _Lines, format: Format) -> Iterator[list[str] | _Problem]:
    """Cells of each record that is not blank, or what is wrong with it."""
    dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if format is Format.TSV else {"delimiter": ","}
    reader = csv.reader(lines, strict=True, **dialect)
    while True:
        lines.begin_record()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.give_back()
            too_long = "field larger than field limit" in str(error)
            yield lines.problem or _Problem(Reason.TOO_LONG if too_long else Reason.BROKEN_ROW, f"{error}")
        else:
            if lines.problem:
                yield lines.problem
            elif cells:
                yield cells


def _read_header(record: list[str] | _Problem, uri: str) -> list[str]:
    if isinstance(record, _Problem):
        raise CorpusError(
            f"the header of {redact(uri)} cannot be read: {record.detail}; the first row must name the columns"
        )
    names = [name.strip() for name in record]
    # The first of two columns of one name keeps it; the other gets a number that no third column has.
    taken = set(names)
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(2))
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            names[index] = next(new for number in numbers[name] if (new := f"{name}_{number}") not in taken)
            taken.add(names[index])
        seen.add(name)
    return names


def _misfit(record: list[str], header: list[str]) -> _Problem | None:
    if len(record) == len(header):
        return None
    return _Problem(Reason.BROKEN_ROW, f"{len(record)} cells, but the header names {len(header)} columns")
