"""Reports of evaluations that are large, or lack something."""

import dataclasses

import pytest

from pipeline.evaluation.report import write_report
from tests.evaluation.example import COLLECTIONS, MEASURES, MODES, make_evaluation
from tests.evaluation.reading import READY, SHOWN, TABLE, expected_table


@pytest.fixture(scope="module")
def evaluation():
    return make_evaluation()


def test_a_full_benchmark_keeps_few_rows_in_the_page(page, tmp_path):
    few = make_evaluation(queries_each=14)  # their texts are shared, so that 1,400 queries take a moment
    many = [dataclasses.replace(r, query_id=f"{r.query_id}-{copy}") for copy in range(25) for r in few.results]
    path = tmp_path / "large.html"
    write_report(dataclasses.replace(few, results=tuple(many)), path)
    page.open(path, READY)
    assert page.evaluate(SHOWN) == "1,400 of 1,400 queries"
    assert page.evaluate("document.querySelectorAll('.row').length") < 40
    page.evaluate("document.getElementById('list').scrollTop = 1e9")
    page.wait("document.getElementById(`row-${shown.at(-1)}`) !== null")
    assert page.complaints() == []


def test_values_that_are_not_numbers_become_dashes(page, evaluation, tmp_path):
    first = dataclasses.replace(evaluation.results[0], measures={"nDCG@10": float("nan")}, seconds=float("inf"))
    means = evaluation.means | {"plain": {}}
    broken = dataclasses.replace(evaluation, results=(first, *evaluation.results[1:]), means=means)
    write_report(broken, tmp_path / "broken.html")
    page.open(tmp_path / "broken.html", READY)
    assert [row[1] for row in page.evaluate(TABLE)] == ["–"] * 5
    assert page.complaints() == []


def test_a_report_with_one_mode_or_nothing_at_all_still_opens(page, evaluation, tmp_path):
    alone = dataclasses.replace(
        evaluation,
        modes=("bm25",),
        results=tuple(r for r in evaluation.results if r.mode == "bm25"),
        comparisons=(),
        costs={},
    )
    nothing = dataclasses.replace(alone, results=(), collections={}, means={}, facts={})
    for name, what in (("alone", alone), ("nothing", nothing)):
        write_report(what, tmp_path / f"{name}.html")
        page.open(tmp_path / f"{name}.html", READY)
        assert page.complaints() == []


def test_a_mean_over_fewer_collections_is_marked_and_never_the_best(page, evaluation, tmp_path):
    best = max(MODES[1:], key=lambda mode: expected_table(evaluation, "nDCG@10")[-1][MODES.index(mode)])
    lacking = COLLECTIONS[1]
    flattered = {c: dict.fromkeys(MEASURES, 0.99) for c in COLLECTIONS if c != lacking}
    results = tuple(r for r in evaluation.results if (r.mode, r.collection) != (best, lacking))
    partial = dataclasses.replace(evaluation, means=evaluation.means | {best: flattered}, results=results)
    write_report(partial, tmp_path / "partial.html")
    page.open(tmp_path / "partial.html", READY)
    place = MODES.index(best)
    total = "document.querySelector('#table tr.total')"
    assert page.evaluate(
        f"[...{total}.querySelectorAll('.covers')].map(c => [c.parentNode.cellIndex, c.textContent])"
    ) == [[place + 1, "3 of 4 collections"]]
    assert page.evaluate(f"{total}.cells[{place + 1}].querySelector('.change').textContent") == ""
    means = expected_table(
        dataclasses.replace(evaluation, means=partial.means | {best: evaluation.means[best]}), "nDCG@10"
    )[-1]
    second = max((m for m in MODES if m != best), key=lambda m: means[MODES.index(m)])
    assert page.evaluate(f"[...{total}.querySelectorAll('.best')].map(c => c.cellIndex - 1)") == [MODES.index(second)]
    assert [row[place] for row in page.evaluate(TABLE)] == ["0.990", "–", "0.990", "0.990", "0.990"]
    assert "3 of 4 collections" in page.evaluate(f"document.querySelectorAll('.card')[{place}].textContent")
    assert page.evaluate("data.modes[state.mode]") == max(
        (m for m in MODES[1:] if m != best), key=lambda m: means[MODES.index(m)]
    )
    assert page.complaints() == []
