"""The report of an evaluation that was made by the command: what its readers see is what was measured."""

import json
import subprocess
import sys

import pytest

from tests.evaluation.reading import READY, TABLE
from tests.flows.judged import SOURCE, make_judged

MODES = ("plain", "bm25", "reasoned")


def test_the_page_of_a_real_evaluation(page, tmp_path, pytestconfig):
    judged = make_judged(tmp_path)
    program = "from jobs.cli import main; main()"
    asked = [part for mode in MODES for part in ("--mode", mode)]
    done = subprocess.run(
        [sys.executable, "-c", program, "eval", tmp_path / "made-up", "--db", judged.db, "--no-index", "--no-generate",
         "--engine", "imported", "--reasoner", SOURCE, *asked, "--report", tmp_path / "report.html"],
        cwd=pytestconfig.rootpath, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    page.open(tmp_path / "report.html", READY)
    for place, measure in enumerate(found["measures"]):
        page.evaluate(f"document.querySelectorAll('#measures button')[{place}].click()")
        (row,) = page.evaluate(TABLE)
        assert [float(value) for value in row] == pytest.approx(
            [found["means"][mode]["made-up"][measure] for mode in MODES], abs=5.01e-4
        )
    page.evaluate("openQuery(data.queries.findIndex(query => query.id === 'q1'))")
    (query,) = [query for query in judged.collection.queries() if query.id == "q1"]
    assert page.evaluate("document.querySelector('#query h3').textContent") == query.text
    assert judged.trajectories[query.text] in page.evaluate(
        "[...document.querySelectorAll('.trajectory')].map(t => t.textContent)"
    )
    page.wait("document.querySelectorAll('.side').length === 2")
    for side in ("left", "right"):
        documents = page.evaluate(
            f"[...document.querySelectorAll('[data-side={side}] .hit')].map(hit => hit.dataset.doc)"
        )
        assert len(documents) == 10
        assert not set(documents) & set(query.excluded_ids)
    assert page.evaluate(
        "[...document.querySelectorAll('[data-side] .hit p')].every(text => text.textContent.length > 0)"
    )
    assert page.complaints() == []
