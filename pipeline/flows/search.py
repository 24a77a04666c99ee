"""Questions to hits: the Python API behind `t1 search`. No Ray; one process, one encoder.

from pipeline.flows.search import Searcher

searcher = Searcher.open("./db")
for hit in searcher.search(["how do I parse JSON?"], top_k=5)[0]:
    print(hit.score, hit.id, hit.text)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.queries import read_queries
from pipeline.errors import ModelError
from pipeline.model.bundle import ModelBundle, open_bundle
from pipeline.model.encoder import Encoder
from pipeline.model.load import load_encoder
from pipeline.settings import ModelSettings
from pipeline.store.database import LIVE, Database, Table
from pipeline.store.schema import read_encoder, read_fingerprint
from pipeline.store.search import Hit, nearest

__all__ = ["Searcher", "read_queries"]


class Searcher:
    """A published version and the encoder whose vectors it holds; opened once, asked many times.

    Attributes:
        version: The version of the documents table that answers.
        bundle: The model, as the table's own settings name it.
    """

    def __init__(self, dataset: Table, bundle: ModelBundle, encoder: Encoder) -> None:
        self.version = int(dataset.version)
        self.bundle = bundle
        self._dataset = dataset
        self._encoder = encoder

    @classmethod
    def open(
        cls,
        db: str,
        *,
        device: str = "cpu",
        version: int | str = LIVE,
        instruction: str | None = None,
        model: str | None = None,
    ) -> Searcher:
        """Opens a database for searching.

        Args:
            db: Its folder or URI.
            device: "cpu" or "cuda".
            version: A number or tag; `live` by default.
            instruction: What the model is told to do with a query; the table's own when None.
            model: Where the model is, if not where it was when the table was made.

        Raises:
            TableError: there is no such table or version.
            ModelError: the model is absent, or is not the one whose vectors these are.
        """
        dataset = Database.at(db).open("documents", version=version)
        settings = ModelSettings.model_validate_json(read_encoder(dataset.schema))
        changes = {"query_instruction": instruction, "model": model}
        settings = settings.model_copy(update={k: v for k, v in changes.items() if v is not None})
        bundle = open_bundle(settings, device=device)
        expected, got = read_fingerprint(dataset.schema), bundle.identity.fingerprint
        if expected != got:
            raise ModelError(
                f"the vectors in {db} are of fingerprint {expected[:12]}, but {bundle.checkpoint.source} now gives "
                f"{got[:12]}; "
                "its weights, tokenizer or prompts changed: index again, or name the old model with --model"
            )
        if device == "cpu" and settings.compute_dtype == "bfloat16":
            # one query in float32 costs little and is nearer to what the documents' encoder meant
            bundle = replace(bundle, settings=settings.model_copy(update={"compute_dtype": "float32"}))
        return cls(dataset, bundle, load_encoder(bundle, device=device))

    def encode(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of queries, float32 [queries, dim], unit length; a query too long for the model is cut at its end."""
        limit = self.bundle.max_body_tokens
        bodies = [
            np.asarray(ids[:limit], np.int32) for ids in self.bundle.tokenizer.encode([q.strip() for q in queries])
        ]
        return self._encoder.encode(bodies, role="query").vectors

    def search(
        self,
        queries: Sequence[str],
        *,
        top_k: int = 10,
        where: str | None = None,
        excluded: Sequence[Collection[str]] | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The nearest documents of each query, best first.

        Args:
            queries: Questions; not blank.
            top_k: Documents a query, >= 1.
            where: SQL over id, title, text, shard, num_tokens and metadata.NAME.
            excluded: For each query, ids that must not be among its hits.
            exact: Compare every vector, though the table has an index.

        Raises:
            TableError: the filter cannot be used.
        """
        left_out = excluded or [()] * len(queries)
        results = []
        for vector, ids in zip(self.encode(queries), left_out, strict=True):
            hits = nearest(self._dataset, vector, top_k=top_k + len(ids), where=where, exact=exact)
            results.append([hit for hit in hits if hit.id not in ids][:top_k])
        return results
