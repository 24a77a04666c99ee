"""Means of modes and tests of one mode against another, from the queries' results. Called by flows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pipeline.evaluation.results import Comparison, QueryResult
from pipeline.evaluation.significance import correct_by_holm, paired_p_value

# collection -> mode -> query -> value
_Values = Mapping[str, Mapping[str, Mapping[str, float]]]


def mean_by_collection(
    results: Iterable[QueryResult], measures: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Mode -> collection -> measure -> mean over the collection's queries."""
    groups: dict[tuple[str, str], list[QueryResult]] = {}
    for result in results:
        groups.setdefault((result.mode, result.collection), []).append(result)
    means: dict[str, dict[str, dict[str, float]]] = {}
    for (mode, collection), group in groups.items():
        means.setdefault(mode, {})[collection] = {
            name: sum(result.measures[name] for result in group) / len(group) for name in measures
        }
    return means


def mean_over_collections(
    means: Mapping[str, Mapping[str, Mapping[str, float]]], measures: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Mode -> measure -> plain mean over collections, each counting the same: what BRIGHT's leaderboard shows.

    Args:
        means: From `mean_by_collection`.
        measures: Their names.
    """
    return {
        mode: {name: sum(values[name] for values in of_mode.values()) / len(of_mode) for name in measures}
        for mode, of_mode in means.items()
    }


def compare_modes(results: Sequence[QueryResult], *, modes: Sequence[str], measure: str) -> tuple[Comparison, ...]:
    """Each mode against the first, a collection at a time, and over all queries where there are several collections.

    Only queries that both modes answered are compared. The corrected p-values are Holm's over all that are returned.

    Args:
        results: Of every mode.
        modes: The baseline first.
        measure: Its name.
    """
    values = _by_collection(results, measure)
    comparisons = []
    for mode in modes[1:]:
        differences = {name: _differences(found, modes[0], mode) for name, found in values.items()}
        comparisons += [_compare(name, measure, modes[0], mode, found) for name, found in differences.items() if found]
        if len(differences) > 1:
            pooled = [value for found in differences.values() for value in found]
            comparisons += [_compare("", measure, modes[0], mode, pooled)] if pooled else []
    corrected = correct_by_holm([comparison.p_value for comparison in comparisons])
    return tuple(replace(c, corrected_p_value=p) for c, p in zip(comparisons, corrected, strict=True))


def _by_collection(results: Iterable[QueryResult], measure: str) -> _Values:
    values: dict[str, dict[str, dict[str, float]]] = {}
    for result in results:
        modes = values.setdefault(result.collection, {})
        modes.setdefault(result.mode, {})[result.query_id] = result.measures[measure]
    return values


def _differences(values: Mapping[str, Mapping[str, float]], baseline: str, mode: str) -> list[float]:
    before, after = values.get(baseline, {}), values.get(mode, {})
    return [after[query] - before[query] for query in before if query in after]


def _compare(collection: str, measure: str, baseline: str, mode: str, differences: Sequence[float]) -> Comparison:
    return Comparison(
        collection=collection,
        measure=measure,
        baseline=baseline,
        mode=mode,
        difference=sum(differences) / len(differences),
        p_value=paired_p_value(differences),
        num_queries=len(differences),
        better=sum(value > 0 for value in differences),
        worse=sum(value < 0 for value in differences),
    )
