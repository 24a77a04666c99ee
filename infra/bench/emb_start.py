"""How the untrained default model is made as usable as it can be, and what that is worth on SciFact.

    python -m infra.bench.emb_start estimate --data shared/data     # writes pipeline/model/data/*.safetensors
    python -m infra.bench.emb_start measure --data shared/data      # nDCG@10 on a reduced SciFact

The choice has three parts: what the assistant has said before `<emb_token>` and the token whose embedding it starts
from (`pipeline.settings`, `pipeline.prompts`), a mean by role that is subtracted, and a whitening projection. Means and
projection are estimated without a label, on texts that are not SciFact's.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from pipeline.model import bundle as bundles
from pipeline.model.load import load_encoder
from pipeline.prompts import document_body
from pipeline.settings import ModelSettings

# Sets under CC BY, MIT, BSD, Apache or PSF licences; only means and covariances of their vectors are kept.
SOURCES = ("gsm8k", "medquad", "ms_docs", "nl2bash", "openstax", "pubmedqa", "python_docstring_code", "qasc", "tldr")
HEAD = Path(__file__).parents[2] / "pipeline" / "model" / "data" / "smollm2_135m_head.safetensors"
# Share of the identity in the covariance: with a few hundred texts for 576 components, much of it is noise.
SHRINKAGE = 0.3
_MAX_DOCUMENT_TOKENS, _MAX_QUERY_TOKENS = 160, 96
_WINDOW = 64

Matrix = NDArray[np.float32]


def encode(encoder: Any, tokenizer: Any, texts: Sequence[str], role: bundles.Role) -> Matrix:
    """Vectors [texts, dim] of the first tokens of each text."""
    cut = _MAX_DOCUMENT_TOKENS if role == "document" else _MAX_QUERY_TOKENS
    bodies = [np.asarray(ids[:cut], np.int32) for ids in tokenizer.encode(list(texts))]
    parts = [encoder.encode(bodies[i : i + _WINDOW], role=role).vectors for i in range(0, len(bodies), _WINDOW)]
    return np.concatenate(parts)


def whiten(rows: Matrix, shrinkage: float) -> Matrix:
    """C^(-1/2) of the shrunk covariance of centred rows, [dim, dim], largest entry 1."""
    covariance = rows.T.astype(np.float64) @ rows / len(rows)
    values, directions = np.linalg.eigh(covariance)
    shrunk = (1 - shrinkage) * np.maximum(values, 0) + shrinkage * values.mean()
    matrix = (directions * shrunk**-0.5) @ directions.T
    scaled: Matrix = (matrix / np.abs(matrix).max()).astype(np.float32)
    return scaled


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def unlabelled(data: Path, count: int) -> tuple[list[str], list[str]]:
    """Passages and queries, `count` of each, no query beside its own passage."""
    generator = random.Random(1)
    passages = [r["text"] for r in _lines(data / "corpus_280k" / "corpus.jsonl.gz") if r["source"] != "stacks"]
    passages = generator.sample(passages[:50_000], count // 2)
    share = -(-count // len(SOURCES))
    queries: list[str] = []
    for source in SOURCES:
        rows = list(_lines(data / "train" / source / "train.jsonl.gz"))
        generator.shuffle(rows)
        queries += [row["query"] for row in rows[:share]]
        passages += [row["positive"] for row in rows[share : share + count // 2 // len(SOURCES) + 1]]
    return passages[:count], queries[:count]


def reduced_scifact(
    data: Path, distractors: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]], dict[str, set[str]]]:
    """Every judged document and some others, all queries, and the judged documents of each query."""
    folder = data / "scifact"
    judged: dict[str, set[str]] = {}
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, score = line.split("\t")
        if int(score) > 0:
            judged.setdefault(query, set()).add(document)
    gold = set().union(*judged.values())
    texts = {row["_id"]: document_body(row["title"], row["text"]) for row in _lines(folder / "corpus.jsonl")}
    others = random.Random(0).sample(sorted(set(texts) - gold), distractors)
    queries = [(row["_id"], row["text"]) for row in _lines(folder / "queries.jsonl") if row["_id"] in judged]
    return [(i, texts[i]) for i in sorted(gold) + others], queries, judged


def ndcg_at_10(scores: Matrix, ids: Sequence[str], relevant: Sequence[set[str]]) -> float:
    """Mean nDCG@10 with binary gains; scores [queries, documents]."""
    discount = 1 / np.log2(np.arange(2, 12))
    values = []
    for row, wanted in zip(scores, relevant, strict=True):
        gains = np.array([ids[i] in wanted for i in np.argsort(-row, kind="stable")[:10]])
        values.append((gains * discount).sum() / discount[: min(10, len(wanted))].sum())
    return float(np.mean(values))


def _open(opening: str | None) -> tuple[Any, Any]:
    changes = {} if opening is None else {"document_opening": opening, "query_opening": opening}
    bundle = bundles.open_bundle(ModelSettings(compute_dtype="bfloat16", **changes), device="cpu")
    encoder = load_encoder(bundle, device="cpu")
    encoder.head.clear()  # type: ignore[attr-defined]
    return bundle, encoder


@click.group()
def main() -> None:
    """Estimates and measures what makes the untrained model usable."""


@main.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--texts", default=600, show_default=True, help="Passages, and queries.")
def estimate(data: Path, texts: int) -> None:
    """Estimates means and projection and writes them where the package takes them from."""
    from safetensors.numpy import save_file

    bundle, encoder = _open(None)
    passages, queries = unlabelled(data, texts)
    documents = encode(encoder, bundle.tokenizer, passages, "document")
    asked = encode(encoder, bundle.tokenizer, queries, "query")
    centred = np.concatenate([documents - documents.mean(0), asked - asked.mean(0)])
    tensors = {
        "document_mean": documents.mean(0),
        "query_mean": asked.mean(0),
        "projection": whiten(centred, SHRINKAGE).astype(np.float16),
    }
    save_file(tensors, HEAD, metadata={"estimated_by": "infra/bench/emb_start.py", "texts": str(texts)})
    click.echo(
        f"wrote {HEAD.name}, {HEAD.stat().st_size:,} bytes, from {len(passages)} passages, {len(queries)} queries"
    )


@main.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--distractors", default=400, show_default=True)
@click.option("--opening", multiple=True, default=("Keywords", "This text is about", ""), show_default=True)
def measure(data: Path, distractors: int, opening: tuple[str, ...]) -> None:
    """nDCG@10 on a reduced SciFact for several openings; raw, and for the default also centred and whitened."""
    from safetensors.numpy import load_file

    documents, queries, judged = reduced_scifact(data, distractors)
    ids, relevant = [i for i, _ in documents], [judged[i] for i, _ in queries]
    click.echo(f"{len(documents)} documents, {len(queries)} queries; opening before <emb_token>, nDCG@10:")
    for words in opening:
        bundle, encoder = _open(words)
        found = encode(encoder, bundle.tokenizer, [t for _, t in documents], "document")
        asked = encode(encoder, bundle.tokenizer, [t for _, t in queries], "query")
        click.echo(f"{words!r:<24} raw                  {ndcg_at_10(asked @ found.T, ids, relevant):.3f}")
        if words != "Keywords":
            continue
        head = {name: t.astype(np.float32) for name, t in load_file(HEAD).items()}
        found, asked = found - head["document_mean"], asked - head["query_mean"]
        for name, matrix in (("centred", np.eye(found.shape[1])), ("centred, whitened", head["projection"])):
            left, right = (v @ matrix / np.linalg.norm(v @ matrix, axis=1, keepdims=True) for v in (asked, found))
            click.echo(f"{words!r:<24} {name:<20} {ndcg_at_10(left @ right.T, ids, relevant):.3f}")


if __name__ == "__main__":
    main()
