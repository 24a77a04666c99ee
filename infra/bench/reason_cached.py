"""What a run costs whose trajectories are all cached: queries a second, and that no model is loaded.

    python -m infra.bench.reason_cached --queries 10000 --out infra/bench/results/reason_cached.json

Made-up trajectories of the default model are put into a cache in a process of their own, then `t1 reason` is run over
their queries, from a file, as its users would. What is measured is the command from its start to its end, and the run
inside it, which leaves out starting Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from infra.bench.command import Benchmark
from infra.bench.scale import machine
from infra.bench.scale_corpus import Prose

BAR = 1_000.0
_FILL = 10_000
# Says on stderr which heavy libraries the run has loaded, after its account on stdout.
_RUN = "import sys; from jobs.cli import _run; code = _run(sys.argv[1:]); print({'torch', 'ray'} & set(sys.modules), file=sys.stderr); sys.exit(code)"  # noqa: E501


def fill(db: str, texts: list[str]) -> None:
    """A trajectory and a vector for each query, under the keys that `t1 reason` looks for."""
    from pipeline.model.bundle import open_bundle
    from pipeline.model.reasoning import open_reasoner
    from pipeline.query_settings import ReasonSettings
    from pipeline.records import FinishReason, Query, Trajectory
    from pipeline.settings import ModelSettings
    from pipeline.store.database import Database
    from pipeline.store.trajectories import Cached, TrajectoryCache

    bundle = open_reasoner(ReasonSettings(), ModelSettings(), device="cpu")
    identity = open_bundle(ModelSettings(), device="cpu").identity
    vector = np.full(identity.dim, identity.dim**-0.5, np.float32)
    cache = TrajectoryCache(Database.at(db))
    for begin in range(0, len(texts), _FILL):
        queries = [Query("", text) for text in texts[begin : begin + _FILL]]
        cache.add([
            Cached(
                Trajectory(
                    bundle.key(query), query.text, "", f"It is about {query.text}", 120, FinishReason.STOP,
                    bundle.fingerprint(query), bundle.source, bundle.sampling,
                ),
                vector, identity.fingerprint,
            )
            for query in queries
        ])  # fmt: skip


@click.command(cls=Benchmark)
@click.option("--queries", "num_queries", default=10_000, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False))
def main(num_queries: int, out: str | None) -> None:
    """Measures a run whose trajectories are all cached."""
    texts = sorted(set(Prose().texts(num_queries, seed=1)))
    with tempfile.TemporaryDirectory() as folder:
        db, file = str(Path(folder) / "db"), Path(folder) / "queries.txt"
        file.write_text("\n".join(texts), encoding="utf-8")
        fill(db, texts)
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _RUN, "reason", "--db", db, "--file", str(file), "--quiet"],
            capture_output=True, text=True, check=True, env=os.environ,
        )  # fmt: skip
        wall_s = time.perf_counter() - begin
    report, loaded = json.loads(done.stdout), done.stderr.strip().splitlines()[-1]
    if report["num_cached"] != len(texts) or "torch" in loaded:
        raise RuntimeError(f"expected {len(texts)} cached and no torch, found {report['num_cached']} and {loaded}")
    found = {
        "hardware": machine(len(os.sched_getaffinity(0))),
        "command": " ".join(["python -m infra.bench.reason_cached", *sys.argv[1:]]),
        "queries": len(texts), "seconds": report["seconds"], "wall_seconds": wall_s,
        "queries_per_s": len(texts) / report["seconds"], "queries_per_s_with_start": len(texts) / wall_s, "bar": BAR,
    }  # fmt: skip
    click.echo(f"{len(texts):,} cached queries: {found['queries_per_s']:,.0f} queries/s (bar {BAR:,.0f}), "
               f"{found['queries_per_s_with_start']:,.0f} with the start of Python")  # fmt: skip
    if out:
        Path(out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
