"""The demo: documentation that every machine has, through the same flows as anything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.corpus.python_docs import DEMO_MODULES, collect_docstrings, write_jsonl
from pipeline.flows.index import index
from pipeline.flows.report import RunReport
from pipeline.flows.search import Searcher
from pipeline.settings import CommitSettings, CorpusSettings, IndexSettings, ModelSettings
from pipeline.store.search import Hit


def run_demo(
    folder: str, *, documents: int, model: str, questions: Sequence[str]
) -> tuple[RunReport, list[tuple[str, list[Hit]]]]:
    """Collects docstrings, indexes them, asks questions.

    Args:
        folder: Gets `corpus.jsonl` and `db`.
        documents: Docstrings at most.
        model: As in `ModelSettings`.
        questions: What to ask.

    Returns:
        The run's account, and each question with its hits.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    corpus = root / "corpus.jsonl"
    write_jsonl(collect_docstrings(packages=DEMO_MODULES, max_documents=documents), corpus)
    settings = IndexSettings(
        db=str(root / "db"),
        corpus=CorpusSettings(uris=(str(corpus),), max_delete=1.0),
        encoder=ModelSettings(model=model),
        commit=CommitSettings(discard_unpublished=True),
    )
    report = index(settings)
    searcher = Searcher.open(settings.db)
    return report, list(zip(questions, searcher.search(questions, top_k=4), strict=True))
