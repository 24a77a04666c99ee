"""The report people look at: one HTML file that holds an evaluation, its plots and every query's hits.

The file asks the network for nothing and works from a disk. Everything that came from documents, queries or models
reaches the page as compressed JSON in base64 or through a template that escapes; the page's script makes elements with
`textContent` only, and a content security policy allows that one script and no other.

Knows nothing of how results came about. The flow of an evaluation calls it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from pipeline.evaluation.results import Evaluation, QueryResult, ShownHit
from pipeline.storage import replace_file

SCRIPTS = ("report.js", "plots.js", "query.js")  # in this order: the last one starts the page

Rows = list[tuple[str, str]]


def write_report(evaluation: Evaluation, uri: str | Path) -> None:
    """Writes an evaluation as one self-contained HTML file.

    Args:
        evaluation: What to show. Its first mode is the one that others are compared with.
        uri: Path or URI of the file; it is replaced if there is one.

    Raises:
        StorageError: The scheme is unknown.
        OSError: The file cannot be written.
    """
    replace_file(str(uri), render_report(evaluation).encode("utf-8", errors="replace"))


def render_report(evaluation: Evaluation) -> str:
    """Returns the report as HTML."""
    script = "\n".join(_read_asset(name) for name in SCRIPTS)
    frame = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _read_asset("report.html.j2")
    )
    num_queries = len({(result.collection, result.query_id) for result in evaluation.results})
    return frame.render(
        title=f"{evaluation.measures[0]} of {', '.join(evaluation.modes)}" if evaluation.measures else "Evaluation",
        subtitle=f"{num_queries:,} queries, {len(evaluation.collections)} collections, {len(evaluation.modes)} modes",
        style=_read_asset("report.css"),
        # The template's own line ends are what the browser hashes, so the script is hashed exactly as it is inserted.
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=pack_payload(build_payload(evaluation)),
        facts=_list_facts(evaluation.facts),
        collections=[(name, _list_facts(facts)) for name, facts in evaluation.collections.items()],
        costs=[(mode, _list_facts(facts)) for mode, facts in evaluation.costs.items()],
    )


def build_payload(evaluation: Evaluation) -> dict[str, Any]:
    """Returns what the page's script reads: plain lists, with names as positions and each text held once.

    Returns:
        `measures`, `modes` and `collections` (names), `means` (mode x collection x measure), `comparisons`, `queries`
        (each with one result a mode, None where it was not searched) and `texts`, which hits and trajectories point at.
    """
    texts: dict[str, int] = {"": 0}
    places = {name: place for place, name in enumerate(evaluation.collections)}
    modes = {name: place for place, name in enumerate(evaluation.modes)}
    queries: dict[tuple[str, str], dict[str, Any]] = {}
    for result in evaluation.results:
        query = queries.setdefault(
            (result.collection, result.query_id),
            {
                "collection": places[result.collection],
                "id": result.query_id,
                "text": result.query,
                "results": [None] * len(modes),
            },
        )
        query["results"][modes[result.mode]] = _pack_result(result, evaluation.measures, texts)
    return {
        "measures": evaluation.measures,
        "modes": evaluation.modes,
        "collections": list(places),
        "means": [_pack_means(evaluation, mode) for mode in modes],
        "comparisons": _pack_comparisons(evaluation),
        "queries": list(queries.values()),
        "texts": list(texts),
    }


def pack_payload(payload: Mapping[str, Any]) -> str:
    """Returns a payload as base64 of gzip of JSON, which no HTML parser can misread; equal payloads, equal bytes."""
    plain = json.dumps(payload, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(plain, mtime=0)).decode()


def _pack_result(result: QueryResult, measures: tuple[str, ...], texts: dict[str, int]) -> dict[str, Any]:
    return {
        "measures": [_finite(result.measures.get(name)) for name in measures],
        "hits": [_pack_hit(hit, texts) for hit in result.hits],
        "seconds": _finite(result.seconds) or 0,
        "trajectory": texts.setdefault(result.trajectory, len(texts)),
        "tokens": result.reasoning_tokens,
        "fell_back": result.fell_back,
    }


def _pack_hit(hit: ShownHit, texts: dict[str, int]) -> dict[str, Any]:
    return {
        "id": hit.id,
        "title": texts.setdefault(hit.title, len(texts)),
        "text": texts.setdefault(hit.text, len(texts)),
        "score": _finite(hit.score),
        "relevance": hit.relevance,
    }


def _pack_means(evaluation: Evaluation, mode: str) -> list[list[float | None]]:
    of_mode = evaluation.means.get(mode, {})
    return [
        [_finite(of_mode.get(collection, {}).get(measure)) for measure in evaluation.measures]
        for collection in evaluation.collections
    ]


def _pack_comparisons(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Comparisons with names as positions; -1 is all collections together."""
    places = {name: place for place, name in enumerate(evaluation.collections)} | {"": -1}
    return [
        {
            "collection": places[comparison.collection],
            "measure": evaluation.measures.index(comparison.measure),
            "baseline": evaluation.modes.index(comparison.baseline),
            "mode": evaluation.modes.index(comparison.mode),
            "p_value": _finite(comparison.p_value),
            "corrected_p_value": _finite(comparison.corrected_p_value),
            "num_queries": comparison.num_queries,
            "better": comparison.better,
            "worse": comparison.worse,
        }
        for comparison in evaluation.comparisons
    ]


def _finite(value: float | None) -> float | None:
    """JSON has no NaN and no infinity; the page shows a dash for None."""
    return round(float(value), 6) if value is not None and math.isfinite(value) else None


def _list_facts(facts: Mapping[str, Any], prefix: str = "") -> Rows:
    """Facts as rows of name and text; facts within facts get names like `table.version`."""
    rows: Rows = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            rows += _list_facts(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{name}", ", ".join(map(str, value))))
        else:
            rows.append((f"{prefix}{name}", f"{value:,}" if type(value) is int else str(value)))
    return rows


def _read_asset(name: str) -> str:
    return files("pipeline.evaluation").joinpath("data", name).read_text(encoding="utf-8")
