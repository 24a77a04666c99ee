"""A Ray cluster on this machine, databases on it to crash, and what they ought to hold."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.s3.server import S3Server
from tests.crash.corpora import write_corpus
from tests.crash.harness import ROOT, Table, Trial

NewTrial = Callable[..., Trial]
NODE = {"num_cpus": 2, "object_store_memory": 150 * 2**20}


@pytest.fixture(scope="session")
def cluster(s3_server: S3Server) -> Iterator[Any]:
    """A head that runs drivers only, and two nodes; this process is not connected to it, drivers join by address."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves the log files of its processes open
        # Nodes, and the workers they start, inherit the environment of this moment.
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(ROOT))
        # a node that is gone is missed after seconds, not after a quarter of a minute
        watchful = {"health_check_period_ms": 1_000, "health_check_failure_threshold": 3}
        head = NODE | {"num_cpus": 0, "include_dashboard": False, "_system_config": watchful}
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                made.add_node(**NODE)
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def new_trial(cluster: Any, tmp_path: Path) -> NewTrial:
    """A new database, on the cluster and in a local folder unless told otherwise, and its corpus."""

    def make(base: str = "", *, address: str | None = cluster.address, **more: Any) -> Trial:
        base = base or str(tmp_path)
        write_corpus(f"{base}/corpus")
        return Trial(tmp_path / "logs", f"{base}/corpus", f"{base}/db", address, **more)

    return make


@pytest.fixture(scope="session")
def undisturbed(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Table]:
    """For each edition of the corpus, what is published when nobody disturbs: the first, then the second."""
    from pipeline.flows.index import index
    from pipeline.settings import load_settings

    folder = tmp_path_factory.mktemp("undisturbed")
    trial = Trial(folder, str(folder / "corpus"), str(folder / "db"), None)
    tables = {}
    for edition in (1, 2):
        write_corpus(trial.corpus, edition=edition)
        index(load_settings(None, trial.settings()), quiet=True)
        tables[edition] = Table.of(trial.db)
    return tables
