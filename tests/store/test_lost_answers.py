"""What Lance makes of a commit whose answer was lost, which the committer relies on; and that its commits land once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lance
import pyarrow as pa
import pytest
from lance.fragment import write_fragments

from infra.s3.fault_plans import Fault, Rule, harmless, scripted
from infra.s3.faults import FaultProxy, running_proxy
from infra.s3.server import S3Server
from pipeline import storage
from pipeline.retry import Failure, classify
from pipeline.storage import lance_options
from pipeline.store.database import Database

pytestmark = pytest.mark.s3
SCHEMA = pa.schema([pa.field("id", pa.int64())])
MANIFEST = r"_versions/\d"


@pytest.fixture
def proxy(s3_server: S3Server, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with running_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def _commit(uri: str, operation: Any, *, read_version: int, name: str = "") -> lance.LanceDataset:
    transaction = lance.Transaction(read_version, operation, transaction_properties={"name": name})
    return lance.LanceDataset.commit(
        uri, transaction, storage_options=lance_options(uri), enable_stable_row_ids=True, max_retries=0
    )


def _table(s3: str) -> tuple[str, Any]:
    """A table without rows, and the append that gives it three."""
    uri = f"{s3}/t.lance"
    _commit(uri, lance.LanceOperation.Overwrite(SCHEMA, []), read_version=0)
    rows = pa.table({"id": [1, 2, 3]}, schema=SCHEMA)
    fragments = write_fragments(
        rows, uri, schema=SCHEMA, enable_stable_row_ids=True, storage_options=lance_options(uri)
    )
    return uri, lance.LanceOperation.Append(fragments)


def _state(uri: str) -> tuple[int, int]:
    dataset = lance.dataset(uri, storage_options=lance_options(uri))
    return int(dataset.version), dataset.count_rows()


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.LOST_ERROR, Fault.LOST_HANG, Fault.SLOW_DOWN, Fault.INTERNAL])
def test_lance_recognises_its_own_commit(
    s3: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(storage, "REQUEST_TIMEOUT_S", 1)
    uri, append = _table(s3)
    proxy.plan = scripted(Rule(fault, "PUT", MANIFEST))
    assert _commit(uri, append, read_version=1).version == 2
    assert [request.fault for request in proxy.injected()] == [fault]
    assert _state(uri) == (2, 3)


def test_a_reset_before_the_effect_is_an_error_and_no_version(s3: str, proxy: FaultProxy) -> None:
    uri, append = _table(s3)
    proxy.plan = scripted(Rule(Fault.RESET, "PUT", MANIFEST))
    with pytest.raises(OSError, match="error sending request") as caught:
        _commit(uri, append, read_version=1)
    assert classify(caught.value) is Failure.TRANSIENT
    assert _state(uri) == (1, 0)


def test_an_outcome_that_cannot_be_looked_up_is_said_to_be_unknown(s3: str, proxy: FaultProxy) -> None:
    uri, append = _table(s3)
    proxy.plan = scripted(Rule(Fault.LOST, "PUT", MANIFEST), Rule(Fault.FORBIDDEN, "HEAD", MANIFEST, times=99))
    with pytest.raises(OSError, match="may or may not have been applied"):
        _commit(uri, append, read_version=1, name="ours")
    proxy.plan = harmless
    assert _state(uri) == (2, 3)
    found = lance.dataset(uri, storage_options=lance_options(uri)).read_transaction(2)
    assert found.transaction_properties == {"name": "ours"}


def test_a_second_commit_of_the_same_rows_doubles_them_whatever_the_version_it_was_made_from(s3: str) -> None:
    uri, append = _table(s3)
    assert _commit(uri, append, read_version=1).version == 2
    assert _commit(uri, append, read_version=1).version == 3
    assert _state(uri) == (3, 6)


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.RESET, Fault.LOST_ERROR, Fault.SLOW_DOWN])
@pytest.mark.parametrize("path", [MANIFEST, "_transactions/", "data/"])
def test_records_are_appended_once(s3: str, proxy: FaultProxy, fault: Fault, path: str) -> None:
    database = Database.at(s3)
    database.append("runs", pa.table({"id": [1]}))
    proxy.plan = scripted(Rule(fault, "PUT", path))
    database.append("runs", pa.table({"id": [2]}))
    assert proxy.injected()
    assert sorted(database.open("runs").to_table()["id"].to_pylist()) == [1, 2]


def test_an_append_that_cannot_be_looked_up_at_once_is_looked_up_later(s3: str, proxy: FaultProxy) -> None:
    database = Database.at(s3)
    database.append("runs", pa.table({"id": [1]}))
    # the answer is lost, and so is every answer to Lance's own three looks at what happened
    proxy.plan = scripted(Rule(Fault.LOST, "PUT", MANIFEST), Rule(Fault.RESET, "HEAD", MANIFEST, times=12))
    database.append("runs", pa.table({"id": [2]}))
    assert sorted(database.open("runs").to_table()["id"].to_pylist()) == [1, 2]
