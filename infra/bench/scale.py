"""How a run scales: documents a second, driver memory, commit time, what an unchanged and a changed corpus cost.

    python -m infra.bench.scale --documents 100000 --documents 1000000 --out infra/bench/results/scale.json

For each size: a generated corpus is indexed with the hashing encoder (plumbing only, so that what is measured is
everything but a model; texts are tokenised by the default model's tokenizer), indexed again unchanged, and again with
one document in a hundred changed in place. The first run and the changed one are made three times, each first run into
a table of its own, each change upon the one before; the middle one counts, and the commits of all. Prints a table, and
what 100 million documents would need by these slopes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from infra.bench.command import Benchmark
from infra.bench.scale_corpus import Prose, change_documents, write_corpus
from infra.bench.scale_facts import commits, facts, memory
from infra.bench.scale_run import Watched, watched_run
from pipeline.model.builtin import default_model

_TARGET_DOCUMENTS = 100_000_000
_CHANGED_SHARE = 0.01
# Five times the commits that the default makes, so that a slope would show; each takes half of it.
_COMMIT_ROWS = 20_000
_DIM = 64
# Hashing takes a twentieth of what tokenising does, so the readers get the rest of the cores.
_ENCODER_CPUS = 0.25


def machine(cores: int) -> str:
    """What this was measured on."""
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{cores} of {os.cpu_count()} cores, {names[0] if names else platform.machine()}, Python {sys.version[:6]}"


def measure(folder: Path, prose: Prose, *, documents: int, cores: int, repeats: int) -> dict[str, Any]:
    """The three kinds of run of one size, as facts."""
    corpus = folder / "corpus"
    corpus_bytes = write_corpus(corpus, prose, documents=documents)
    num_changed = max(1, int(documents * _CHANGED_SHARE))
    firsts, nights, db = [], [], folder / "db"
    for _ in range(repeats):
        shutil.rmtree(db, ignore_errors=True)
        firsts.append(_index(folder, corpus, db, cores=cores, encoded=documents))
    table_bytes = {part.name: _size(part) for part in sorted((db / "documents.lance").iterdir())}
    again = _index(folder, corpus, db, cores=cores, encoded=0)
    for night in range(1, repeats + 1):
        shards = change_documents(corpus, prose, documents=documents, changed=num_changed, night=night)
        nights.append(_index(folder, corpus, db, cores=cores, encoded=num_changed))
    first, changed = _middle(firsts), _middle(nights)
    return {
        "documents": documents,
        "corpus_bytes": corpus_bytes,
        "table_bytes": table_bytes,
        "tokens_per_document": first.report["num_tokens"] / documents,
        "changed_shards": shards,
        "first": facts(first) | _each(firsts) | {"memory": memory(first), "commits": commits(firsts)},
        "again": facts(again),
        "changed": facts(changed) | _each(nights),
    }


def _index(folder: Path, corpus: Path, db: Path, *, cores: int, encoded: int) -> Watched:
    settings = folder / "index.toml"
    settings.write_text(
        f'db = "{db}"\n[corpus]\nuris = ["{corpus}"]\n[encoder]\nmodel = "hashing://{_DIM}"\n'
        f'[pool]\ndevice = "cpu"\ncpus_per_encoder = {_ENCODER_CPUS}\n[commit]\nmax_rows = {_COMMIT_ROWS}\n'
    )
    run = watched_run(settings, cores=cores)
    if run.report["documents_encoded"] != encoded:
        raise RuntimeError(f"{run.report['documents_encoded']} documents encoded, expected {encoded}")
    return run


def _middle(runs: list[Watched]) -> Watched:
    return sorted(runs, key=lambda run: float(run.report["seconds"]))[len(runs) // 2]


def _each(runs: list[Watched]) -> dict[str, Any]:
    return {"each_seconds": [run.report["seconds"] for run in runs]}


def extrapolate(small: dict[str, Any], large: dict[str, Any]) -> dict[str, Any]:
    """What the target size would need, by the slopes between two sizes."""
    more = large["documents"] - small["documents"]

    def slope(run: str, value: str) -> float:
        return float((large[run][value] - small[run][value]) / more)

    cores = large["cores"]
    whole = _TARGET_DOCUMENTS
    table = sum(large["table_bytes"].values()) / large["documents"]
    commit = large["first"]["commits"]
    return {
        "documents": whole,
        "first_run_hours_on_these_cores": whole * slope("first", "seconds") / 3600,
        "first_run_cpu_hours": whole * slope("first", "cpu_seconds") / 3600,
        "first_run_documents_per_s_and_core": 1 / slope("first", "seconds") / cores,
        "unchanged_run_minutes_on_these_cores": whole * slope("again", "seconds") / 60,
        "object_store_bytes_for_hashes": whole * 32,
        "driver_bytes": large["first"]["driver_peak_bytes"]
        + max(0.0, slope("first", "driver_peak_bytes")) * (whole - large["documents"]),
        "largest_worker_bytes": large["first"]["worker_peak_bytes"]
        + max(0.0, slope("again", "worker_peak_bytes")) * (whole - large["documents"]),
        "last_commit_ms_at_100000_rows_a_commit": commit["median_ms"]
        + max(0.0, commit["slope_ms_per_commit"]) * whole / 100_000,
        "table_gigabytes": table * whole / 1e9,
    }


def bars(small: dict[str, Any], large: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """What was promised: (found, bound)."""
    first, commit = large["first"], large["first"]["commits"]
    growth = first["driver_peak_bytes"] / small["first"]["driver_peak_bytes"] - 1
    encoding = first["memory"]["bytes_by_fifth"][-1] / small["first"]["memory"]["bytes_by_fifth"][-1] - 1
    return {
        "first run, documents/s, at least": (first["documents_per_s"], 5_000),
        "nothing changed, documents/s, at least": (large["again"]["documents_per_s"], 50_000),
        "1 % changed, share of the first run, at most": (large["changed"]["seconds"] / first["seconds"], 0.03),
        "driver memory, growth while encoding, at most": (first["memory"]["growth"], 0.10),
        "driver memory while encoding, between the sizes, at most": (abs(encoding), 0.10),
        "driver memory at its peak, between the sizes, at most": (abs(growth), 0.10),
        "commit time, growth from the first to the last, at most": (commit["growth"], 0.25),
    }


def show(size: dict[str, Any]) -> None:
    """One size as lines of a table."""
    commit = size["first"]["commits"]
    click.echo(f"{size['documents']:,} documents, {size['tokens_per_document']:.0f} tokens each")
    for name in ("first", "again", "changed"):
        run = size[name]
        click.echo(
            f"  {name:<8}{run['seconds']:>8.1f} s{run['documents_per_s']:>10,.0f} documents/s"
            f"{run['documents_per_cpu_s']:>10,.0f} a CPU second{run['driver_peak_bytes'] / 1e6:>7,.0f} MB driver"
            f"{run['worker_peak_bytes'] / 1e6:>7,.0f} MB largest worker{run['wall_seconds']:>8.1f} s with Ray's start"
        )
    click.echo(
        f"  {commit['count']} commits a first run, median {commit['median_ms']:.1f} ms, growing by "
        f"{commit['growth']:.0%}; {commit['merges']} merges between them, {commit['longest_merge_ms']:.1f} ms at most"
    )


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


@click.command(cls=Benchmark)
@click.option("--documents", multiple=True, type=int, help="A size; several times.  [default: 100000 and 1000000]")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="First runs, and nights on which a hundredth changes.",
)
@click.option("--cores", default=2, show_default=True, help="Cores to run on, and CPUs that Ray is told of.")
@click.option("--scratch", type=click.Path(file_okay=False), help="Where corpora and tables go, for a while.")
@click.option("--out", type=click.Path(dir_okay=False), help="JSON of everything measured.")
def main(documents: tuple[int, ...], repeats: int, cores: int, scratch: str | None, out: str | None) -> None:
    """Measures how a run scales."""
    default_model()  # its tokenizer is a run's; made from the package once a machine, which is no run's work
    prose = Prose()
    sizes = []
    for count in sorted(documents or (100_000, 1_000_000)):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            size = measure(Path(folder), prose, documents=count, cores=cores, repeats=repeats) | {"cores": cores}
        show(size)
        sizes.append(size)
    found: dict[str, Any] = {
        "hardware": machine(cores),
        "command": " ".join(["python -m infra.bench.scale", *sys.argv[1:]]),
    }
    if len(sizes) > 1:
        found |= {"bars": bars(sizes[0], sizes[-1]), "needs": extrapolate(sizes[0], sizes[-1])}
        for name, (value, bound) in found["bars"].items():
            click.echo(f"{name:<60}{bound:>10,.3f}{value:>14,.3f}")
        for name, value in found["needs"].items():
            click.echo(f"{name:<60}{value:>24,.2f}")
    if out:
        Path(out).write_text(json.dumps(found | {"sizes": sizes}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
