"""Judged queries stand before `live`: what answers them worse is refused, whatever its counts say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.qrels import read_qrels
from pipeline.errors import CorpusError, ModelError, PublishRefused
from pipeline.evaluation.measures import ndcg_at_10
from pipeline.flows import canary as canary_module
from pipeline.flows import index as index_module
from pipeline.flows.index import index
from pipeline.flows.report import RunReport
from pipeline.settings import CorpusSettings, IndexSettings, ModelSettings, PoolSettings, PublishSettings
from pipeline.store.database import Database
from tests.flows.corpora import write_jsonl

WORDS = ["copper", "violin", "glacier", "parsnip", "tangent", "lantern", "harbour", "meadow"]


def _canary(folder: Path) -> Path:
    write_jsonl(folder / "queries.jsonl", [{"_id": f"q{n}", "text": word * 3} for n, word in enumerate(WORDS)])
    lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n}\t1" for n in range(len(WORDS)))]
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def _run(folder: Path, texts: list[str], canary: Path) -> RunReport:
    write_jsonl(folder / "corpus.jsonl", [{"id": f"d{n}", "text": text} for n, text in enumerate(texts)])
    settings = IndexSettings(
        db=str(folder / "db"), corpus=CorpusSettings(uris=(str(folder / "corpus.jsonl"),)),
        encoder=ModelSettings(model="hashing://64"), pool=PoolSettings(device="cpu"),
        publish=PublishSettings(canary=str(canary)),
    )  # fmt: skip
    return index(settings, quiet=True)


@pytest.mark.ray
def test_a_version_that_answers_worse_is_refused(tmp_path: Path, local_ray: None) -> None:
    canary = _canary(tmp_path / "canary")
    good = [word * 3 for word in WORDS] + ["something else"] * 2
    first = _run(tmp_path, good, canary)
    assert first.status == "published"
    with pytest.raises(PublishRefused, match=r"nDCG@10 on the canary fell from 1\.000 to 0\.\d+, more than"):
        _run(tmp_path, good[::-1], canary)
    assert Database.at(str(tmp_path / "db")).live_version() == first.version
    assert _run(tmp_path, [*good, "one more"], canary).status == "published"


@pytest.mark.ray
@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_canary_that_cannot_be_asked_is_said_before_anything_is_paid_for(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    canary = _canary(tmp_path / "canary")
    _run(tmp_path, [word * 3 for word in WORDS], canary)
    if harm == "gone":
        was, part = "/models/of-last-year", "no model folder at /models/of-last-year"
    else:
        was, part = "hashing://32", "hashing://32 gives fingerprint"
    as_it_was = canary_module.read_encoder
    monkeypatch.setattr(canary_module, "read_encoder", lambda schema: as_it_was(schema).replace("hashing://64", was))

    def encode(*_: Any) -> None:
        raise AssertionError("something was paid for")

    monkeypatch.setattr(index_module, "connected", encode)
    with pytest.raises(
        ModelError, match=rf"--canary asks version \d+, which is live, as well.*{part}.*leave --canary out"
    ):
        _run(tmp_path, [word * 3 for word in WORDS] + ["one more"], canary)


def test_judgements_are_read_with_and_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("q1\t0\td1\t2\nq1\t0\td2\t0\n\nq2\t0\td1\t1\n")
    assert read_qrels(str(tmp_path)) == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    assert read_qrels(str(_canary(tmp_path / "beir")))["q3"] == {"d3": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "has no judgements"),
        ("query-id\tcorpus-id\tscore\n", "holds no judgement"),
        ("a\tb\t1\nc d\n", ":2: 'c d'"),
    ],
)
def test_judgements_that_cannot_be_read_are_named(tmp_path: Path, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / "qrels.tsv").write_text(text)
    with pytest.raises(CorpusError, match=sentence):
        read_qrels(str(tmp_path))


def test_ndcg_is_the_usual_one() -> None:
    qrels = json.loads('{"a": {"x": 1}, "b": {"y": 1, "z": 1}, "c": {"w": 1}}')
    # found first, one of two found second, and not answered at all
    rankings = {"a": {"x": 2.0, "y": 1.0}, "b": {"x": 2.0, "y": 1.0}}
    second = (1 / 1.584962500721156) / (1 + 1 / 1.584962500721156)
    assert ndcg_at_10(rankings, qrels) == pytest.approx((1 + second + 0) / 3)
