"""TREC run files: `query Q0 document rank score tag`, one hit a line. Knows ids and scores. Called by flows.

White space in an id would end its field, so it is written as in a URL (%20); what already looks like that gets a
further "25" behind its "%". All other ids stand as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote

from pipeline.errors import UserError
from pipeline.evaluation.measures import Rankings, in_given_order, in_measured_order

_FIELDS = 6
# What `str.split` takes for white space, as readers of run files do; there is none beyond.
_SPACES = [chr(code) for code in range(0x3001) if chr(code).isspace()]
_ESCAPED = re.compile(f"%(?:25)*(?:{'|'.join(quote(space)[1:] for space in _SPACES)})")


def run_lines(rankings: Rankings, *, tag: str) -> Iterator[str]:
    """The lines of a run file, each with its newline; ranks from 1 are the order that trec_eval measures.

    Args:
        rankings: Scores of the documents that were found; queries come in this order.
        tag: Names the run.

    Raises:
        UserError: an id is empty, or the tag is or holds white space, which such a file cannot say.
    """
    if tag.split() != [tag]:
        raise UserError(f"the tag {tag!r} is empty or holds white space, which a TREC run file cannot hold")
    for query, scores in rankings.items():
        asked = _write_id("query", query)
        found = {_write_id("document", document): score for document, score in in_measured_order(scores)}
        if found.keys() != scores.keys():
            found = in_given_order(found)  # other ids would break ties otherwise
        for rank, (document, score) in enumerate(found.items(), 1):
            yield f"{asked} Q0 {document} {rank} {float(score)!r} {tag}\n"


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
        query, document = _read_id(fields[0]), _read_id(fields[2])
        scores = rankings.setdefault(query, {})
        if document in scores:
            raise UserError(f"{name}:{number}: document {document!r} comes twice for query {query!r}")
        scores[document] = score
    return rankings


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _write_id(what: str, value: str) -> str:
    if not value:
        raise UserError(f"a {what} id is empty, which a TREC run file cannot hold; evaluate without run files")
    deeper = _ESCAPED.sub(lambda match: f"%25{match[0][1:]}", value)
    return "".join(quote(char) if char.isspace() else char for char in deeper)


def _read_id(text: str) -> str:
    return _ESCAPED.sub(lambda match: f"%{match[0][3:]}" if match[0].startswith("%25") else unquote(match[0]), text)
