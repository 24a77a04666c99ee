"""`t1 reason`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import click

# option -> the settings field it overrides; `t1 search` and `t1 eval` have some of them too
FIELDS = {
    "db": "db",
    "engine": "reason.engine",
    "reasoner": "reason.model",
    "revision": "reason.revision",
    "adapter": "reason.adapter",
    "endpoint": "reason.endpoint",
    "instruction": "reason.instruction",
    "samples": "reason.num_samples",
    "max_tokens": "reason.sampling.max_tokens",
    "max_query_tokens": "reason.max_query_tokens",
    "temperature": "reason.sampling.temperature",
    "top_p": "reason.sampling.top_p",
    "seed": "reason.sampling.seed",
    "stop": "reason.sampling.stop",
    "batch_queries": "reason.batch_queries",
    "model": "encoder.model",
    "address": "reason.pool.address",
    "device": "reason.pool.device",
    "reasoners": "reason.pool.encoders_min",
    "max_reasoners": "reason.pool.encoders_max",
    "gpus_per_reasoner": "reason.pool.gpus_per_encoder",
    "cpus_per_reasoner": "reason.pool.cpus_per_encoder",
    "threads": "reason.pool.threads",
}
ENGINES = ["transformers", "vllm", "openai", "imported"]


@click.command()
@click.argument("queries", nargs=-1)
@click.option("--file", "files", multiple=True, help="Queries: one a line, JSONL, Parquet, BEIR, BRIGHT; - for stdin.")
@click.option("--db", help="Folder or URI of the database.")
@click.option("--settings", "settings_file", help="TOML file; flags override it.")
@click.option("--task", help="Task of the queries, such as biology; else what a file's name begins with.")
@click.option("--engine", type=click.Choice(ENGINES), help="What generates.  [default: transformers]")
@click.option("--reasoner", help="Model that reasons; the table's own when left out.")
@click.option("--revision", help="Commit, tag or branch of an hf:// reasoner; of a served one, to tell it from others.")
@click.option("--adapter", help="Folder or URI of the reasoner's peft adapter.")
@click.option("--endpoint", help="Base URL of an OpenAI-compatible server, such as http://host:8000/v1.")
@click.option("--instruction", help="Told to the reasoner instead of the task's own; not as that of `t1 search`.")
@click.option("--samples", type=int, help="Trajectories a query; their vectors are averaged.  [default: 1]")
@click.option("--max-tokens", type=int, help="Longest trajectory.  [default: 256]")
@click.option("--max-query-tokens", type=int, help="A longer query is cut.  [default: 1024]")
@click.option("--temperature", type=float, help="0 takes the likeliest token.  [default: 0]")
@click.option("--top-p", type=float, help="Share of the likeliest tokens that are drawn from.")
@click.option("--seed", type=int, help="Of the draws.")
@click.option("--stop", multiple=True, help="Text that ends the reasoning; may be given several times.")
@click.option("--batch-queries", type=int, help="Trajectories that one reasoner writes at a time.  [32; 256 on CUDA]")
@click.option("--model", help="Encoder, where the database has no table yet.")
@click.option("--address", help="Ray cluster to join; a local Ray when left out.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where reasoners run.")
@click.option("--reasoners", type=int, help="Reasoners from the start.  [default: 1]")
@click.option("--max-reasoners", type=int, help="Reasoners that the pool may grow to.")
@click.option("--gpus-per-reasoner", type=float, help="May be a fraction.")
@click.option("--cpus-per-reasoner", type=float, help="CPUs that Ray reserves for each.")
@click.option("--threads", type=int, help="Torch threads of a CPU reasoner.")
@click.option("--quiet", is_flag=True, help="Say nothing on stderr.")
def reason(
    queries: tuple[str, ...], files: tuple[str, ...], settings_file: str | None, task: str | None, quiet: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Have a model reason about queries, and keep what it writes and the vectors, so that each is paid for once.

    What is cached already is not generated again and starts no pool. The run's account is one JSON line on stdout.
    """
    from pipeline.query_settings import load_query_settings

    settings = load_query_settings(settings_file, {FIELDS[name]: value for name, value in options.items()})
    from pipeline.flows.ask import read_asked

    opened = [sys.stdin if name == "-" else name for name in files]
    asked = read_asked(queries, opened, task=task, own=settings.reason.tasks)
    from pipeline.errors import T1Error
    from pipeline.flows.reason import reason as run_reason

    report = run_reason(settings, asked, quiet=quiet)
    click.echo(json.dumps(asdict(report)))
    if report.failure:
        raise T1Error(report.failure)
