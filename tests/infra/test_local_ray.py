"""The shared local Ray runs the pipeline's code, and its workers reach the object store that the tests use."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.usefixtures("local_ray")]


def test_a_worker_reads_what_the_driver_wrote(s3: str) -> None:
    import ray

    from pipeline.storage import open_filesystem

    fs, root = open_filesystem(s3)
    fs.pipe_file(f"{root}/one", b"1")

    @ray.remote
    def read() -> bytes:
        worker_fs, worker_root = open_filesystem(s3)
        return bytes(worker_fs.cat_file(f"{worker_root}/one"))

    assert ray.get(read.remote()) == b"1"


def test_it_has_two_cpus_and_no_one_elses_nodes() -> None:
    import ray

    assert ray.cluster_resources()["CPU"] == 2
    assert len(ray.nodes()) == 1
