"""The report, as a reader meets it: in a real browser."""

import base64
import gzip
import json
import os
import re
from pathlib import Path

import pytest

from pipeline.evaluation.report import build_payload, pack_payload, render_report, write_report
from tests.evaluation.example import COLLECTIONS, MEASURES, MODES, NASTY, make_evaluation
from tests.evaluation.reading import READY, SHOWN, expected_table, read_table


@pytest.fixture(scope="module")
def evaluation():
    return make_evaluation()


@pytest.fixture
def report(page, evaluation, tmp_path):
    path = tmp_path / "report & more.html"
    write_report(evaluation, path)
    page.show_as(width=1280)
    page.open(path, READY)
    yield page
    assert page.complaints() == []
    assert page.requests() == [path.resolve().as_uri()]
    assert page.evaluate("window.ran === undefined"), "a text of a document was run"


def test_the_table_shows_the_means_and_the_best_of_each_row(report, evaluation):
    expected = expected_table(evaluation, "nDCG@10")
    assert read_table(report) == [pytest.approx(row, abs=6e-4) for row in expected]
    best = report.evaluate("[...document.querySelectorAll('#table .best')].map(cell => cell.cellIndex - 1)")
    assert best == [row.index(max(row)) for row in expected]


def test_another_measure_changes_the_table(report, evaluation):
    report.evaluate("document.querySelectorAll('#measures button')[2].click()")
    assert read_table(report) == [pytest.approx(row, abs=6e-4) for row in expected_table(evaluation, MEASURES[2])]
    assert report.evaluate("document.activeElement.textContent") == MEASURES[2], "the focus was lost by drawing again"


def test_significance_is_marked_from_the_comparison_of_that_cell(report, evaluation):
    seen = set()
    for row, collection in enumerate(COLLECTIONS):
        for column, mode in enumerate(MODES[1:], 2):
            wanted = (collection, mode, "nDCG@10")
            test = next(c for c in evaluation.comparisons if (c.collection, c.mode, c.measure) == wanted)
            # what is left of it after Holm's correction decides
            marks = {0.0001: "***", 0.01: "*", 0.02: "", 0.3: ""}[test.p_value]
            cell = f"document.querySelector('#table tbody').rows[{row}].cells[{column}]"
            said = report.evaluate(f"{cell}.querySelector('.change').textContent")
            assert re.fullmatch(r"[+\u2212±]\d\.\d{3} (\**)", said).group(1) == marks
            title = report.evaluate(f"{cell}.title")
            assert f"{test.better} queries gained and {test.worse} lost" in title
            p, corrected = re.search(r"p = (\S+), corrected (\S+)$", title).groups()
            assert (float(p), float(corrected)) == (test.p_value, pytest.approx(test.corrected_p_value))
            seen.add(test.p_value)
    assert {0.0001, 0.01, 0.02} <= seen


def test_another_mode_changes_the_plots(report, evaluation):
    for place, mode in enumerate(MODES[1:]):
        report.evaluate(f"document.querySelectorAll('#modes button')[{place}].click()")
        test = next(c for c in evaluation.comparisons if (c.collection, c.mode, c.measure) == ("", mode, "nDCG@10"))
        title = report.evaluate("document.getElementById('gain-title').textContent")
        assert f"Gain of {mode} over bm25, query by query: {test.better} gained, {test.worse} lost" in title
        assert report.evaluate("document.querySelectorAll('#gain-plot rect').length") == test.num_queries


def test_a_bar_leads_to_its_query_with_trajectory_and_both_hit_lists(report, evaluation):
    report.evaluate(
        "document.querySelectorAll('#modes button')[1].click(); document.querySelector('#gain-plot').scrollIntoView()"
    )
    box = report.evaluate(  # of the first bar whose query was reasoned about
        "(bar => (r => [r.x + r.width / 2, r.y + r.height / 2, data.queries[bar.dataset.query].id])"
        "(bar.getBoundingClientRect()))"
        "([...document.querySelectorAll('#gain-plot rect')]"
        ".find(b => !data.queries[b.dataset.query].results[2].fell_back))"
    )
    for kind in ("mousePressed", "mouseReleased"):
        report.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
    report.wait("document.querySelectorAll('.side').length === 2")
    wanted = {r.mode: r for r in evaluation.results if r.query_id == box[2]}
    assert report.evaluate("document.querySelector('#query h3').textContent") == wanted["bm25"].query
    assert wanted["reasoned"].trajectory in report.evaluate(
        "[...document.querySelectorAll('.trajectory')].map(t => t.textContent)"
    )
    for side, mode, other in (("left", "bm25", "reasoned"), ("right", "reasoned", "bm25")):
        check_side(report, side, wanted[mode], wanted[other])


def check_side(page, side, result, other):
    hits = page.evaluate(
        f"[...document.querySelectorAll('[data-side={side}] .hit')]"
        ".map(h => [h.dataset.doc, h.classList.contains('relevant'),"
        " h.querySelector('.move').textContent])"
    )
    assert [hit[0] for hit in hits] == [hit.id for hit in result.hits]
    assert [hit[1] for hit in hits] == [bool(hit.relevance) for hit in result.hits]
    ranks = {hit.id: rank for rank, hit in enumerate(other.hits, 1)}
    for rank, (doc, _, said) in enumerate(hits, 1):
        if doc not in ranks:
            assert said == f"not among {other.mode}'s 10"
        elif ranks[doc] == rank:
            assert said == f"= same rank in {other.mode}"
        else:
            sign = "▲" if ranks[doc] > rank else "▼"
            assert said == f"{sign} {abs(ranks[doc] - rank)}, rank {ranks[doc]} in {other.mode}"


def test_filters_by_collection_change_and_words(report, evaluation):
    def choose(name, value):
        report.evaluate(
            f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
            f"(document.getElementById('{name}'))"
        )
        return int(report.evaluate(SHOWN).split()[0])

    assert int(report.evaluate(SHOWN).split()[0]) == 48
    assert choose("collection", COLLECTIONS[3]) == 12
    assert choose("change", "gain") + choose("change", "loss") + choose("change", "same") == 12
    assert choose("change", "fallback") == sum(
        r.fell_back for r in evaluation.results if r.collection == COLLECTIONS[3] and r.mode == "hybrid"
    )
    choose("change", "all")
    assert choose("text", "<SCRIPT> onerror") == 1
    assert choose("text", "nothing has these words") == 0


def test_texts_of_documents_are_shown_as_they_are_and_never_run(report, evaluation):
    report.evaluate("openQuery(data.queries.findIndex(query => query.id === '0-1'))")
    nasty = next(
        h for r in evaluation.results if r.query_id == "0-1" and r.mode == "bm25" for h in r.hits if h.title == NASTY
    )
    shown = report.evaluate(f"document.querySelector(`[data-doc='{nasty.id}'] p`).textContent")
    assert shown == nasty.text
    assert report.evaluate("document.querySelector('#query h3').textContent") == NASTY + " asked"
    assert NASTY in report.evaluate("[...document.querySelectorAll('dd')].map(e => e.textContent).join()")
    assert report.evaluate("document.querySelectorAll('img, #query script').length") == 0


def test_the_keyboard_walks_over_list_and_plot(report):
    report.evaluate("document.getElementById('list').focus()")
    report.press("ArrowDown")
    report.press("ArrowDown")
    assert report.evaluate(
        "state.query === shown[1] && document.querySelector('.row[aria-selected=true]').id === `row-${shown[1]}`"
    )
    report.evaluate("document.querySelector('#gain-plot svg').focus()")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
        report.press(key)
    assert report.evaluate("state.query === shown[2]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_a_desk_and_a_phone_in_both_colour_schemes(report, scheme, width):
    report.show_as(width=width, scheme=scheme, phone=width < 500)
    report.evaluate("openQuery(shown[2], false); scrollTo(0, 0)")
    assert report.evaluate("document.documentElement.scrollWidth") <= width
    paper = report.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", paper)[:3])) / 3
    assert (brightness < 128) == (scheme == "dark")
    picture = report.photograph()
    assert picture.startswith(b"\x89PNG")
    if folder := os.environ.get("T1_SCREENSHOTS"):
        Path(folder, f"{scheme}-{width}.png").write_bytes(picture)


def test_the_payload_survives_the_page_and_holds_each_text_once(evaluation):
    payload = build_payload(evaluation)
    found = re.search(r'id="data">([^<]*)</script>', render_report(evaluation)).group(1)
    assert json.loads(gzip.decompress(base64.b64decode(found))) == json.loads(json.dumps(payload))
    assert len(payload["texts"]) == len(set(payload["texts"]))
    assert pack_payload(payload) == pack_payload(build_payload(evaluation))


def test_an_old_report_is_replaced_whole_and_nothing_is_left_beside_it(evaluation, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(evaluation, path)
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]
