"""`t1 reason` whose driver or actor dies at any moment, or that another runs beside: each trajectory is there once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.query_settings import load_query_settings
from pipeline.records import Query
from pipeline.store.database import Database
from pipeline.store.trajectories import TrajectoryCache
from tests.crash.harness import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.s3]  # S3, as the cluster has it for the tests beside this one

DRIVER = Path(__file__).with_name("reason_driver.py")
RUN_TIMEOUT_S = 120
_LOOK_S = 0.02
BATCH, BATCHES_IN_FLIGHT = 12, 2
# An actor's death loses what its batches in flight have generated and not written yet; of a batch, at most all.
MAX_LOST = BATCH * BATCHES_IN_FLIGHT
SETTINGS = f"""
[encoder]
model = "hashing://64"
[reason]
engine = "echo"
batch_queries = {BATCH}
[reason.sampling]
max_tokens = 4096
"""
TASKS = ("biology", "pony", "")


@dataclass(slots=True)
class Trial:
    """One database, and the runs on it."""

    folder: Path
    address: str
    answer_s: float = 0.02
    num_runs: int = 0
    num_kills: int = 0

    @property
    def db(self) -> Path:
        return self.folder / "db"

    @property
    def generated(self) -> Counter[str]:
        """How often each trajectory was generated, by whichever run."""
        log = self.folder / "generated"
        return Counter(log.read_text().split() if log.exists() else ())

    @contextmanager
    def started(self, queries: Sequence[Query]) -> Iterator[subprocess.Popen[bytes]]:
        """A run that reasons about these; ended with the block."""
        self.num_runs += 1
        stem = self.folder / str(self.num_runs)
        stem.with_suffix(".toml").write_text(SETTINGS)
        rows = [{"id": query.id, "text": query.text, "task": query.task} for query in queries]
        stem.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        orders = {
            "answer_s": self.answer_s, "generated": str(self.folder / "generated"),
            "arguments": ["--db", str(self.db), "--settings", f"{stem}.toml", "--file", f"{stem}.jsonl",
                          "--address", self.address],
        }  # fmt: skip
        with stem.with_suffix(".err").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, str(DRIVER), json.dumps(orders)], cwd=ROOT, stdout=subprocess.PIPE, stderr=said,
                stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        assert process.stdout is not None
        with process.stdout:
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def await_in(self, process: subprocess.Popen[bytes], condition: Callable[[], Any]) -> Any:
        """What a condition gives, once it gives something; None where the run ended before."""
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while process.poll() is None:
            if found := condition():
                return found
            assert time.monotonic() < deadline, self.said()
            time.sleep(_LOOK_S)
        return None

    def dies_after(self, num_answers: int, queries: Sequence[Query]) -> bool:
        """A run that is killed once so many more answers were generated, or at their last; False where it ended."""
        before = self.generated.total()
        with self.started(queries) as process:
            self.await_in(process, lambda: self.generated.total() - before >= num_answers)
            if process.poll() is not None:
                assert process.returncode == 0, self.said()
                return False
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.num_kills += 1
        return True

    def report_of(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """The account of a run that ends well."""
        out, _ = process.communicate(timeout=RUN_TIMEOUT_S)
        assert process.returncode == 0, self.said()
        (line,) = out.splitlines()
        report: dict[str, Any] = json.loads(line)
        return report

    def said(self) -> str:
        """What the runs said, the end of each."""
        return "".join(f"\n{file.name}: {file.read_text()[-2_000:]}" for file in sorted(self.folder.glob("*.err")))


@pytest.fixture
def trial(cluster: Any, tmp_path: Path) -> Trial:
    return Trial(tmp_path, cluster.address)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ReasonerBundle:
    """Of the runs."""
    file = tmp_path_factory.mktemp("settings") / "t1.toml"
    file.write_text(SETTINGS)
    settings = load_query_settings(str(file), {"db": "unused"})
    return open_reasoner(settings.reason, settings.encoder, device="cpu")


def _queries(numbers: range) -> list[Query]:
    return [Query(str(number), f"what is {number}?", task=TASKS[number % len(TASKS)]) for number in numbers]


def _as_if_undisturbed(trial: Trial, bundle: ReasonerBundle, queries: Sequence[Query]) -> None:
    """The cache has the echo of each query, once, with a vector, and nothing else."""
    rows = [row for batch in TrajectoryCache(Database.at(str(trial.db))).batches() for row in batch.to_pylist()]
    found = {row["key"]: row["trajectory"] for row in rows}
    assert len(found) == len(rows), "a key is there twice"
    assert found == {bundle.key(q): bundle.tokenizer.decode(bundle.prompt_ids(q)).strip() for q in queries}
    assert all(row["finish_reason"] == "stop" and len(row["vector"]) == 64 for row in rows)
    assert len(trial.generated) == len(queries)


def _num_repeated(trial: Trial) -> int:
    return trial.generated.total() - len(trial.generated)


def _adds_up(report: dict[str, Any], num: int) -> None:
    assert report["num_cached"] + report["num_generated"] == report["num_trajectories"] == num
    assert report["finish_reasons"] == {"stop": num}


def _actors(cluster: Any) -> list[psutil.Process]:
    """Processes that reason."""
    found = []
    for node in cluster.worker_nodes:
        (raylet,) = node.all_processes["raylet"]
        for child in psutil.Process(raylet.process.pid).children(recursive=True):
            try:
                title = " ".join(child.cmdline())
            except psutil.NoSuchProcess:
                continue
            if title.startswith("ray::") and "ReasonStage" in title:
                found.append(child)
    return found


def _kill_drivers(trial: Trial, bundle: ReasonerBundle, chooser: random.Random, *, num: int, num_kills: int) -> None:
    queries = _queries(range(num))
    while trial.num_kills < num_kills and trial.dies_after(chooser.randint(1, num // 2), queries):
        pass
    with trial.started(queries) as process:
        report = trial.report_of(process)
    _adds_up(report, num)
    assert trial.num_kills > 0
    _as_if_undisturbed(trial, bundle, queries)
    assert _num_repeated(trial) <= trial.num_kills * MAX_LOST


@pytest.mark.timeout(600)
def test_a_driver_that_dies(trial: Trial, bundle: ReasonerBundle) -> None:
    _kill_drivers(trial, bundle, random.Random(4), num=120, num_kills=3)


@pytest.mark.timeout(600)
def test_an_actor_that_dies(cluster: Any, trial: Trial, bundle: ReasonerBundle) -> None:
    _kill_actors(cluster, trial, bundle, random.Random(5), num=160, num_kills=3)


def _kill_actors(
    cluster: Any, trial: Trial, bundle: ReasonerBundle, chooser: random.Random, *, num: int, num_kills: int
) -> None:
    queries = _queries(range(num))
    with trial.started(queries) as process:
        while trial.num_kills < num_kills:
            wanted = trial.generated.total() + chooser.randint(1, num // num_kills)

            def victims(least: int = wanted) -> list[psutil.Process]:
                return _actors(cluster) if trial.generated.total() >= least else []

            found = trial.await_in(process, victims)
            if not found:
                break
            for victim in found:
                victim.kill()
            trial.num_kills += 1
        report = trial.report_of(process)
    _adds_up(report, num)
    assert trial.num_kills > 0
    _as_if_undisturbed(trial, bundle, queries)
    assert _num_repeated(trial) <= trial.num_kills * MAX_LOST


@pytest.mark.timeout(600)
def test_two_at_once_on_queries_that_overlap(trial: Trial, bundle: ReasonerBundle) -> None:
    with trial.started(_queries(range(90))) as one, trial.started(_queries(range(40, 130))) as two:
        reports = [trial.report_of(process) for process in (one, two)]
    for report in reports:
        _adds_up(report, 90)
    _as_if_undisturbed(trial, bundle, _queries(range(130)))


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("seed", range(5))
def test_many_deaths(cluster: Any, trial: Trial, bundle: ReasonerBundle, seed: int) -> None:
    chooser = random.Random(seed)
    _kill_drivers(trial, bundle, chooser, num=400, num_kills=8)
    other = Trial(trial.folder / "actors", trial.address)
    other.folder.mkdir()
    _kill_actors(cluster, other, bundle, chooser, num=600, num_kills=6)
