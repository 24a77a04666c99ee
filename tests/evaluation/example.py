"""A generated evaluation, with texts that break pages."""

import random
from statistics import fmean

from pipeline.evaluation.compare import mean_over_collections
from pipeline.evaluation.results import Comparison, Evaluation, QueryResult, ShownHit

NASTY = (
    "<script>window.ran = true</script></script><img src=x onerror='window.ran = true'>"
    " & \" ' ` ${1} \u2028 <!-- {{ 1 }}"
)
MEASURES = ("nDCG@10", "recall@100", "RR")
MODES = ("bm25", "plain", "reasoned", "hybrid")
COLLECTIONS = ("biology", "economics", "theoremqa_questions", "pony & <b>friends</b>")
SUBJECTS = "protein market theorem energy cell price proof temperature insect demand lemma membrane"
WORDS = SUBJECTS.split()
ASKED = (
    "Why are insects attracted to light, and is it the light or the heat of the bulb that draws them?",
    "Does raising the minimum wage reduce employment when one buyer dominates the market for labour?",
    "Show that a bounded monotone sequence of real numbers converges.",
    "How can my program read a list that is longer than memory without keeping all of it?",
)


def make_evaluation(*, queries_each=12, seed=0):
    """Four collections in four modes; the second query's texts are nasty."""
    rng = random.Random(seed)
    results = []
    for place, collection in enumerate(COLLECTIONS):
        for number in range(queries_each):
            results += _make_query(rng, collection, place, number)
    means = {mode: {c: _means(results, mode, c) for c in COLLECTIONS} for mode in MODES}
    comparisons = [
        Comparison(
            c,
            measure,
            "bm25",
            mode,
            *_compare(results, mode, c, measure),
            p_value,
            *counts,
            corrected_p_value=min(1.0, 3 * p_value),
        )
        for measure in MEASURES
        for mode in MODES[1:]
        for c in (*COLLECTIONS, "")
        for counts in [_counts(results, mode, c, measure)]
        for p_value in [rng.choice([0.0001, 0.01, 0.02, 0.3])]
    ]
    facts = {
        "documents": 57_359, "queries": queries_each, "judgements": 1_304,
        "hashes": {"documents": "sha256:" + "9f3c" * 16},
        "revision": "a75a0eb", "table version": 7, "fingerprint": "encoder:" + "c0de" * 8,
    }  # fmt: skip
    return Evaluation(
        measures=MEASURES,
        modes=MODES,
        collections=dict.fromkeys(COLLECTIONS, facts),
        results=tuple(results),
        comparisons=tuple(comparisons),
        means=means,
        mean_over_collections=mean_over_collections(means, MEASURES),
        costs={"reasoned": {"seconds a query": 2.31, "tokens a second": 181.0}},
        facts={
            "date": "2026-01-31T12:00:00Z",
            "command": "t1 eval --report out.html " + NASTY,
            "model": {"name": "a model"},
        },
    )


def _make_query(rng, collection, place, number):
    asked = NASTY + " asked" if number == 1 else ASKED[place] + (f" (variant {number})" if number > 3 else "")
    level, tokens = rng.betavariate(1.2, 3), int(rng.lognormvariate(6, 0.5))
    pool = [_make_hit(rng, f"{collection}/doc-{number}-{d}", nasty=number == 1 and d < 3) for d in range(18)]
    for mode, lift in zip(MODES, (0, 0.03, 0.14, 0.12), strict=True):
        same = rng.random() < 0.25
        value = level if same else min(1.0, max(0.0, level + lift + rng.gauss(0, 0.14)))
        order = sorted(pool, key=lambda hit: pool.index(hit) + rng.gauss(0, 4))[:10]
        hits = tuple(ShownHit(h.id, h.title, h.text, 0.9 - 0.03 * i, h.relevance) for i, h in enumerate(order))
        reasons = mode in ("reasoned", "hybrid")
        fell_back = reasons and number % 11 == 7
        steps = " ".join(rng.choices(WORDS, k=min(tokens, 260)))
        thought = (
            f"The question is about {steps}.\n\nSo documents on {steps[:200]} would help."
            if reasons and not fell_back
            else ""
        )
        yield QueryResult(
            collection, f"{place}-{number}", asked, mode,
            {"nDCG@10": value, "recall@100": min(1.0, value + 0.2), "RR": min(1.0, value * 1.1)},
            hits, rng.uniform(0.003, 0.03) * (1 + MODES.index(mode)),
            NASTY + thought if number == 1 and reasons else thought,
            tokens if thought else 0, fell_back,
        )  # fmt: skip


def _make_hit(rng, name, *, nasty):
    text = " ".join(rng.choices(WORDS, k=60)).capitalize() + "."
    title = " ".join(rng.choices(WORDS, k=5)).capitalize()
    return ShownHit(
        name, NASTY if nasty else title, NASTY + text if nasty else text, 0.0, rng.choice([None, None, 0, 1])
    )


def _means(results, mode, collection):
    mine = [r for r in results if r.mode == mode and r.collection == collection]
    return {measure: fmean(r.measures[measure] for r in mine) for measure in MEASURES}


def _gains(results, mode, collection, measure):
    values = {(r.collection, r.query_id, r.mode): r.measures[measure] for r in results}
    keys = [(c, q) for c, q, m in values if m == mode and collection in (c, "")]
    return [values[*key, mode] - values[*key, "bm25"] for key in keys]


def _compare(results, mode, collection, measure):
    return (fmean(_gains(results, mode, collection, measure)),)


def _counts(results, mode, collection, measure):
    gains = _gains(results, mode, collection, measure)
    return len(gains), sum(g > 0 for g in gains), sum(g < 0 for g in gains)
