"""Fixtures that are dear to start and shared by all: an S3 server, a local Ray, a model cache, real collections.

No test reads or writes anything of the person who runs it: not their model cache, not their cloud credentials, not a
Ray cluster that their shell points at.
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.s3.server import BUCKET, S3Server, running_s3

_NOT_OURS = ("AWS_", "RAY_", "HF_")


def pytest_configure(config: pytest.Config) -> None:
    """Seals the environment before any test module, and so any library that reads it at import, is loaded."""
    for name in [name for name in os.environ if name.startswith(_NOT_OURS)]:
        del os.environ[name]
    assert config.cache is not None
    private = config.cache.mkdir("t1")
    # A token of the tests' own, so that Ray neither reads nor makes one in the home folder.
    token = private / "ray_auth_token"
    # Kept between runs: a second run beside this one must not change the token that this one's Ray was started with.
    if not token.is_file():
        fresh = token.with_name(f"{token.name}.{os.getpid()}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_hex(32))
        fresh.rename(token)
    os.environ.update(
        # Kept between runs: converting the default model costs half a minute, loading what was converted three seconds.
        T1_CACHE=os.environ.get("T1_CACHE") or str(private / "cache"),
        HF_HOME=str(private / "huggingface"),
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        AWS_EC2_METADATA_DISABLED="true",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_USAGE_STATS_ENABLED="0",
        TOKENIZERS_PARALLELISM="false",
    )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for the whole run. Tests want `s3` instead, unless they mean the server itself."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix `s3://bucket/uuid`; the environment leads to its server for the length of the test."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def local_ray(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray with two CPUs on this machine, shared by the run; ended by `ray.shutdown`, which ends nothing but itself."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        # Workers inherit the environment of this moment: what a later test sets does not reach them.
        if any({"local_ray", "s3"} <= set(getattr(item, "fixturenames", ())) for item in request.session.items):
            for name, value in request.getfixturevalue("s3_server").environment.items():
                patch.setenv(name, value)
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=300 * 2**20,
            include_dashboard=False,
            logging_level="warning",
            log_to_driver=False,
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shared_data(pytestconfig: pytest.Config) -> Path:
    """The folder of real collections: `T1_SHARED_DATA`, else `../shared/data` beside the repository."""
    folder = Path(os.environ.get("T1_SHARED_DATA") or pytestconfig.rootpath.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no collections at {folder}; set T1_SHARED_DATA to a folder that has them")
    return folder
