"""`t1 index`."""

from __future__ import annotations

import json
from typing import Any

import click

# option -> the settings field it overrides
_FIELDS = {
    "db": "db",
    "corpus": "corpus.uris",
    "corpus_format": "corpus.format",
    "text_field": "corpus.text_field",
    "id_field": "corpus.id_field",
    "title_field": "corpus.title_field",
    "metadata_field": "corpus.metadata_fields",
    "limit": "corpus.limit",
    "max_quarantine": "corpus.max_quarantine",
    "max_delete": "corpus.max_delete",
    "keep_missing": "corpus.keep_missing",
    "model": "encoder.model",
    "revision": "encoder.revision",
    "adapter": "encoder.adapter",
    "allow_remote_code": "encoder.allow_remote_code",
    "instruction": "encoder.document_instruction",
    "dtype": "encoder.compute_dtype",
    "vector_dtype": "encoder.vector_dtype",
    "dim": "encoder.dim",
    "chunk_tokens": "encoder.chunk_tokens",
    "overlap_tokens": "encoder.overlap_tokens",
    "address": "pool.address",
    "device": "pool.device",
    "encoders": "pool.encoders_min",
    "max_encoders": "pool.encoders_max",
    "gpus_per_encoder": "pool.gpus_per_encoder",
    "cpus_per_encoder": "pool.cpus_per_encoder",
    "threads": "pool.threads",
    "batch_tokens": "pool.batch_tokens",
    "window_documents": "pool.window_documents",
    "commit_rows": "commit.max_rows",
    "commit_seconds": "commit.max_seconds",
    "discard_unpublished": "commit.discard_unpublished",
    "vector_index": "indexes.vector",
    "min_recall": "publish.min_recall",
    "canary": "publish.canary",
    "canary_margin": "publish.canary_margin",
    "keep_versions": "publish.keep_versions",
    "keep_days": "publish.keep_days",
}


@click.command()
@click.option("--corpus", multiple=True, help="File, folder, glob or URI; may be given several times.")
@click.option("--db", help="Folder or URI of the database.")
@click.option("--settings", "settings_file", help="TOML file; flags override it.")
@click.option(
    "--format", "corpus_format", type=click.Choice(["jsonl", "parquet", "csv", "tsv", "text"]),
    help="Read every file as this, whatever its extension.",
)  # fmt: skip
@click.option("--text-field", help="Column of the text; detected when left out.")
@click.option("--id-field", help='Column of the id; "" makes ids of the content.')
@click.option("--title-field", help='Column of the title; "" for none.')
@click.option("--metadata-field", multiple=True, help="Column kept as metadata; all others when left out.")
@click.option("--limit", type=int, help="Index only the first N documents, for a trial.")
@click.option("--max-quarantine", type=float, help="Share of bad rows that stops the run.  [default: 0.05]")
@click.option("--max-delete", type=float, help="Share of the table that may vanish with the corpus.  [default: 0.5]")
@click.option("--keep-missing", is_flag=True, default=None, help="Keep documents that are not in this corpus.")
@click.option("--model", help="default, minilm, hashing://DIM, a folder, a URI, or hf://ORG/NAME.")
@click.option("--revision", help="Commit, tag or branch of an hf:// model.")
@click.option("--adapter", help="Folder or URI of a peft adapter.")
@click.option("--allow-remote-code", is_flag=True, default=None, help="Run Python code that comes with the model.")
@click.option("--instruction", help="What the model is told to do with a document.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), help="Arithmetic; bfloat16 on CUDA.")
@click.option("--vector-dtype", type=click.Choice(["float32", "float16"]), help="How vectors are stored.")
@click.option("--dim", type=int, help="Keep the first DIM components and renormalise (Matryoshka).")
@click.option("--chunk-tokens", type=int, help="Longest chunk.  [default: 512]")
@click.option("--overlap-tokens", type=int, help="Tokens repeated between chunks.  [default: 64]")
@click.option("--address", help="Ray cluster to join; a local Ray when left out.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where encoders run.")
@click.option("--encoders", type=int, help="Encoders from the start.  [default: 1]")
@click.option("--max-encoders", type=int, help="Encoders that the pool may grow to.")
@click.option("--gpus-per-encoder", type=float, help="May be a fraction.")
@click.option("--cpus-per-encoder", type=float, help="CPUs that Ray reserves for each.")
@click.option("--threads", type=int, help="Torch threads of a CPU encoder.")
@click.option("--batch-tokens", type=int, help="Tokens of one forward pass.")
@click.option("--window-documents", type=int, help="Documents encoded together.")
@click.option("--commit-rows", type=int, help="Encode at most so many rows again after a kill; half of it is a commit.")
@click.option("--commit-seconds", type=float, help="Commit after this many seconds.  [default: 60]")
@click.option(
    "--discard-unpublished", is_flag=True, default=None,
    help="Give up what other encoder settings have encoded, though nothing is published yet.",
)  # fmt: skip
@click.option(
    "--vector-index",
    type=click.Choice(
        ["auto", "none", "IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ", "IVF_HNSW_PQ"]
    ),
    help="Kind of the vector index; by size when left out.",
)
@click.option("--min-recall", type=float, help="Recall@10 that the vector index must reach.  [default: 0.9]")
@click.option("--canary", help="BEIR folder of judged queries: a version that answers them worse is refused.")
@click.option("--canary-margin", type=float, help="How far nDCG@10 on the canary may fall.  [default: 0.02]")
@click.option("--keep-versions", type=int, help="Published versions that are kept.  [default: 3]")
@click.option("--keep-days", type=float, help="Days that a replaced version is kept at least.  [default: 7]")
@click.option("--quiet", is_flag=True, help="Say nothing on stderr.")
def index(settings_file: str | None, quiet: bool, **options: Any) -> None:
    """Turn a corpus into vectors in a Lance table, check them, publish them as `live`.

    Reads JSONL (plain, .gz, .zst), Parquet, CSV and TSV, folders of .txt and .md, BEIR folders and BRIGHT's Parquet.
    Running the same command again encodes only what is missing. The run's account is one JSON line on stdout.
    """
    from pipeline.settings import load_settings

    settings = load_settings(settings_file, {_FIELDS[name]: value for name, value in options.items()})
    from pipeline.flows.index import index as run_index

    click.echo(json.dumps(run_index(settings, quiet=quiet).as_json()))
