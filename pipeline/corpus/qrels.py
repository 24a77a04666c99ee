"""Judgements: which documents answer which query, as BEIR writes them.

Called by flows that measure a ranking; knows nothing of models.
"""

from __future__ import annotations

import io

from pipeline.corpus.streams import open_stream
from pipeline.errors import CorpusError
from pipeline.storage import join, open_filesystem, redact

_NAMES = ("qrels/test.tsv", "qrels.tsv", "qrels/dev.tsv")


def read_qrels(folder: str) -> dict[str, dict[str, int]]:
    """Query id -> document id -> relevance, from `qrels/test.tsv` or `qrels.tsv` of a BEIR folder.

    Args:
        folder: Path or URI.

    Raises:
        CorpusError: there is no such file, or a line of it is not query, document and a whole number between tabs.
    """
    fs, path = open_filesystem(folder)
    name = next((name for name in _NAMES if fs.isfile(f"{path.rstrip('/')}/{name}")), None)
    if name is None:
        raise CorpusError(
            f"{redact(folder)} has no judgements; expected {' or '.join(_NAMES)} with query, document, score"
        )
    return read_qrels_file(join(folder, name))


def read_qrels_file(uri: str) -> dict[str, dict[str, int]]:
    """The same from one file.

    Raises:
        CorpusError: a line is not query, document and a whole number between tabs, or there is none.
    """
    qrels: dict[str, dict[str, int]] = {}
    with open_stream(uri) as stream, io.TextIOWrapper(stream, "utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            cells = line.rstrip("\r\n").split("\t")
            if not line.strip() or (number == 1 and not cells[-1].strip().lstrip("-").isdigit()):
                continue  # the header
            if len(cells) < 3 or not cells[-1].strip().lstrip("-").isdigit():
                raise CorpusError(
                    f"{redact(uri)}:{number}: {line.strip()[:80]!r}; expected query, document and a whole number "
                    "between tabs"
                )
            # TREC's own form has a column of zeros in between
            qrels.setdefault(cells[0], {})[cells[-2]] = int(cells[-1])
    if not qrels:
        raise CorpusError(f"{redact(uri)} holds no judgement")
    return qrels
