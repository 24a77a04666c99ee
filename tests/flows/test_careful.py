"""A document that kills its encoder without a word is set aside, and every other document is indexed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from pipeline.flows import careful, stream
from pipeline.flows.careful import DeathLog, encode_carefully
from pipeline.flows.index import index
from pipeline.flows.stages import EncodeStage
from pipeline.model.encoder import Encoded
from pipeline.records import Reason
from pipeline.settings import CorpusSettings, IndexSettings, ModelSettings, PoolSettings
from pipeline.store.database import LIVE, Database
from tests.flows.corpora import write_jsonl


class Died(BaseException):
    """The process is gone; nothing after it runs."""


class Mortal:
    """Encodes texts as their length; dies of some."""

    dim = 1

    def __init__(self, *deadly: int) -> None:
        self.deadly = deadly
        self.calls: list[int] = []

    def encode(self, bodies: list[Any], *, role: str) -> Encoded:
        self.calls.append(len(bodies))
        if any(len(b) in self.deadly for b in bodies):
            raise Died
        return Encoded(np.asarray([[len(b)] for b in bodies], np.float32), num_tokens=sum(map(len, bodies)))


class Handle:
    """A `DeathLog` called as an actor is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        log = DeathLog()
        self.begin = type("Begin", (), {"remote": staticmethod(log.begin)})
        self.end = type("End", (), {"remote": staticmethod(log.end)})
        self.log = log
        monkeypatch.setattr(careful.ray, "get", lambda value: value)


def _until_it_lives(encoder: Mortal, lengths: list[int], owner: list[int], log: Handle) -> tuple[Encoded, int]:
    """What Ray does: the same window again after each death."""
    for deaths in range(20):
        try:
            ids = [str(n) for n in range(max(owner) + 1)]
            bodies = [np.zeros(n, np.int32) for n in lengths]
            return encode_carefully(encoder, bodies, owner=owner, ids=ids, log=log), deaths  # type: ignore[arg-type]
        except Died:
            continue
    raise AssertionError("it never ends")


def test_a_window_without_trouble_is_encoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, log = Mortal(), Handle(monkeypatch)
    result, deaths = _until_it_lives(encoder, [3, 4, 5], [0, 0, 1], log)
    assert (deaths, encoder.calls, result.vectors.ravel().tolist()) == (0, [3], [3.0, 4.0, 5.0])
    assert log.log._begun == {}


@pytest.mark.parametrize("deadly", [(7,), (7, 9)])
def test_only_the_deadly_documents_fail(monkeypatch: pytest.MonkeyPatch, deadly: tuple[int, ...]) -> None:
    log = Handle(monkeypatch)
    result, deaths = _until_it_lives(Mortal(*deadly), [3, 7, 4, 9, 5], [0, 1, 1, 2, 3], log)
    crashed = {1, 2} | ({3} if 9 in deadly else set())
    assert result.failures == dict.fromkeys(crashed, Reason.CRASHED)
    expected = [0.0 if i in crashed else float(n) for i, n in enumerate([3, 7, 4, 9, 5])]
    assert result.vectors.ravel().tolist() == expected
    assert deaths == 1 + careful.MAX_DEATHS * len(deadly)


def test_a_death_of_another_cause_costs_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Handle(monkeypatch)
    _, deaths = _until_it_lives(Mortal(7), [3, 7], [0, 1], log)
    assert deaths == 3
    lengths, owner = [3, 4], [0, 1]
    log.log.begin(next(iter(log.log._begun), "x"))
    result, deaths = _until_it_lives(Mortal(), lengths, owner, log)
    assert (deaths, result.failures) == (0, {})


class DeadlyStage(EncodeStage):
    """Kills its own process, as a native library would, when it meets one word."""

    def __call__(self, block: Any) -> Any:
        texts, tokens = (
            [chunk for chunks in block.column(name).to_pylist() for chunk in chunks] for name in ("texts", "token_ids")
        )
        lethal = {len(ids) for text, ids in zip(texts, tokens, strict=True) if "zyzzyva" in text}
        encode = self.encoder.encode

        def fatal(bodies: Any, *, role: Any) -> Encoded:
            if any(len(b) in lethal for b in bodies):
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(bodies, role=role)

        self.encoder.encode = fatal  # type: ignore[method-assign]
        try:
            return super().__call__(block)
        finally:
            self.encoder.encode = encode  # type: ignore[method-assign]


@pytest.mark.ray
def test_a_run_survives_a_deadly_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(stream, "EncodeStage", DeadlyStage)
    # by its length alone the deadly text can be told from the others, as the stage sees token ids only
    rows = [{"id": str(n), "text": f"word {n}"} for n in range(30)]
    rows[17]["text"] = "zyzzyva " * 11
    write_jsonl(tmp_path / "corpus.jsonl", rows)
    settings = IndexSettings(
        db=str(tmp_path / "db"), corpus=CorpusSettings(uris=(str(tmp_path / "corpus.jsonl"),)),
        encoder=ModelSettings(model="hashing://16"),
        pool=PoolSettings(device="cpu", window_documents=10, direct_documents=0),
    )  # fmt: skip
    report = index(settings, quiet=True)
    assert (report.documents_encoded, report.documents_quarantined, report.status) == (29, 1, "published")
    database = Database.at(settings.db)
    stored = database.open("documents", version=LIVE).to_table(columns=["id"]).column("id").to_pylist()
    assert sorted(stored, key=int) == [str(n) for n in range(30) if n != 17]
    (row,) = database.open("quarantine").to_table().to_pylist()
    assert (row["id"], row["reason"]) == ("17", "crashed")
