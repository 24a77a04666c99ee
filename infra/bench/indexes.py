"""Kinds of vector index side by side: build, size, refresh, recall@10 and latency against the exact scan.

    t1 index --corpus scifact/corpus.jsonl --db ./scifact --model minilm
    python -m infra.bench.indexes --db ./scifact --queries scifact/queries.jsonl --out infra/bench/results/indexes.json

The vectors are those of real tables, made more: a new vector lies between a real one and one of its ten nearest, moved
by half the difference of another such pair, so that noise has the shape of the data; how near the nearest neighbours
are before and after is part of the result. Queries are stored nowhere: half are the file's questions, half real chunks
left out. Machines are shared, so every setting's queries alternate with exact scans, and the ratio of the two is what
counts. Prints a table; `--out` adds JSON.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import lance
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.bench.command import Benchmark
from pipeline.flows.search import Searcher, read_queries
from pipeline.store.database import Database

Vectors = NDArray[np.float32]
_NEIGHBOURS = _TOP_K = 10
_NOISE = 0.5


@dataclass(frozen=True, slots=True)
class Contender:
    """One index to build, and the settings to search it with."""

    kind: str
    num_partitions: int
    num_sub_vectors: int | None
    probes: tuple[int, ...]
    refine: tuple[int | None, ...]

    @property
    def name(self) -> str:
        """As the table prints it."""
        codes = f" {self.num_sub_vectors} codes" if self.num_sub_vectors else ""
        return f"{self.kind} {self.num_partitions} partitions{codes}"


def contenders(num_rows: int, dim: int) -> list[Contender]:
    """Every kind with partitions of the size that Lance keeps them at, and RaBitQ also with smaller ones."""
    large, middle, small = (max(num_rows // size, 1) for size in (8_192, 4_096, 1_024))
    probes, graph = (5, 10, 20), (1,)
    return [
        Contender("IVF_RQ", middle, None, probes, (None, 2, 5)),
        Contender("IVF_FLAT", middle, None, probes, (None,)),
        Contender("IVF_SQ", large, None, probes, (None, 2)),
        Contender("IVF_HNSW_SQ", 1, None, graph, (None, 2, 5, 10)),
        Contender("IVF_PQ", large, dim // 4, probes, (None, 5, 20)),
        Contender("IVF_RQ", small, None, (10, 20, 40), (None, 5)),
        Contender("IVF_HNSW_PQ", 1, dim // 4, graph, (None, 5, 20)),
        Contender("IVF_PQ", large, dim // 8, probes, (None, 5, 20)),
        Contender("IVF_HNSW_FLAT", 1, None, graph, (None, 2, 5, 10)),
    ]


def read_vectors(uris: tuple[str, ...]) -> Vectors:
    """Distinct vectors of the published versions, float32 [rows, dim]."""
    tables = [Database.at(uri).open("documents", version="live").to_table(columns=["vector"]) for uri in uris]
    columns = [table.column("vector").combine_chunks() for table in tables]
    return np.concatenate([np.unique(as_matrix(column), axis=0) for column in columns])


def as_matrix(column: Any) -> Vectors:
    """A column of vectors as float32 [rows, dim]."""
    matrix: Vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float32)
    return matrix


def unit(vectors: Vectors) -> Vectors:
    """The same, at length one."""
    scaled: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def nearest_of(vectors: Vectors, queries: Vectors, count: int) -> tuple[NDArray[np.int64], Vectors]:
    """Rows and cosines of the nearest vectors of each query, best first, [queries, count]."""
    rows, scores = [], []
    for begin in range(0, len(queries), 512):
        product = queries[begin : begin + 512] @ vectors.T
        top = np.argpartition(-product, count, axis=1)[:, :count]
        found = np.take_along_axis(product, top, axis=1)
        order = np.argsort(-found, axis=1)
        rows.append(np.take_along_axis(top, order, axis=1))
        scores.append(np.take_along_axis(found, order, axis=1))
    return np.concatenate(rows), np.concatenate(scores)


def augment(real: Vectors, num_rows: int, *, seed: int) -> Vectors:
    """Real vectors, then others between neighbours, `num_rows` in all."""
    draw = np.random.default_rng(seed)
    neighbours = nearest_of(real, real, _NEIGHBOURS + 1)[0][:, 1:]

    def pairs(count: int) -> tuple[Vectors, Vectors]:
        left = draw.integers(len(real), size=count)
        return real[left], real[neighbours[left, draw.integers(_NEIGHBOURS, size=count)]]

    made = []
    for begin in range(len(real), num_rows, 20_000):
        count = min(20_000, num_rows - begin)
        (left, right), (up, down) = pairs(count), pairs(count)
        share = draw.random((count, 1), np.float32)
        made.append(unit((1 - share) * left + share * right + _NOISE * (up - down)))
    return np.concatenate([real, *made])[:num_rows]


def as_table(vectors: Vectors, first: int) -> pa.Table:
    """Rows as Lance stores them."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table({"id": pa.array(range(first, first + len(vectors)), pa.int64()), "vector": column})


def ask(dataset: lance.LanceDataset, query: Vectors, **how: Any) -> tuple[list[int], float]:
    """Ids of the nearest and the seconds it took."""
    begin = time.perf_counter()
    search = {"column": "vector", "q": query, "k": _TOP_K, "metric": "cosine", **how}
    found = dataset.to_table(columns=["id", "_distance"], nearest=search)
    return found.column("id").to_pylist(), time.perf_counter() - begin


def search_with(
    dataset: lance.LanceDataset, queries: Vectors, truth: NDArray[np.int64], how: dict[str, Any]
) -> dict[str, float]:
    """Recall and latency of one setting; every tenth query is also scanned exactly, for the ratio."""
    ask(dataset, queries[0], **how)
    recalls, seconds, scans = [], [], []
    for number, (query, expected) in enumerate(zip(queries, truth, strict=True)):
        ids, took = ask(dataset, query, **how)
        recalls.append(len(set(ids) & set(expected.tolist())) / _TOP_K)
        seconds.append(took)
        if number % 10 == 0:
            scans.append(ask(dataset, query, use_index=False)[1])
    return {
        "recall@10": float(np.mean(recalls)),
        "median_ms": 1e3 * float(np.median(seconds)),
        "p95_ms": 1e3 * float(np.percentile(seconds, 95)),
        "exact_median_ms": 1e3 * float(np.median(scans)),
        "of_exact": float(np.median(seconds) / np.median(scans)),
    }


def build(dataset: lance.LanceDataset, contender: Contender) -> dict[str, Any]:
    """Builds one index; its seconds and size."""
    codes = {"num_sub_vectors": contender.num_sub_vectors} if contender.num_sub_vectors else {}
    begin = time.perf_counter()
    dataset.create_index(
        "vector", contender.kind, name="vector_idx", metric="cosine", replace=True,
        num_partitions=contender.num_partitions, **codes,
    )  # fmt: skip
    return {"build_s": time.perf_counter() - begin, "size_mb": dataset.describe_indices()[0].total_size_bytes / 2**20}


def refresh(dataset: lance.LanceDataset, more: Vectors) -> dict[str, Any]:
    """Appends rows and adds them to the index; seconds of the latter. The table is then as it was."""
    before, num_rows = dataset.version, dataset.count_rows()
    lance.write_dataset(as_table(more, num_rows), dataset.uri, mode="append")
    grown = lance.dataset(dataset.uri)
    begin = time.perf_counter()
    grown.optimize.optimize_indices()
    seconds = time.perf_counter() - begin
    segments = len(lance.dataset(dataset.uri).describe_indices()[0].segments)
    lance.dataset(dataset.uri, version=before).restore()
    return {"refresh_1_percent_s": seconds, "segments_then": segments}


def measure(uri: str, contender: Contender, queries: Vectors, truth: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """Rows of the table for one index."""
    dataset = lance.dataset(uri)
    built = build(dataset, contender)
    for probes in contender.probes:
        for refine in contender.refine:
            how = {"minimum_nprobes": probes} | ({"refine_factor": refine} if refine else {})
            found = search_with(dataset, queries, truth, how)
            yield {"index": contender.name, "nprobes": probes, "refine_factor": refine, **built, **found}


def draw_queries(uri: str, path: str, held_out: Vectors, count: int) -> Vectors:
    """Half questions, half chunks that were left out."""
    texts = [query.text for query in read_queries(path)][: count // 2]
    return np.concatenate([Searcher.open(uri).encode(texts), held_out[: count - len(texts)]])


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    click.echo(
        f"{row['index']:<38}{row['nprobes']:>7}{row['refine_factor'] or '-':>7}{row['build_s']:>9.1f}"
        f"{row['size_mb']:>9.1f}{row['recall@10']:>8.3f}{row['median_ms']:>8.2f}{row['p95_ms']:>8.2f}"
        f"{row['of_exact']:>8.3f}"
    )


@click.command(cls=Benchmark)
@click.option("--db", "uris", multiple=True, required=True, help="Databases of one model; the first encodes.")
@click.option("--queries", "queries_path", required=True, help="Questions.")
@click.option("--rows", default=200_000, show_default=True)
@click.option("--num-queries", default=200, show_default=True)
@click.option("--out", help="JSON file.")
def main(uris: tuple[str, ...], queries_path: str, rows: int, num_queries: int, out: str | None) -> None:
    """Measures every kind of vector index."""
    real = np.random.default_rng(0).permutation(read_vectors(uris))
    held_out, kept = real[: num_queries // 2], real[num_queries // 2 :]
    queries = draw_queries(uris[0], queries_path, held_out, num_queries)
    stored, more = np.split(augment(kept, rows + rows // 100, seed=0), [rows])
    truth, _ = nearest_of(stored, queries, _TOP_K)
    facts = {
        "real_vectors": len(kept), "rows": rows, "dim": real.shape[1], "queries": len(queries),
        "nearest_cosine_real": float(np.median(nearest_of(kept, kept[:500], 2)[1][:, 1])),
        "nearest_cosine_stored": float(np.median(nearest_of(stored, stored[-500:], 2)[1][:, 1])),
        "command": shlex.join(["python", "-m", "infra.bench.indexes", *sys.argv[1:]]),
        "machine": f"{len(os.sched_getaffinity(0))} cores of {platform.machine()}, shared; pylance {lance.__version__}",
    }  # fmt: skip
    click.echo(json.dumps(facts, indent=1))
    click.echo(
        f"{'index':<38}{'nprobes':>7}{'refine':>7}{'build s':>9}{'MiB':>9}{'recall':>8}{'ms':>8}{'p95':>8}{'/exact':>8}"
    )
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        uri = f"{folder}/vectors.lance"
        lance.write_dataset(as_table(stored, 0), uri, enable_stable_row_ids=True, max_rows_per_file=rows // 4)
        for contender in contenders(rows, real.shape[1]):
            for line in measure(uri, contender, queries, truth):
                show(line)
                results.append(line)
            results[-1] |= refresh(lance.dataset(uri), more)
            click.echo(f"{'':<38}adding 1 % took {results[-1]['refresh_1_percent_s']:.1f} s")
            if out:
                Path(out).write_text(json.dumps({"facts": facts, "rows": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
