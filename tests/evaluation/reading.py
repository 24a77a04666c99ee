"""What tests read off a report's page."""

from tests.evaluation.example import COLLECTIONS, MODES

READY = "document.getElementById('main')?.getAttribute('aria-busy') === 'false'"
TABLE = (
    "[...document.querySelectorAll('#table tbody tr')]"
    ".map(r => [...r.querySelectorAll('.value')].map(v => v.textContent))"
)
SHOWN = "document.getElementById('count').textContent"


def expected_table(evaluation, measure):
    rows = [[evaluation.means[mode][c][measure] for mode in MODES] for c in COLLECTIONS]
    rows.append([sum(column) / len(COLLECTIONS) for column in zip(*rows, strict=True)])
    return rows


def read_table(page):
    return [[float(value) for value in row] for row in page.evaluate(TABLE)]
