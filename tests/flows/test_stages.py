"""The stages without Ray: what is read, what is encoded together, what is written, what is set aside."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus import jsonl
from pipeline.corpus.locate import locate
from pipeline.errors import ClusterError, CorpusChanged
from pipeline.flows import stages
from pipeline.flows.scan import CorpusScan, scan_shard
from pipeline.flows.stages import EncodeStage, ReadTask, _documents_table, _read_ahead, _selected
from pipeline.flows.write_stage import write_fragments
from pipeline.model.bundle import open_bundle
from pipeline.model.encoder import Encoder
from pipeline.records import Document, FieldMap, Reason, content_hash, id_hash
from pipeline.settings import ModelSettings
from pipeline.store.database import Database
from pipeline.store.diff import Plan, narrow
from pipeline.store.hashes import ShardScan, as_hashes
from pipeline.store.schema import documents_schema
from tests.flows.corpora import MODEL, document, write_jsonl

_SETTINGS = ModelSettings(model=MODEL, chunk_tokens=32, overlap_tokens=4)


def _task(corpus: Path) -> ReadTask:
    shards = tuple(locate([str(corpus)]))
    return ReadTask(shards, FieldMap(text="text", id="id"), 10_000, _SETTINGS, "cpu", 64)


def _plan(names: str, *mask: bool) -> Plan:
    """What is decided about a shard that held these documents when it was scanned."""
    chosen = np.array(mask, np.bool_)
    rows = [document(name) for name in names]
    scan = ShardScan(
        as_hashes(b"".join(id_hash(row["id"]) for row in rows)),
        as_hashes(b"".join(content_hash("", row["text"], "{}") for row in rows)),
    )
    return Plan([chosen], [~chosen], [np.zeros(0, np.int32)], [scan.digest()], np.empty(0, np.uint64), 0, 0, 0, 0)


def test_only_what_was_selected_is_read(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [document("a"), "{broken", document("b"), document("c")])
    assert [d.id for d in _selected(_task(corpus), _plan("abc", True, False, True), 0)] == ["a", "c"]


def test_a_limit_that_ends_inside_a_shard_ends_the_read(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [document(name) for name in "abcd"])
    assert [d.id for d in _selected(_task(corpus), _plan("ab", True, True), 0)] == ["a", "b"]


def test_a_shard_that_became_shorter_between_scan_and_read(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [document("a"), document("b")])
    with pytest.raises(CorpusChanged, match=r"rewritten after it was scanned \(2 of 3 documents are"):
        list(_selected(_task(corpus), _plan("abc", True, True, True), 0))


def test_a_shard_that_was_rewritten_with_as_many_documents(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [document("a"), document("b"), document("d")])
    with pytest.raises(CorpusChanged, match=r"rewritten after it was scanned \(other documents stand"):
        list(_selected(_task(corpus), _plan("abc", True, False, False), 0))


def _scan_with_offsets(corpus: Path) -> ShardScan:
    (shard,) = locate([str(corpus)])
    ((_, scan),), _ = scan_shard(0, shard, FieldMap(text="text", id="id"), 10_000, None, True)
    return scan


def _narrowed(corpus: Path, names: str, *mask: bool) -> Plan:
    """As `_plan`, of a scan that kept where its documents begin in this file."""
    scan = _scan_with_offsets(corpus)
    plan = narrow(_plan(names, *mask), [(0, scan)])
    assert scan.offsets is not None
    assert plan.offsets[0].tolist() == scan.offsets[np.flatnonzero(mask)].tolist()
    return plan


def test_of_few_documents_only_their_lines_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [document("a"), "{broken", *map(document, "bcd")])
    plan = _narrowed(corpus, "abcd", False, True, False, True)
    decoded: list[bytes] = []
    parse = jsonl._parse
    monkeypatch.setattr(jsonl, "_parse", lambda uri, at, line: (decoded.append(line), parse(uri, at, line))[1])
    assert [d.id for d in _selected(_task(corpus), plan, 0)] == ["b", "d"]
    assert [json.loads(line)["id"] for line in decoded] == ["b", "d"]


def test_what_stands_behind_the_last_of_few_documents_is_not_looked_at(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", map(document, "abcd"))
    plan = _narrowed(corpus, "abcd", False, True, False, False)
    write_jsonl(corpus, [document("a"), document("b"), "{was rewritten"])
    assert [d.id for d in _selected(_task(corpus), plan, 0)] == ["b"]


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (["x", "b", "c", "e"], "other documents stand where they were"),  # a document that is read has changed
        (["a", "b", "c"], r"1 of 2 documents are where they were"),
        (["longer", "b", "c", "d"], r"0 of 2 documents are where they were"),  # all begin elsewhere
    ],
)
def test_few_documents_of_a_shard_that_was_rewritten(tmp_path: Path, now: list[str], message: str) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", map(document, "abcd"))
    plan = _narrowed(corpus, "abcd", False, True, False, True)
    write_jsonl(corpus, map(document, now))
    with pytest.raises(CorpusChanged, match=message):
        list(_selected(_task(corpus), plan, 0))


def test_a_shard_of_which_much_is_read_is_read_whole(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", map(document, "abc"))
    scan = _scan_with_offsets(corpus)
    plan = narrow(_plan("abc", True, False, True), [(0, scan)])
    assert (plan.offsets, plan.digests) == ({}, [scan.digest()])


def test_a_scan_that_was_made_again_of_another_file_narrows_nothing(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", map(document, "abcadef"))
    compared = _plan("abcdef", False, False, False, True, False, False)
    plan = narrow(compared, [(0, _scan_with_offsets(corpus))])
    assert (plan.offsets, plan.digests) == ({}, compared.digests)
    with pytest.raises(CorpusChanged):
        list(_selected(_task(corpus), plan, 0))


def test_a_plan_that_was_made_again_without_a_shard_is_said(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", map(document, "ab"))
    for plan in (_plan("ab", False, False), _plan("")):
        with pytest.raises(ClusterError, match="a node went"):
            list(_selected(_task(corpus), plan, 0))


def test_where_rows_are_no_lines_no_offsets_are_kept(tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text("id,text\na,one\nb,two\nc,three\n", encoding="utf-8")
    database = Database.at(str(tmp_path / "db"))
    scan = CorpusScan(
        database, locate([str(tmp_path)]), FieldMap(text="text", id="id"), max_text_chars=99, limit=None,
        keeps_offsets=True,
    )  # fmt: skip
    found, _ = scan_shard(*scan._arguments(0))
    assert [(len(one.ids), one.offsets) for _, one in found] == [(3, None)]


_LINES = ["\n", "{broken\n", '["no object"]\n', '{"id": "e", "text": " "}\n', "\r\n", '{"text": "no id"}\n']


@settings(max_examples=60, deadline=None)
@given(data=st.data(), compressed=st.booleans(), bom=st.booleans(), split_bytes=st.sampled_from([40, 200, 10**6]))
def test_what_is_read_of_few_lines_is_what_is_read_of_all(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, compressed: bool, bom: bool, split_bytes: int
) -> None:
    texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
    good = st.builds(lambda name, text: json.dumps(document(name, f"x{text}"), ensure_ascii=False) + "\n", texts, texts)
    lines = data.draw(st.lists(good | st.sampled_from(_LINES), min_size=1, max_size=12))
    raw = ("\ufeff" if bom else "").encode() + "".join(lines).encode()
    corpus = tmp_path_factory.mktemp("few") / f"c.jsonl{'.gz' if compressed else ''}"
    corpus.write_bytes(gzip.compress(raw) if compressed else raw)
    shards = tuple(locate([str(corpus)], split_bytes=split_bytes))
    task = replace(_task(corpus), shards=shards)
    fields = FieldMap(text="text", id="id")
    scans = [scan_shard(position, shard, fields, 10_000, None, True)[0][0] for position, shard in enumerate(shards)]
    masks = [np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_)
             for n in (len(scan.ids) for _, scan in scans)]  # fmt: skip
    digests, none = [scan.digest() for _, scan in scans], [np.zeros(0, np.int32)] * len(scans)
    whole = Plan(masks, [~mask for mask in masks], none, digests, np.empty(0, np.uint64), 0, 0, 0, 0)
    few = narrow(whole, scans)
    for position in np.flatnonzero([mask.any() for mask in masks]).tolist():
        assert list(_selected(task, few, position)) == list(_selected(task, whole, position))
        is_little = masks[position].sum() <= len(masks[position]) / 2
        assert (position in few.offsets) is bool(is_little)


def test_a_process_that_cannot_get_ready_keeps_it_to_itself() -> None:
    assert stages._get_ready._function(ModelSettings(model="/nowhere/at/all"), "cpu") is None


def _documents(*texts: str) -> list[Document]:
    return [Document(f"d{i}", "", text, "{}", "s.jsonl", i) for i, text in enumerate(texts)]


def test_what_is_read_ahead_comes_whole_in_its_order_and_before_what_went_wrong() -> None:
    documents = _documents("a", "b", "c", "d", "e")

    def broken() -> Iterator[Document]:
        yield from documents
        raise CorpusChanged("it was rewritten")

    windows = _read_ahead(broken(), 2)
    assert [next(windows), next(windows)] == [documents[:2], documents[2:4]]
    with pytest.raises(CorpusChanged, match="rewritten"):
        next(windows)
    assert [len(window) for window in _read_ahead(iter(documents), 2)] == [2, 2, 1]
    assert list(_read_ahead(iter(()), 2)) == []


class _Failing(Encoder):
    """Gives unit vectors, but for bodies longer than ten tokens values that are not finite."""

    def __init__(self) -> None:
        self.dim = 64
        self.batch_tokens = 1 << 20

    def frame_tokens(self, role: str) -> int:
        return 0

    def _groups(self, lengths):  # type: ignore[no-untyped-def]
        return [list(range(len(lengths)))]

    def _is_out_of_memory(self, error: Exception) -> bool:
        return False

    def _forward(self, bodies, role):  # type: ignore[no-untyped-def]
        vectors = np.zeros((len(bodies), 64), np.float32)
        vectors[:, 0] = [np.nan if len(body) > 10 else 1.0 for body in bodies]
        return vectors, sum(map(len, bodies)), 0


def _encoded(documents: list[Document], *, encoder: Encoder | None = None) -> pa.Table:
    stage = EncodeStage(_SETTINGS, "cpu", "run-1")
    if encoder is not None:
        stage.encoder = encoder
    return stage.encode(_documents_table(documents, open_bundle(_SETTINGS, device="cpu")))


def test_a_document_becomes_a_row_a_chunk() -> None:
    documents = _documents("short", " ".join(f"word{n}" for n in range(60)), "short again")
    rows = _encoded(documents)
    ids, chunks = rows.column("id").to_pylist(), rows.column("chunk").to_pylist()
    num_chunks = ids.count("d1")
    assert num_chunks > 3
    assert ids == ["d0", *["d1"] * num_chunks, "d2"]
    assert chunks == [0, *range(num_chunks), 0]
    vectors = np.asarray(rows.column("vector").to_pylist())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert [json.loads(text)["tokens"] for text in rows.column("stats").to_pylist() if text] == [
        sum(rows.column("num_tokens").to_pylist())
    ]


def test_a_slice_of_a_block_is_its_own_documents() -> None:
    bundle = open_bundle(_SETTINGS, device="cpu")
    table = _documents_table(_documents("one", "two words", "three words here", "four"), bundle)
    stage = EncodeStage(_SETTINGS, "cpu", "run-1")
    whole, part = stage.encode(table), stage.encode(table.slice(1, 2))
    assert part.column("id").to_pylist() == ["d1", "d2"]
    assert part.column("text").to_pylist() == ["two words", "three words here"]
    assert part.column("num_tokens").to_pylist() == whole.column("num_tokens").to_pylist()[1:3]
    assert part.column("vector").to_pylist() == whole.column("vector").to_pylist()[1:3]


def test_a_document_that_fails_in_one_chunk_is_set_aside_whole(tmp_path: Path) -> None:
    documents = _documents("short", " ".join(f"word{n}" for n in range(30)), "fine")
    rows = _encoded(documents, encoder=_Failing())
    assert rows.column("id").to_pylist().count("d1") > 1
    schema = documents_schema(open_bundle(_SETTINGS, device="cpu").identity, encoder="{}")
    (text,) = write_fragments(rows, uri=str(tmp_path / "documents.lance"), schema=schema).column("result").to_pylist()
    result = json.loads(text)
    assert (result["num_documents"], result["num_rows"]) == (2, 2)
    (aside,) = result["rejected"]
    assert (aside["id"], aside["shard"], aside["offset"]) == ("d1", "s.jsonl", 1)
    assert aside["reason"] == Reason.NOT_FINITE
    assert aside["detail"]
    assert aside["text"].startswith("word0")
