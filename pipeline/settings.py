"""What a run is asked to do: frozen pydantic models, a TOML file under them, flags over it.

Free of torch, ray and lance, so that a wrong option is refused before anything heavy is imported. The resolved settings
are stored with the run. Functions elsewhere take plain values, not these models; only flows and jobs see them whole.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import SettingsError
from pipeline.records import Format

DEFAULT_DOCUMENT_INSTRUCTION = "Read the passage and state what it is about."
DEFAULT_QUERY_INSTRUCTION = "Read the question and state what a passage that answers it is about."
# With `<emb_token>` starting as ":", the state is the one that would begin a list of keywords.
DEFAULT_DOCUMENT_OPENING = "Keywords"
DEFAULT_QUERY_OPENING = "Keywords"


class Section(BaseModel):
    """A table of a settings file: frozen, and without fields that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class CorpusSettings(Section):
    """Where documents come from and which rows are acceptable."""

    uris: tuple[str, ...] = Field(default=(), description="Files, folders or globs; local or object store.")
    format: Format | None = Field(None, description="Read every file as this format instead of by its extension.")
    id_field: str | None = None
    title_field: str | None = None
    text_field: str | None = None
    metadata_fields: tuple[str, ...] | None = Field(
        None, description="Columns kept as metadata; all others when unset."
    )
    limit: int | None = Field(None, ge=1, description="Index only the first documents, for a trial.")
    max_text_chars: int = Field(2_000_000, ge=1_000, description="A longer text is quarantined.")
    max_quarantine: float = Field(0.05, ge=0.0, le=1.0, description="Share of bad rows that stops the run.")
    max_delete: float = Field(0.5, ge=0.0, le=1.0, description="Share of the table that may vanish with the corpus.")
    keep_missing: bool = Field(False, description="Keep documents that are not in this corpus.")
    split_bytes: int = Field(
        64 * 2**20, ge=2**16, description="Plain JSONL and Parquet are read in pieces of this size."
    )


class ModelSettings(Section):
    """Which encoder, and everything that shapes its vectors."""

    model: str = Field(
        "default", description="default, minilm, hashing://DIM, a folder, an object-store URI, or hf://ORG/NAME."
    )
    revision: str | None = Field(
        None, description="Commit, tag or branch of an hf:// model; resolved to a commit and recorded."
    )
    adapter: str | None = Field(
        None, description="A peft adapter's folder or URI; one beside the weights is found by itself."
    )
    allow_remote_code: bool = Field(False, description="Run Python code that comes with the model.")
    document_instruction: str = DEFAULT_DOCUMENT_INSTRUCTION
    document_opening: str = Field(
        DEFAULT_DOCUMENT_OPENING, description="What the assistant has said before <emb_token>."
    )
    query_instruction: str = DEFAULT_QUERY_INSTRUCTION
    query_opening: str = DEFAULT_QUERY_OPENING
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    vector_dtype: Literal["float32", "float16"] = "float32"
    dim: int | None = Field(None, ge=8, description="Keep the first DIM components and renormalise (Matryoshka).")
    chunk_tokens: int = Field(512, ge=32, le=131_072)
    overlap_tokens: int = Field(64, ge=0)

    @model_validator(mode="after")
    def _overlap_fits(self) -> ModelSettings:
        if self.overlap_tokens * 2 > self.chunk_tokens:
            raise ValueError(
                f"overlap_tokens is {self.overlap_tokens}; it may be at most half of chunk_tokens ({self.chunk_tokens})"
            )
        return self


class PoolSettings(Section):
    """How many encoders run where; everything here changes speed and cost, never a vector."""

    address: str | None = Field(None, description="Ray cluster to join; a local Ray is started when unset.")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    encoders_min: int = Field(1, ge=1)
    encoders_max: int | None = Field(
        None, ge=1, description="Upper size of the autoscaling pool; encoders_min when unset."
    )
    gpus_per_encoder: float | None = Field(None, ge=0.0, description="1 on CUDA and 0 on CPU when unset.")
    cpus_per_encoder: float = Field(1.0, gt=0.0)
    threads: int | None = Field(
        None, ge=1, description="Torch threads of one CPU encoder; its share of the machine when unset."
    )
    batch_tokens: int | None = Field(None, ge=64, description="Tokens a forward pass; chosen by device when unset.")
    compile_layers: bool | None = Field(
        None, description="On CUDA, compile the model first; when unset, where enough is to be encoded to win it back."
    )
    window_documents: int | None = Field(
        None, ge=1, description="Documents sorted by length together; by device when unset."
    )
    direct_documents: int | None = Field(
        None,
        ge=0,
        description="So few are encoded by a task, or a few, without starting the pool; by kind of model when unset.",
    )


class CommitSettings(Section):
    """When finished fragments become part of the table; bounds the work that a kill can lose."""

    max_rows: int = Field(
        100_000, ge=1, description="Rows that a kill may cost: half of them make a commit, half are on their way."
    )
    max_bytes: int = Field(512 * 2**20, ge=2**20)
    max_seconds: float = Field(60.0, gt=0.0)
    discard_unpublished: bool = Field(
        False, description="Begin anew though other encoder settings left rows, and nothing is published yet."
    )


class IndexesSettings(Section):
    """Which indexes a table gets before it is published."""

    vector: Literal[
        "auto", "none", "IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ", "IVF_HNSW_PQ"
    ] = Field("auto", description="Kind of the vector index; auto chooses by size, none leaves search exact.")
    auto_from_rows: int = Field(50_000, ge=1, description="Chunks from which auto builds a vector index.")
    scalar: bool = Field(True, description="Indexes of id and shard, for filters.")
    full_text: bool = Field(True, description="An index of the words of the text.")


class CompactionSettings(Section):
    """When small fragments of a table become large ones."""

    enabled: bool = Field(True, description="Merge fragments before indexes are built; false leaves all as written.")
    min_fragments: int = Field(16, ge=2, le=10_000, description="So many of a size become one.")
    max_fragment_bytes: int = Field(
        2 * 2**30, ge=2**20, le=64 * 2**30, description="Data of a fragment at most; also at most 262,144 rows."
    )


class PublishSettings(Section):
    """What a version must reach before readers get it, and how long the ones before it are kept."""

    min_self_retrieval: float = Field(
        0.99, ge=0.0, le=1.0, description="Share of sampled rows that their own vector must find first."
    )
    min_recall: float = Field(0.90, ge=0.0, le=1.0, description="Recall@10 of the vector index against exact search.")
    gate_sample: int = Field(64, ge=0, le=10_000, description="Rows tried for both; 0 leaves them out.")
    canary: str | None = Field(
        None, description="BEIR folder of judged queries that a version must answer as well as the live one."
    )
    canary_queries: int = Field(200, ge=1, description="So many of its judged queries are asked.")
    canary_margin: float = Field(0.02, ge=0.0, le=1.0, description="How far nDCG@10 may fall.")
    keep_versions: int = Field(3, ge=1, description="Published versions kept, the live one among them.")
    keep_days: float = Field(
        7.0, ge=0.0, description="Days that a version is kept after another one went live in its place."
    )


class IndexSettings(Section):
    """Everything `t1 index` needs."""

    db: str
    corpus: CorpusSettings = CorpusSettings()
    encoder: ModelSettings = ModelSettings()
    pool: PoolSettings = PoolSettings()
    commit: CommitSettings = CommitSettings()
    indexes: IndexesSettings = IndexesSettings()
    compaction: CompactionSettings = CompactionSettings()
    publish: PublishSettings = PublishSettings()


Settings = TypeVar("Settings", bound=Section)


def load_settings(path: str | None, overrides: Mapping[str, Any]) -> IndexSettings:
    """The settings of an index run: the TOML file, then the flags that were given.

    Args:
        path: A TOML file with the tables corpus, encoder, pool, commit, indexes, compaction and publish, and `db`; None
            for none. Its table `reason` is for `query_settings`.
        overrides: {"section.field": value}; a value of None leaves the file's or the default.

    Raises:
        SettingsError: an unknown field, a value out of bounds, or an unreadable file.
    """
    return resolve_settings(IndexSettings, path, overrides, others={"reason"})


def resolve_settings(
    kind: type[Settings], path: str | None, overrides: Mapping[str, Any], *, others: Collection[str]
) -> Settings:
    """A file and flags as one kind of settings; see `load_settings`.

    Args:
        kind: What is wanted.
        path: As there.
        overrides: As there.
        others: Tables of the file that are for other commands.
    """
    tree = {name: value for name, value in (_read_toml(path) if path else {}).items() if name not in others}
    for dotted, value in overrides.items():
        if value is None or value == ():
            continue
        *sections, field = dotted.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise SettingsError(f"{section} in {path} is {node!r}; it must be a table, written [{section}]")
        node[field] = value
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error


def _explain(error: ValidationError) -> str:
    """One sentence a person can act on, from pydantic's list."""
    parts = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"]) or "settings"
        shown = (
            ""
            if item["type"] in {"missing", "extra_forbidden"} or not item["loc"] or isinstance(item["input"], dict)
            else f" (found {item['input']!r})"
        )
        if item["type"] == "missing" and name == "db":
            parts.append("no database was named; pass --db FOLDER or URI, or write db in the settings file")
            continue
        parts.append(f"{name}: {item['msg'].removeprefix('Value error, ')}{shown}")
    return "; ".join(parts)
