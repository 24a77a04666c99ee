"""Encoding speed: sentence-transformers, a tutorial's Ray Data script, and this project, on the same documents.

    python -m infra.bench.encode --corpus scifact/corpus.jsonl --documents 192
    python -m infra.bench.encode --device cuda --shape qwen3-4b --documents 8192   # random weights, no download

Every contender gets the same model and the same token sequences (checked: the vectors agree). The machine's own
matrix-product rate is measured beside each of them, because shared machines drift. Prints a table; `--out` adds JSON.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from infra.bench import contenders
from infra.bench.command import Benchmark
from infra.bench.random_model import SHAPES, make_random_model
from pipeline.model.bundle import ModelBundle, open_bundle
from pipeline.model.load import load_encoder
from pipeline.prompts import document_body
from pipeline.settings import ModelSettings

BODY_TOKENS = 512


@dataclass(slots=True)
class Workload:
    """What every contender encodes.

    Attributes:
        bundle: The model.
        texts: Bodies, none longer than `BODY_TOKENS` tokens.
        bodies: Their token ids.
        num_tokens: Of all of them, frame included.
    """

    bundle: ModelBundle
    texts: list[str]
    bodies: list[Any]
    num_tokens: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def ceiling(device: str, dtype: str) -> float:
    """The machine's matrix-product rate in FLOP/s: the best of some square products."""
    import torch

    size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        begin = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def machine(device: str) -> str:
    """What this was measured on."""
    import torch

    cores = f"{len(os.sched_getaffinity(0))} cores of {platform.machine()}, torch {torch.__version__}"
    return f"{torch.cuda.get_device_name()}, {cores}" if device == "cuda" else cores


def read_texts(corpus: str | None, count: int, seed: int) -> list[str]:
    """The first documents of a JSONL corpus, or words drawn at random with lengths like an abstract's."""
    if corpus is not None:
        with open(corpus, encoding="utf-8") as lines:
            rows = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
        return [document_body(row.get("title", ""), row["text"]) for row in rows]
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(5.65, 0.5, count).astype(int), 30, BODY_TOKENS)
    return [" ".join(f"w{i}" for i in generator.integers(0, 20_000, n)) for n in lengths]


def prepare(settings: ModelSettings, device: str, corpus: str | None, documents: int) -> Workload:
    """Texts cut so that their token ids are what every contender sees."""
    bundle = open_bundle(settings, device=device)
    texts = []
    for text in read_texts(corpus, documents, seed=0):
        _, ends = bundle.tokenizer.offsets(text)
        texts.append(text[: ends[BODY_TOKENS - 8]] if len(ends) > BODY_TOKENS - 8 else text)
    bodies = [np.asarray(ids, np.int32) for ids in bundle.tokenizer.encode(texts)]
    frame = bundle.frames["document"].num_tokens
    return Workload(bundle, texts, bodies, sum(len(b) + frame for b in bodies))


def measure(workload: Workload, name: str, device: str, run: Any) -> Any:
    """Runs one contender between two measurements of the ceiling; `run` returns its vectors, seconds and facts."""
    dtype = str(workload.bundle.settings.compute_dtype)
    before = ceiling(device, dtype)
    vectors, seconds, facts = run()
    peak = (before + ceiling(device, dtype)) / 2
    row = {"name": name, "seconds": seconds, "tokens_per_s": workload.num_tokens / seconds, "ceiling": peak, **facts}
    if "flops" in facts:
        row["utilisation"] = facts["flops"] / seconds / peak
    workload.rows.append(row)
    shown = f"{row['tokens_per_s']:>9,.0f} tokens/s {peak / 1e9:>9,.0f} GFLOP/s ceiling"
    extra = f" {row['utilisation']:.2f} of it" if "utilisation" in row else ""
    slots = f" {facts['slots'] / workload.num_tokens:.2f} slots/token" if "slots" in facts else ""
    click.echo(f"{name:<44}{shown}{extra}{slots}")
    return vectors


def bare_loop(workload: Workload, device: str, threads: int | None, *, compiles: bool = True) -> Any:
    """Our encoder alone: windows of documents, no Ray, no table."""
    begin = time.perf_counter()
    encoder = load_encoder(workload.bundle, device=device, threads=threads, compiles=compiles)
    load_s = time.perf_counter() - begin
    window = 64 if device == "cpu" else 2048
    encoder.encode(workload.bodies[:window], role="document")  # warm-up, as the others get

    def run() -> Any:
        begin = time.perf_counter()
        results = [
            encoder.encode(workload.bodies[low : low + window], role="document")
            for low in range(0, len(workload.bodies), window)
        ]
        facts = {"slots": sum(r.num_slots for r in results), "flops": sum(r.flops for r in results), "load_s": load_s}
        return np.concatenate([r.vectors for r in results]), time.perf_counter() - begin, facts

    return run


def apply_head(bundle: ModelBundle, vectors: Any) -> Any:
    """What our encoder does after pooling, to vectors that had nothing done but normalised."""
    import torch

    from pipeline.model.loading import load_head
    from pipeline.model.pooling import Head

    head = Head(load_head(bundle.checkpoint.folder), dim=bundle.identity.dim, device=torch.device("cpu"))
    return head(torch.from_numpy(vectors), "document").numpy()


def check(workload: Workload, vectors: Any, expected: Any) -> None:
    """Says, and keeps, how far a contender's vectors are from ours."""
    if expected is not None:
        worst = float((vectors * expected).sum(1).min())
        workload.rows[-1]["lowest_cosine"] = worst
        click.echo(f"{'':<44}lowest cosine to ours: {worst:.6f}")


def report(workload: Workload) -> dict[str, Any]:
    """The bars: ratios of what was measured."""
    rate = {row["name"][:1]: row["tokens_per_s"] for row in workload.rows}
    rows = {row["name"][:1]: row for row in workload.rows}
    found: dict[str, Any] = {}
    if "c" in rows:
        found["useful FLOP/s over ceiling (bar 0.90)"] = rows["c"]["utilisation"]
        found["slots a token (bar 1.05)"] = rows["c"]["slots"] / workload.num_tokens
    best = "d" if "d" in rate else "c"
    for other, name in (("a", "sentence-transformers"), ("b", "plain Ray Data script")):
        if other in rate and best in rate:
            found[f"ours / {name} (bar 2.0)"] = rate[best] / rate[other]
    if {"c", "e"} <= set(rows):
        found["compiled / not compiled"] = rate["c"] / rate["e"]
    if {"c", "d"} <= set(rows):
        # the pipeline's time beyond the bare loop's, each at the ceiling measured beside it
        relative = rows["c"]["tokens_per_s"] / rows["c"]["ceiling"] / (rate["d"] / rows["d"]["ceiling"]) - 1
        found["time the pipeline adds (bar 0.10)"] = rows["c"]["tokens_per_s"] / rate["d"] - 1
        found["the same, corrected for the machine's drift"] = relative
    return found


@click.command(cls=Benchmark)
@click.option(
    "--corpus",
    type=click.Path(exists=True, dir_okay=False),
    help="JSONL with text and title; random words when left out.",
)
@click.option("--documents", default=192, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option("--model", default="default", show_default=True)
@click.option("--shape", type=click.Choice(sorted(SHAPES)), help="Random weights of this shape instead of --model.")
@click.option("--threads", type=int)
@click.option("--skip", multiple=True, type=click.Choice(["a", "b", "c", "d", "e"]), help="Contenders to leave out.")
@click.option("--out", type=click.Path(dir_okay=False))
def main(corpus: str | None, documents: int, device: str, out: str | None, **options: Any) -> None:
    """Measures encoding speed side by side."""
    with tempfile.TemporaryDirectory() as scratch:
        model = options["model"]
        if options["shape"]:
            model = make_random_model(Path(scratch) / "model", shape=options["shape"], device=device)
        settings = ModelSettings(model=model, compute_dtype=options["dtype"])
        workload = prepare(settings, device, corpus, documents)
        click.echo(f"{documents} documents, {workload.num_tokens:,} tokens with the frame, {machine(device)}")
        skip = set(options["skip"])
        expected = None
        plan = {
            "a": ("a sentence-transformers encode, defaults", contenders.sentence_transformers),
            "b": ("b Ray Data as tutorials write it", contenders.plain_ray_data),
            "d": ("d t1 index: read, encode, write, commit", contenders.our_pipeline),
        }
        if "c" not in skip:
            run = bare_loop(workload, device, options["threads"])
            expected = measure(workload, "c our encoder, bare loop", device, run)
            del run
        if "e" not in skip and device == "cuda":
            run = bare_loop(workload, device, options["threads"], compiles=False)
            check(workload, measure(workload, "e the same, layers not compiled", device, run), expected)
            del run
        for key, (name, contender) in plan.items():
            if key in skip:
                continue
            try:
                run = contender(workload, device=device, scratch=Path(scratch))
            except ImportError as error:
                click.echo(f"{name:<44}left out: {error}")
                continue
            vectors = measure(workload, name, device, run)
            # peers give the state's direction; ours is centred and projected where the model brings a head
            check(workload, vectors if key == "d" else apply_head(workload.bundle, vectors), expected)
            del run
        found = report(workload)
        for name, value in found.items():
            click.echo(f"{name:<60}{value:.3f}")
        if out:
            hardware = machine(device)
            Path(out).write_text(
                json.dumps(
                    {"hardware": hardware, "command": " ".join(["python -m infra.bench.encode", *sys.argv[1:]]),
                     "num_documents": documents, "num_tokens": workload.num_tokens, "rows": workload.rows,
                     "found": found},
                    indent=1,
                ) + "\n"
            )  # fmt: skip


if __name__ == "__main__":
    main()
