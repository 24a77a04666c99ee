"""The fault proxy passes everything on byte for byte, and each fault does what its name says."""

from __future__ import annotations

import http.client
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.s3.fault_plans import Fault, Rule, at_random, harmless, scripted
from infra.s3.faults import FaultProxy, running_proxy
from infra.s3.server import BUCKET, REGION, S3Server

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def shared_proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with running_proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy: FaultProxy) -> Iterator[FaultProxy]:
    shared_proxy.handled.clear()
    yield shared_proxy
    shared_proxy.plan = harmless


@pytest.fixture(scope="module")
def through(s3_server: S3Server, shared_proxy: FaultProxy) -> Any:
    return _client(s3_server, shared_proxy.endpoint)


def _client(server: S3Server, endpoint: str, *, read_timeout_s: float = 5) -> Any:
    """A client without retries, so that a test sees what the proxy did."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=REGION,
        config=Config(connect_timeout=5, read_timeout=read_timeout_s, retries={"total_max_attempts": 1}),
    )


def _key() -> str:
    return f"faults/{uuid.uuid4().hex}"


def _exists(server: S3Server, key: str) -> bool:
    return "Contents" in server.client().list_objects_v2(Bucket=BUCKET, Prefix=key)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=4096) | st.integers(100_000, 300_000).map(random.Random(1).randbytes), data=st.data())
def test_bodies_and_ranges_come_through_byte_for_byte(
    s3_server: S3Server, through: Any, body: bytes, data: st.DataObject
) -> None:
    key = _key()
    through.put_object(Bucket=BUCKET, Key=key, Body=body, Metadata={"kind": "any"})
    assert s3_server.client().get_object(Bucket=BUCKET, Key=key)["Body"].read() == body
    found = through.get_object(Bucket=BUCKET, Key=key)
    assert (found["Body"].read(), found["Metadata"]) == (body, {"kind": "any"})
    assert through.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == len(body)
    if body:
        first = data.draw(st.integers(0, len(body) - 1))
        last = data.draw(st.integers(first, len(body) - 1))
        part = through.get_object(Bucket=BUCKET, Key=key, Range=f"bytes={first}-{last}")["Body"].read()
        assert part == body[first : last + 1]


@settings(max_examples=20, deadline=None)
@given(names=st.lists(st.sampled_from(["a", "b b", "c+c", "d%2Fd", "é"]), min_size=1, max_size=8))
def test_a_conditional_put_succeeds_once_a_name(through: Any, names: list[str]) -> None:
    prefix = _key()
    first: dict[str, bytes] = {}
    for number, name in enumerate(names):
        body = str(number).encode()
        put = partial(through.put_object, Bucket=BUCKET, Key=f"{prefix}/{name}", Body=body, IfNoneMatch="*")
        if name in first:
            with pytest.raises(ClientError, match="PreconditionFailed"):
                put()
        else:
            put()
            first[name] = body
    listed = through.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")["Contents"]
    assert {item["Key"] for item in listed} == {f"{prefix}/{name}" for name in first}
    for name, body in first.items():
        assert through.get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read() == body


def test_several_parts_and_many_clients_at_once(s3_server: S3Server, proxy: FaultProxy, tmp_path: Path) -> None:
    body = random.Random(2).randbytes(9 * 2**20)
    (tmp_path / "body").write_bytes(body)
    client, key = _client(s3_server, proxy.endpoint), _key()
    client.upload_file(str(tmp_path / "body"), BUCKET, key)
    assert any("uploadId" in request.path for request in proxy.handled)
    client.download_file(BUCKET, key, str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == body


def test_connections_are_kept_and_a_chunked_body_is_passed_on(proxy: FaultProxy) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(proxy.endpoint.rsplit(":", 1)[1]), timeout=10)
    try:
        for _ in range(3):
            connection.request("PUT", "/t1-local/unsigned", body=iter([b"one", b"two" * 1000]), encode_chunked=True)
            answer = connection.getresponse()
            assert answer.status == 403  # unsigned: what matters is that the server read it to its end
            assert b"<Error>" in answer.read()
    finally:
        connection.close()
    assert [request.method for request in proxy.handled] == ["PUT"] * 3


@pytest.mark.parametrize(
    ("fault", "code", "status"),
    [
        (Fault.SLOW_DOWN, "SlowDown", 503),
        (Fault.INTERNAL, "InternalError", 500),
        (Fault.FORBIDDEN, "AccessDenied", 403),
        (Fault.NO_BUCKET, "NoSuchBucket", 404),
        (Fault.LOST_ERROR, "InternalError", 500),
    ],
)
def test_errors_are_s3s_own(
    s3_server: S3Server, proxy: FaultProxy, through: Any, fault: Fault, code: str, status: int
) -> None:
    key = _key()
    proxy.plan = scripted(Rule(fault, "PUT", key))
    with pytest.raises(ClientError) as caught:
        through.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert _exists(s3_server, key) == (fault is Fault.LOST_ERROR)
    through.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    assert [(r.method, r.fault) for r in proxy.handled] == [("PUT", fault), ("PUT", None)]
    assert [r.fault for r in proxy.injected()] == [fault]


@pytest.mark.parametrize(("fault", "takes_effect"), [(Fault.RESET, False), (Fault.LOST, True)])
def test_a_reset_comes_before_or_after_the_effect(
    s3_server: S3Server, proxy: FaultProxy, through: Any, fault: Fault, takes_effect: bool
) -> None:
    key = _key()
    proxy.plan = scripted(Rule(fault, "PUT", key))
    with pytest.raises(ConnectionClosedError):
        through.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    assert _exists(s3_server, key) == takes_effect


def test_a_late_request_takes_effect_after_its_client_was_told_otherwise(
    s3_server: S3Server, proxy: FaultProxy, through: Any
) -> None:
    key = _key()
    proxy.plan = scripted(Rule(Fault.LATE, "PUT", key, seconds=0.3))
    with pytest.raises(ConnectionClosedError):
        through.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    deadline = time.monotonic() + 30
    while not _exists(s3_server, key):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_truncated_body_is_shorter_than_it_was_said_to_be(proxy: FaultProxy, through: Any) -> None:
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    key = _key()
    through.put_object(Bucket=BUCKET, Key=key, Body=b"x" * 1000)
    proxy.plan = scripted(Rule(Fault.TRUNCATED, "GET", key))
    found = through.get_object(Bucket=BUCKET, Key=key)
    assert found["ContentLength"] == 1000
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        found["Body"].read()
    assert through.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"x" * 1000


@pytest.mark.parametrize(("fault", "takes_effect"), [(Fault.HANG, False), (Fault.LOST_HANG, True)])
def test_silence_lasts_until_the_client_gives_up(
    s3_server: S3Server, proxy: FaultProxy, fault: Fault, takes_effect: bool
) -> None:
    key = _key()
    impatient = _client(s3_server, proxy.endpoint, read_timeout_s=1)
    proxy.plan = scripted(Rule(fault, "PUT", key))
    with pytest.raises(ReadTimeoutError):
        impatient.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    assert _exists(s3_server, key) == takes_effect


def test_latency_changes_nothing_but_the_time(proxy: FaultProxy, through: Any) -> None:
    key = _key()
    proxy.plan = scripted(Rule(Fault.LATENCY, "PUT", key, seconds=0.2))
    started = time.monotonic()
    through.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    assert time.monotonic() - started >= 0.2
    assert [r.fault for r in proxy.injected()] == [Fault.LATENCY]


def test_rules_count_every_match() -> None:
    plan = scripted(Rule(Fault.RESET, "PUT", r"_versions/", nth=2, times=2), Rule(Fault.HANG, path="b$", seconds=1))
    calls = [("PUT", "/_versions/a"), ("GET", "/_versions/a"), *[("PUT", "/_versions/b")] * 3]
    found = [injection and injection.fault for injection in (plan(*call) for call in calls)]
    assert found == [None, None, Fault.RESET, Fault.RESET, None]


def test_a_seed_decides_and_rates_are_kept() -> None:
    rates = {Fault.RESET: 0.1, Fault.TRUNCATED: 0.1, Fault.LATENCY: 0.05}

    def draw(seed: int) -> list[Fault | None]:
        plan = at_random(rates, seed=seed, seconds=0.1)
        return [
            injection.fault if (injection := plan("GET" if number % 2 else "PUT", "/x")) else None
            for number in range(4000)
        ]

    assert draw(1) == draw(1) != draw(2)
    counts = Counter(draw(1))
    assert 300 < counts[Fault.RESET] < 500
    assert 130 < counts[Fault.TRUNCATED] < 270  # half of the requests are GET
    assert 130 < counts[Fault.LATENCY] < 270


def test_stopping_ends_a_silence_and_every_thread(s3_server: S3Server) -> None:
    before = set(threading.enumerate())
    failed = threading.Event()

    def ask(endpoint: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", int(endpoint.rsplit(":", 1)[1]), timeout=60)
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except OSError:
            failed.set()
        finally:
            connection.close()

    with running_proxy(s3_server.endpoint, scripted(Rule(Fault.HANG))) as proxy:
        client = threading.Thread(target=ask, args=(proxy.endpoint,))
        client.start()
        deadline = time.monotonic() + 30
        while not proxy.handled:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    client.join(30)
    assert failed.is_set()
    assert set(threading.enumerate()) <= before
