"""TREC run files: `query Q0 document rank score tag`, one hit a line. Knows ids and scores. Called by flows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from pipeline.errors import UserError
from pipeline.evaluation.measures import Rankings, in_measured_order

_FIELDS = 6


def run_lines(rankings: Rankings, *, tag: str) -> Iterator[str]:
    """The lines of a run file, each with its newline; ranks from 1 are the order that trec_eval measures.

    Args:
        rankings: Scores of the documents that were found; queries come in this order.
        tag: Names the run.

    Raises:
        UserError: an id or the tag is empty or holds white space, which such a file cannot say.
    """
    _check("tag", tag)
    for query, scores in rankings.items():
        _check("query id", query)
        for rank, (document, score) in enumerate(in_measured_order(scores), 1):
            _check("document id", document)
            yield f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n"


def read_run(lines: Iterable[str], *, name: str = "the run file") -> dict[str, dict[str, float]]:
    """Query id -> document id -> score; ranks are not read, as scores decide.

    Args:
        lines: Of a run file; blank ones are passed over.
        name: For messages.

    Raises:
        UserError: a line is not six fields with a finite score, or a document comes twice for a query.
    """
    rankings: dict[str, dict[str, float]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = line.split()
        score = _finite(fields[4]) if len(fields) == _FIELDS else None
        if score is None:
            raise UserError(
                f"{name}:{number}: {line.strip()[:80]!r}; expected query, Q0, document, rank, score and tag"
            )
        scores = rankings.setdefault(fields[0], {})
        if fields[2] in scores:
            raise UserError(f"{name}:{number}: document {fields[2]!r} comes twice for query {fields[0]!r}")
        scores[fields[2]] = score
    return rankings


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check(what: str, value: str) -> None:
    if value.split() != [value]:
        raise UserError(
            f"the {what} {value!r} is empty or holds white space, which a TREC run file cannot hold; "
            "evaluate without run files, or give ids without spaces"
        )
