"""Reasoning speed: `model.generate` in padded batches against this project's engine, on the same queries.

    python -m infra.bench.reason --queries biology.queries.jsonl --num 64 --batch 16 --max-tokens 128 --out reason.json
    python -m infra.bench.reason --queries biology.queries.jsonl --device cuda --shape qwen3-4b   # random weights

Both decode greedily, get the same prompt ids, the model's own end of a turn, and the same bound on each query's tokens,
drawn from a fixed distribution; a padded batch runs until its longest is done. Queries are worked through in slices,
each by both contenders in turn, because shared machines drift. Prints a table; `--out` adds JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from infra.bench.command import Benchmark
from infra.bench.encode import machine
from infra.bench.random_model import SHAPES, make_random_model

BAR = 2.0
_SLICE_BATCHES = 2  # batches of one contender before the other's turn


def read_queries(path: str, num: int) -> list[str]:
    """The texts of the first queries of a JSONL file with `text`."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(num), strict=False)]


def draw_limits(num: int, max_tokens: int, *, seed: int = 0) -> list[int]:
    """How many tokens each query may be given: uniform from an eighth of `max_tokens` to all of it."""
    low = max(1, max_tokens // 8)
    return [int(n) for n in np.random.default_rng(seed).integers(low, max_tokens, size=num, endpoint=True)]


def slices(num: int, batch: int) -> list[range]:
    """Positions of the queries that each contender works through in one turn."""
    size = batch * _SLICE_BATCHES
    return [range(low, min(low + size, num)) for low in range(0, num, size)]


def compare(ours: Sequence[str], theirs: Sequence[str]) -> dict[str, Any]:
    """How many texts are equal, and of the others, how many characters until they part, as a median."""
    parted = []
    for left, right in zip(ours, theirs, strict=True):
        if left != right:
            same = (a == b for a, b in zip(left, right, strict=False))
            parted.append(next((n for n, yes in enumerate(same) if not yes), min(len(left), len(right))))
    equal = 1 - len(parted) / max(1, len(ours))
    return {"share_equal": equal, "median_equal_chars_of_others": statistics.median(parted) if parted else None}


def summarise(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Queries and tokens a second of each contender over all turns, and the ratio to the bar."""
    found: dict[str, Any] = {}
    for name in ("padded", "ours"):
        seconds = sum(turn[name]["seconds"] for turn in turns)
        found[name] = {
            "seconds": seconds,
            "queries_per_s": sum(turn["queries"] for turn in turns) / seconds,
            "tokens_per_s": sum(turn[name]["tokens"] for turn in turns) / seconds,
        }
    found["ratio"] = found["ours"]["queries_per_s"] / found["padded"]["queries_per_s"]
    found["bar"] = BAR
    return found


def run_padded(model: Any, prompts: Sequence[Any], limits: Sequence[int], *, batch: int, ends: set[int]) -> Any:
    """Token ids that `model.generate` gives in file order, padded on the left, each cut at its own limit."""
    import torch

    written: list[list[int]] = []
    for low in range(0, len(prompts), batch):
        ids, bounds = prompts[low : low + batch], limits[low : low + batch]
        width = max(map(len, ids))
        pad = min(ends)
        rows = torch.tensor([[pad] * (width - len(one)) + list(one) for one in ids], device=model.device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids], device=model.device)
        with torch.no_grad():
            out = model.generate(
                rows, attention_mask=mask, do_sample=False, max_new_tokens=max(bounds),
                eos_token_id=sorted(ends), pad_token_id=pad,
            )  # fmt: skip
        for row, bound in zip(out[:, width:].tolist(), bounds, strict=True):
            cut = row[:bound]
            written.append(cut[: next((n for n, token in enumerate(cut) if token in ends), len(cut))])
    return written


def _measure(bundle: Any, texts: list[str], *, batch: int, max_tokens: int, device: str, threads: int | None) -> Any:
    """Both contenders in turns; the padded one's model is loaded as transformers' documentation has it."""
    import torch

    from pipeline.model.continuous import ContinuousReasoner
    from pipeline.model.loading import load_causal
    from pipeline.model.reasoner import Request
    from pipeline.query_settings import SamplingSettings
    from pipeline.records import Query

    prompts = [bundle.prompt_ids(Query("", text)) for text in texts]
    limits = draw_limits(len(texts), max_tokens)
    ours = ContinuousReasoner(bundle, device=device, threads=threads)
    model: Any = load_causal(
        bundle.checkpoint, device=torch.device(device), dtype=bundle.settings.compute_dtype, allow_remote_code=False
    )
    ends = set(ours.end_tokens)
    requests = [Request(p, SamplingSettings(max_tokens=n)) for p, n in zip(prompts, limits, strict=True)]
    list(ours.generate([Request(prompts[0], SamplingSettings(max_tokens=2))]))
    run_padded(model, prompts[:1], [2], batch=1, ends=ends)
    turns: list[dict[str, Any]] = []
    texts_of = {"padded": [""] * len(texts), "ours": [""] * len(texts)}
    for positions in slices(len(texts), batch):
        turn: dict[str, Any] = {"queries": len(positions)}
        for name in ("padded", "ours") if len(turns) % 2 == 0 else ("ours", "padded"):
            begin = time.perf_counter()
            if name == "ours":
                done = {positions[n]: c for n, c in ours.generate([requests[n] for n in positions])}
                seconds, tokens = time.perf_counter() - begin, sum(c.num_tokens for c in done.values())
                found = {n: c.text for n, c in done.items()}
            else:
                chosen = [prompts[n] for n in positions], [limits[n] for n in positions]
                ids = run_padded(model, *chosen, batch=batch, ends=ends)
                seconds, tokens = time.perf_counter() - begin, sum(map(len, ids))
                found = {n: bundle.tokenizer.decode(one).strip() for n, one in zip(positions, ids, strict=True)}
            turn[name] = {"seconds": seconds, "tokens": tokens}
            for n, text in found.items():
                texts_of[name][n] = text
        turns.append(turn)
        click.echo(f"turn {len(turns)}: padded {turn['padded']['seconds']:.1f} s, ours {turn['ours']['seconds']:.1f} s")
    ours.close()
    return {**summarise(turns), **compare(texts_of["ours"], texts_of["padded"]), "turns": turns}


@click.command(cls=Benchmark)
@click.option("--queries", required=True, type=click.Path(exists=True), help="JSONL with text.")
@click.option("--num", default=64, show_default=True)
@click.option("--batch", default=16, show_default=True, help="Of padded batches, and our engine's requests at a time.")
@click.option("--max-tokens", default=128, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--model", default="default", show_default=True)
@click.option("--shape", type=click.Choice(sorted(SHAPES)), help="Random weights of this shape instead of --model.")
@click.option("--threads", type=int)
@click.option("--out", type=click.Path(dir_okay=False))
def main(queries: str, num: int, batch: int, max_tokens: int, **options: Any) -> None:
    """Measures reasoning speed side by side."""
    from pipeline.model.reasoning import open_reasoner
    from pipeline.query_settings import ReasonSettings, SamplingSettings
    from pipeline.settings import ModelSettings

    device = options["device"]
    with tempfile.TemporaryDirectory() as scratch:
        model = options["model"]
        if options["shape"]:
            model = make_random_model(Path(scratch) / "model", shape=options["shape"], device=device)
        settings = ReasonSettings(batch_queries=batch, sampling=SamplingSettings(max_tokens=max_tokens))
        bundle = open_reasoner(settings, ModelSettings(model=model), device=device)
        found = _measure(
            bundle, read_queries(queries, num), batch=batch, max_tokens=max_tokens, device=device,
            threads=options["threads"],
        )  # fmt: skip
    for name in ("padded", "ours"):
        row = found[name]
        click.echo(f"{name:<10}{row['queries_per_s']:>9.2f} queries/s {row['tokens_per_s']:>9.1f} tokens/s")
    click.echo(f"ours / padded {found['ratio']:.2f} (bar {BAR}); share of equal texts {found['share_equal']:.3f}")
    if options["out"]:
        command = " ".join(["python -m infra.bench.reason", *sys.argv[1:]])
        Path(options["out"]).write_text(
            json.dumps({"hardware": machine(device), "command": command, **found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
