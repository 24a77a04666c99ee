"""Questions to hits: the Python API behind `t1 search`. No Ray; one process, one encoder.

from pipeline.flows.search import Searcher

searcher = Searcher.open("./db")
for hit in searcher.search(["how do I parse JSON?"], top_k=5)[0]:
    print(hit.score, hit.id, hit.text)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

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
from pipeline.store.search import Hit, full_text, nearest

__all__ = ["Searcher", "read_queries"]


Excluded = Sequence[Collection[str]] | None


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows count.

    Attributes:
        where: SQL over id, title, text, shard, num_tokens and metadata.NAME; None for all.
        exact: Compare every vector, though the table has an index.
    """

    where: str | None = None
    exact: bool = False


class Searcher:
    """A published version and the encoder whose vectors it holds; opened once, asked many times.

    Attributes:
        version: The version of the documents table that answers.
        bundle: The model, as the table's own settings name it.
    """

    def __init__(self, dataset: Table, bundle: ModelBundle, encoder: Encoder | None) -> None:
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
        encodes: bool = True,
    ) -> Searcher:
        """Opens a database for searching.

        Args:
            db: Its folder or URI.
            device: "cpu" or "cuda".
            version: A number or tag; `live` by default.
            instruction: What the model is told to do with a query; the table's own when None.
            model: Where the model is, if not where it was when the table was made.
            encodes: Load the model's weights; words are searched without.

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
        return cls(dataset, bundle, load_encoder(bundle, device=device) if encodes else None)

    def encode(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of queries, float32 [queries, dim], unit length; a query too long for the model is cut at its end."""
        limit = self.bundle.max_body_tokens
        bodies = [
            np.asarray(ids[:limit], np.int32) for ids in self.bundle.tokenizer.encode([q.strip() for q in queries])
        ]
        return self.encoder.encode(bodies, role="query").vectors

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
        how = Filters(where, exact)
        return self.find_near(self.encode(queries), top_k=top_k, excluded=excluded, how=how)

    def find_near(
        self, vectors: NDArray[np.float32], *, top_k: int, excluded: Excluded = None, how: Filters | None = None
    ) -> list[list[Hit]]:
        """The nearest documents of each vector, float32 [queries, dim]; the rest as in `search`."""
        how = how or Filters()
        return [
            _without(
                nearest(self._dataset, vector, top_k=top_k + len(ids), where=how.where, exact=how.exact), ids, top_k
            )
            for vector, ids in zip(vectors, excluded or [()] * len(vectors), strict=True)
        ]

    def find_words(
        self, queries: Sequence[str], *, top_k: int, excluded: Excluded = None, how: Filters | None = None
    ) -> list[list[Hit]]:
        """The documents that share the most telling words with each query (BM25); the rest as in `search`.

        Raises:
            TableError: the table has no full-text index, or the filter cannot be used.
        """
        where = how.where if how else None
        return [
            _without(full_text(self._dataset, query, top_k=top_k + len(ids), where=where), ids, top_k)
            for query, ids in zip(queries, excluded or [()] * len(queries), strict=True)
        ]

    @property
    def encoder(self) -> Encoder:
        """What encodes queries; its vectors are comparable with the table's.

        Raises:
            ModelError: it was opened for words alone.
        """
        if self._encoder is None:
            raise ModelError("this searcher was opened for words alone, so it has no encoder")
        return self._encoder

    @property
    def num_chunks(self) -> int:
        """Rows of the table."""
        return int(self._dataset.count_rows())


def _without(hits: list[Hit], ids: Collection[str], top_k: int) -> list[Hit]:
    return [hit for hit in hits if hit.id not in ids][:top_k]
