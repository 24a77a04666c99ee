"""Judged collections: folders with documents, queries and judgements, as BEIR and BRIGHT lay them out.

    BEIR      corpus.jsonl[.gz], queries.jsonl, qrels/test.tsv or qrels.tsv; or a folder of such folders
    BRIGHT    documents/TASK-*.parquet, long_documents/, examples/ and other sets of queries such as gpt4_reason/
    queries   TASK.queries.jsonl and TASK.qrels.tsv, without documents

A BEIR query never finds the document that has its own id (a question of Quora is a document too): BEIR's evaluator
drops it unless told otherwise (`ignore_identical_ids` of `EvaluateRetrieval.evaluate`, beir/retrieval/evaluation.py),
so it is among the query's `excluded_ids`. BRIGHT excludes what it names and no more, whatever the layout of a task.

Local folders and object stores alike. Knows nothing of models or tables. Called by flows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.corpus.layouts import BEIR_CORPUS
from pipeline.corpus.parquet import read_parquet
from pipeline.corpus.qrels import read_qrels, read_qrels_file
from pipeline.corpus.queries import read_queries
from pipeline.corpus.streams import storage_errors
from pipeline.errors import CorpusError
from pipeline.prompts import TASK_NOUNS
from pipeline.records import Format, Query, Rejected, Shard
from pipeline.storage import join, normalise, open_filesystem, redact

Qrels = dict[str, dict[str, int]]

_BEIR_QUERIES = ("queries.jsonl", "queries.jsonl.gz", "queries.jsonl.zst")
_QUERIES_ONLY = re.compile(r"([\w-]+)\.queries\.jsonl")
_PARQUET = re.compile(r"([\w-]+)/([a-z_]+?)(?:-\d+-of-\d+)?\.parquet")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# Where the hub's own client keeps what it knows of a folder that it filled.
_HUB_NOTES = ".cache/huggingface/download"


@dataclass(frozen=True, slots=True)
class Collection:
    """Queries with judgements, and where their documents are.

    Attributes:
        name: Unique among the collections that were found together: the task, for long documents with "_long" behind
            it, or the folder's name. A table of its documents is named so.
        task: As prompts know it, such as "biology"; "" where the queries or the name have to say it.
        corpus: URIs of the documents, as `t1 index --corpus` takes them; empty where there are only queries.
        revision: Commit of the data set, where the hub's client noted it; else "".
        is_long: Documents are whole pages instead of passages.
    """

    name: str
    task: str
    corpus: tuple[str, ...]
    revision: str = ""
    is_long: bool = False
    _queries: Callable[[], list[Query]] = field(default=list, repr=False, compare=False)
    _qrels: Callable[[], Qrels] = field(default=dict, repr=False, compare=False)

    def queries(self) -> list[Query]:
        """Every query, with its task and the documents that must not be found for it.

        Raises:
            CorpusError: a row is not a query.
        """
        return [
            replace(query, task=(self.task or query.task or self.name).replace("-", "_")) for query in self._queries()
        ]

    def qrels(self) -> Qrels:
        """Query id -> document id -> relevance.

        Raises:
            CorpusError: there are no judgements, or a row is not one.
        """
        return self._qrels()


def hash_queries(queries: Iterable[Query]) -> str:
    """SHA-256, in hexadecimal, of ids, texts and excluded ids, in the order of the ids."""
    return _hash(sorted([query.id, query.text, sorted(query.excluded_ids)] for query in queries))


def hash_qrels(qrels: Mapping[str, Mapping[str, int]]) -> str:
    """SHA-256, in hexadecimal, of every judgement, in the order of the ids."""
    return _hash(
        sorted([query, document, value] for query, found in qrels.items() for document, value in found.items())
    )


def _hash(rows: Sequence[object]) -> str:
    lines = (json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def find_collections(
    *uris: str, tasks: Sequence[str] | None = None, long: bool = False, queries: str = "examples"
) -> list[Collection]:
    """The judged collections in some folders, one after the other, each folder's in the order of their names.

    Args:
        uris: Paths or URIs of folders.
        tasks: Only these names or tasks, which need not be in every folder; None for all.
        long: BRIGHT's long documents, and the tasks that have them.
        queries: Which of BRIGHT's sets of queries, such as "gpt4_reason".

    Raises:
        CorpusError: a folder has none, or no folder has one of the tasks.
        StorageError: the store refused.
    """
    found = [item for uri in uris for item in _find_in(normalise(uri), long=long, queries=queries)]
    return found if tasks is None else _select(found, tasks, uris)


def _find_in(folder: str, *, long: bool, queries: str) -> list[Collection]:
    fs, path = open_filesystem(folder)
    with storage_errors(folder):
        if not fs.isdir(path):
            raise CorpusError(f"{redact(folder)} is not a folder; expected one in BEIR's or BRIGHT's layout")
        names = sorted(name[len(path) :].lstrip("/") for name in fs.find(path, maxdepth=2))
    found = _find_bright(folder, names, long=long, queries=queries)
    found = found or ([] if long else _find_beir(folder, names) or _find_queries_only(folder, names))
    if not found:
        wanted = "long_documents/ and examples/ as BRIGHT" if long else "corpus.jsonl and queries.jsonl as BEIR, or "
        wanted += "" if long else f"documents/ and {queries}/ as BRIGHT, or TASK.queries.jsonl"
        raise CorpusError(f"{redact(folder)} holds no judged collection; expected {wanted}")
    return sorted(found, key=lambda item: item.name)


def _select(found: Sequence[Collection], tasks: Sequence[str], uris: Sequence[str]) -> list[Collection]:
    wanted: list[Collection] = []
    for task in tasks:
        named = [item for item in found if {task, task.replace("-", "_")} & {item.name, item.task}]
        if not named:
            folders, has = " and ".join(map(redact, uris)), "has" if len(uris) == 1 else "have"
            it = "it has" if len(uris) == 1 else "they have"
            raise CorpusError(f"{folders} {has} no collection {task!r}; {it} {', '.join(item.name for item in found)}")
        wanted += [item for item in named if not any(item is known for known in wanted)]
    return wanted


def _find_beir(folder: str, names: Sequence[str]) -> list[Collection]:
    parents = {name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in _BEIR_QUERIES}
    return [_beir(join(folder, parent) if parent else folder, parent, names) for parent in sorted(parents)]


def _beir(folder: str, parent: str, names: Sequence[str]) -> Collection:
    lead = f"{parent}/" if parent else ""
    corpus = [join(folder, name) for name in BEIR_CORPUS if lead + name in names][:1]
    source = next(name for name in _BEIR_QUERIES if lead + name in names)
    # a table is named so, and rows of results: neither takes a name that is not UTF-8
    name = folder.rstrip("/").rsplit("/", 1)[-1].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    spelled = name.replace("-", "_")
    task = next((task for task in TASK_NOUNS if spelled in (task, f"bright_{task}", f"bright_{task}_reduced")), "")

    def read() -> list[Query]:
        queries = read_queries(join(folder, source))
        return queries if task else [_without_itself(query) for query in queries]

    return Collection(name, task, tuple(corpus), _revision(folder), _queries=read, _qrels=lambda: read_qrels(folder))


def _without_itself(query: Query) -> Query:
    return replace(query, excluded_ids=tuple(dict.fromkeys([*query.excluded_ids, query.id])))


def _find_queries_only(folder: str, names: Sequence[str]) -> list[Collection]:
    matches = [match for name in names if (match := _QUERIES_ONLY.fullmatch(name))]
    return [_queries_only(folder, match[0], match[1]) for match in matches]


def _queries_only(folder: str, source: str, spelled: str) -> Collection:
    name = spelled.replace("-", "_")
    return Collection(
        name, name if name in TASK_NOUNS else "", (), _revision(folder),
        _queries=lambda: read_queries(join(folder, source)),
        _qrels=lambda: read_qrels_file(join(folder, f"{spelled}.qrels.tsv")),
    )  # fmt: skip


def _find_bright(folder: str, names: Sequence[str], *, long: bool, queries: str) -> list[Collection]:
    parts: dict[str, dict[str, list[str]]] = {}
    for name in names:
        if match := _PARQUET.fullmatch(name):
            parts.setdefault(match[1], {}).setdefault(match[2], []).append(join(folder, name))
    documents = parts.get("long_documents" if long else "documents", {})
    examples = parts.get(queries, {})
    if documents and not examples:
        sets = ", ".join(sorted(set(parts) - {"documents", "long_documents"})) or "no set of queries"
        raise CorpusError(f"{redact(folder)} has no queries {queries}/; it has {sets}")
    revision = _revision(folder) if documents and examples else ""
    return [
        _bright(task, documents[task], examples[task], revision, long=long) for task in examples if task in documents
    ]


def _bright(task: str, documents: list[str], examples: list[str], revision: str, *, long: bool) -> Collection:
    gold = "gold_ids_long" if long else "gold_ids"
    return Collection(
        f"{task}_long" if long else task, task, tuple(documents), revision, long,
        _queries=lambda: [query for uri in examples for query in read_queries(uri)],
        _qrels=lambda: {query: found for uri in examples for query, found in _read_gold(uri, gold)},
    )  # fmt: skip


def _read_gold(uri: str, column: str) -> Iterable[tuple[str, dict[str, int]]]:
    for item in read_parquet(Shard(uri=uri, format=Format.PARQUET), columns=["id", column]):
        if isinstance(item, Rejected):
            raise CorpusError(f"{redact(uri)} cannot be read: {item.detail}")
        gold = item[1].get(column)
        if not isinstance(gold, list) or not all(isinstance(name, str) for name in gold):
            raise CorpusError(f"{redact(uri)}, row {item[0]}: {column} is {gold!r}; expected a list of strings")
        # "N/A" stands for none, as it does among the excluded
        yield str(item[1].get("id")), {name: 1 for name in gold if name != "N/A"}


def _revision(folder: str) -> str:
    """The commit of a folder that the hub's client filled: in its path, or in the client's notes beside the files."""
    parts = folder.split("/")
    if "snapshots" in parts[:-1] and _COMMIT.fullmatch(found := parts[parts.index("snapshots") + 1]):
        return found
    fs, path = open_filesystem(folder)
    with storage_errors(folder):
        notes = f"{path.rstrip('/')}/{_HUB_NOTES}"
        files = sorted(fs.find(notes)) if fs.isdir(notes) else []
        for name in (name for name in files if name.endswith(".metadata")):
            first = str(fs.cat_file(name, start=0, end=40), "ascii", "replace")
            if _COMMIT.fullmatch(first):
                return first
    return ""
