"""The S3 server on loopback behaves as the pipeline needs an object store to, and `pipeline.storage` reaches it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lance
import psutil
import pyarrow as pa
import pytest
import s3fs
from botocore.exceptions import ClientError

from infra.s3.server import BUCKET, S3Server, running_s3
from pipeline.storage import join, lance_options, open_filesystem

pytestmark = pytest.mark.s3


def _table(num_rows: int) -> pa.Table:
    vectors = pa.array([[float(row), 1.0] for row in range(num_rows)], pa.list_(pa.float32(), 2))
    return pa.table({"id": [str(row) for row in range(num_rows)], "vector": vectors})


def test_what_is_put_is_got_and_listed(s3: str) -> None:
    fs, root = open_filesystem(s3)
    payload = os.urandom(6 * 2**20)  # more than one part
    fs.pipe_file(f"{root}/a/one.bin", payload)
    fs.pipe_file(f"{root}/a/two.bin", b"2")
    assert fs.cat_file(f"{root}/a/one.bin") == payload
    assert fs.find(root) == [f"{root}/a/one.bin", f"{root}/a/two.bin"]


def test_a_listing_is_never_stale(s3: str, s3_server: S3Server) -> None:
    fs, root = open_filesystem(s3)
    fs.pipe_file(f"{root}/one", b"1")
    assert fs.find(root) == [f"{root}/one"]
    s3_server.client().put_object(Bucket=BUCKET, Key=f"{root.removeprefix(BUCKET + '/')}/two", Body=b"2")
    assert fs.find(root) == [f"{root}/one", f"{root}/two"]


def test_lance_takes_credentials_from_the_environment_only(s3: str, s3_server: S3Server) -> None:
    uri = join(s3, "documents.lance")
    options = lance_options(uri)
    assert s3_server.secret_key not in options.values()
    assert s3_server.access_key not in options.values()
    lance.write_dataset(_table(3), uri, storage_options=options)
    lance.write_dataset(_table(2), uri, mode="append", storage_options=options)
    dataset = lance.dataset(uri, storage_options=options)
    assert dataset.version == 2
    assert dataset.count_rows() == 5
    assert dataset.to_table(columns=["id"])["id"].to_pylist() == ["0", "1", "2", "0", "1"]


def test_appends_of_many_threads_all_land(s3: str) -> None:
    uri = join(s3, "documents.lance")
    options = lance_options(uri)
    lance.write_dataset(_table(1), uri, storage_options=options)
    with ThreadPoolExecutor(4) as pool:
        for future in [
            pool.submit(lance.write_dataset, _table(2), uri, mode="append", storage_options=options) for _ in range(8)
        ]:
            future.result()
    assert lance.dataset(uri, storage_options=options).count_rows() == 1 + 8 * 2


def test_a_conditional_put_has_one_winner(s3: str, s3_server: S3Server) -> None:
    key = f"{s3.removeprefix(f's3://{BUCKET}/')}/lease"
    clients = [s3_server.client() for _ in range(8)]
    start = threading.Barrier(len(clients))

    def put(number: int) -> bool:
        start.wait()
        try:
            clients[number].put_object(Bucket=BUCKET, Key=key, Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"PreconditionFailed", "ConditionalRequestConflict"}:
                raise
            return False
        return True

    with ThreadPoolExecutor(len(clients)) as pool:
        winners = [number for number, won in enumerate(pool.map(put, range(len(clients)))) if won]
    assert len(winners) == 1
    assert clients[0].get_object(Bucket=BUCKET, Key=key)["Body"].read() == str(winners[0]).encode()


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_refused(s3: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    fs, root = open_filesystem(s3)
    with pytest.raises(PermissionError):
        fs.pipe_file(f"{root}/one", b"1")
    with pytest.raises(OSError, match=r"403|Forbidden|denied|InvalidAccessKeyId|SignatureDoesNotMatch"):
        lance.write_dataset(_table(1), join(s3, "documents.lance"), storage_options=lance_options(s3))
    s3fs.S3FileSystem.clear_instance_cache()


def test_nothing_is_left_of_a_server_but_its_data(tmp_path: Path) -> None:
    with running_s3(tmp_path) as server:
        process = psutil.Process(server.pid)
        ports = {connection.laddr.port for connection in process.net_connections() if connection.status == "LISTEN"}
        assert process.is_running()
    assert not psutil.pid_exists(server.pid)
    assert not [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]


@pytest.mark.slow
def test_data_outlives_the_server(tmp_path: Path) -> None:
    with running_s3(tmp_path) as server:
        server.client().put_object(Bucket=BUCKET, Key="kept", Body=b"kept")
    with running_s3(tmp_path) as again:
        assert again.endpoint == server.endpoint
        assert again.client().get_object(Bucket=BUCKET, Key="kept")["Body"].read() == b"kept"


def test_its_secret_is_for_its_owner(s3_server: S3Server) -> None:
    assert s3_server.secret_key not in repr(s3_server)
    assert (s3_server.folder / "s3.json").stat().st_mode & 0o077 == 0
    assert s3_server.secret_key not in " ".join(psutil.Process(s3_server.pid).cmdline())


def test_every_port_is_chosen_and_on_loopback(s3_server: S3Server) -> None:
    addresses = [c.laddr for c in psutil.Process(s3_server.pid).net_connections("inet") if c.status == "LISTEN"]
    assert {address.ip for address in addresses} == {"127.0.0.1"}
    assert not {9333, 19333, 8080, 18080, 8888, 18888, 8333, 18333, 8181, 9101} & {a.port for a in addresses}


def test_served_in_the_foreground_it_prints_the_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "infra.s3.server", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        process.terminate()
        assert process.wait(30) == 0
    assert [line.split("=")[0] for line in lines][:3] == [
        "export AWS_ACCESS_KEY_ID",
        "export AWS_SECRET_ACCESS_KEY",
        "export AWS_ENDPOINT_URL",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_while_it_starts_it_leaves_no_server(tmp_path: Path, number: signal.Signals) -> None:
    """At the first line of the server's log, before it answers."""
    command = [sys.executable, "-m", "infra.s3.server", str(tmp_path)]
    log = tmp_path / "weed.log"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (log.exists() and log.stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (server,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        said, complaints = process.communicate(timeout=60)
    assert (process.returncode, said, complaints) == (0, "", "")
    assert not server.is_running()
