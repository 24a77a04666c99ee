"""Token ids by the word against the `tokenizers` library, side by side on one core, and that they are the same.

    python -m infra.bench.tokenise scifact/corpus.jsonl corpus_280k/corpus.jsonl.gz --out tokenise.json

Without a file: the generated prose of `infra.bench.scale`. Windows of documents alternate between the two, so that a
busy machine slows both; the default model's tokenizer. Each file begins with an empty cache.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click

from infra.bench.command import Benchmark
from infra.bench.scale import machine
from infra.bench.scale_corpus import Prose
from pipeline.corpus.fields import detect_fields
from pipeline.corpus.locate import locate
from pipeline.corpus.read import read_shard
from pipeline.model.bundle import open_bundle
from pipeline.model.word_cache import WordCache
from pipeline.prompts import document_body
from pipeline.records import Document
from pipeline.settings import ModelSettings

_WINDOW = 2_048


def read_bodies(path: str) -> Iterator[str]:
    """The documents of a file as they are tokenised."""
    shards = locate((path,))
    fields, _ = detect_fields(shards)
    for shard in shards:
        rows = read_shard(shard, fields)
        yield from (document_body(row.title, row.text) for row in rows if isinstance(row, Document))


def timed(encode: Callable[[Sequence[str]], list[list[int]]], texts: Sequence[str]) -> tuple[list[list[int]], float]:
    """Token ids, and the seconds it took."""
    begin = time.perf_counter()
    ids = encode(texts)
    return ids, time.perf_counter() - begin


def measure(name: str, bodies: Iterator[str], library: Any) -> dict[str, Any]:
    """Both over the same documents."""
    cache = WordCache.of(library)
    if cache is None:
        raise RuntimeError("the default model's tokenizer has no word cache")
    spent = {"library": 0.0, "by the word": 0.0}
    num_documents, num_tokens, num_ascii, same = 0, 0, 0, True

    def by_library(texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in library.encode_batch_fast(list(texts), add_special_tokens=False)]

    while window := list(islice(bodies, _WINDOW)):
        ids, seconds = timed(cache.encode, window)
        spent["by the word"] += seconds
        expected, seconds = timed(by_library, window)
        spent["library"] += seconds
        same &= ids == expected
        num_documents += len(window)
        num_tokens += sum(map(len, ids))
        num_ascii += sum(map(str.isascii, window))
    return {
        "corpus": name,
        "documents": num_documents,
        "tokens": num_tokens,
        "share_ascii": num_ascii / num_documents,
        "equal": same,
        "tokens_per_s": {how: num_tokens / seconds for how, seconds in spent.items()},
        "ratio": spent["library"] / spent["by the word"],
    }


@click.command(cls=Benchmark)
@click.argument("files", nargs=-1)
@click.option("--documents", default=50_000, show_default=True, help="Of each file, at most.")
@click.option("--out", type=click.Path(dir_okay=False), help="JSON of everything measured.")
def main(files: tuple[str, ...], documents: int, out: str | None) -> None:
    """Measures tokenising."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    library = open_bundle(ModelSettings(), device="cpu").tokenizer._bodies
    sources = {Path(file).parent.name: read_bodies(file) for file in files}
    sources["generated prose"] = iter(Prose().texts(documents, seed=0))
    rows = []
    for name, bodies in sources.items():
        rows.append(measure(name, islice(bodies, documents), library))
        click.echo(json.dumps(rows[-1]))
    if out:
        command = "python -m infra.bench.tokenise " + " ".join(files)
        Path(out).write_text(json.dumps({"hardware": machine(1), "command": command, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
