"""What the query side is asked to do: which model reasons, how it draws, where it runs.

Free of torch, ray and lance, as `settings` is. Called by jobs, flows and what makes prompts and keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.settings import ModelSettings, PoolSettings, Section, resolve_settings


class SamplingSettings(Section):
    """How a trajectory is drawn; all of it is part of the trajectory's key in the cache."""

    max_tokens: int = Field(256, ge=1, le=131_072, description="A longer trajectory is cut, and not searched with.")
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="0 takes the likeliest token each time.")
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, description="0 for no bound.")
    seed: int = Field(0, ge=0)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="Texts that end the reasoning, beside the model's own end of a turn."
    )

    @property
    def canonical(self) -> str:
        """JSON with sorted keys, as cache keys have it."""
        return json.dumps(self.model_dump(), sort_keys=True)


class ReasonSettings(Section):
    """Which model reasons about queries, how it is told to, and where it runs."""

    engine: Literal["transformers", "vllm", "openai", "imported", "echo"] = Field(
        "transformers",
        description="Continuous batching of transformers, vLLM, an OpenAI-compatible endpoint, or trajectories that "
        "were imported; echo is for plumbing.",
    )
    model: str | None = Field(
        None,
        description="As for an encoder, the name that an endpoint serves, or the source of an import; the table's own "
        "model when unset.",
    )
    revision: str | None = None
    adapter: str | None = None
    endpoint: str | None = Field(None, description="Base URL of an endpoint, such as http://host:8000/v1.")
    instruction: str | None = Field(None, description="Told to the model instead of the task's own.")
    tasks: dict[str, str] = Field(default_factory=dict, description="Instructions by task, over the built-in ones.")
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    num_samples: int = Field(1, ge=1, le=64, description="Trajectories a query; their vectors are averaged.")
    max_query_tokens: int = Field(1_024, ge=16, description="A longer query is cut before the model reads it.")
    sampling: SamplingSettings = SamplingSettings()
    batch_queries: int | None = Field(
        None, ge=1, description="Trajectories that one reasoner writes at a time: 32 on CPU and 256 on CUDA when unset."
    )
    pool: PoolSettings = Field(PoolSettings(), description="As for encoders, sized apart from them.")

    def batch_on(self, device: str) -> int:
        """Trajectories that one reasoner on that device writes at a time."""
        # on CUDA a step of few costs what one of many does: a kernel's start
        return self.batch_queries or (256 if device == "cuda" else 32)

    @model_validator(mode="after")
    def _samples_differ(self) -> ReasonSettings:
        # an import has one trajectory a query at whatever temperature, and says so itself
        if self.num_samples > 1 and self.sampling.temperature == 0 and self.engine != "imported":
            raise ValueError(
                f"num_samples is {self.num_samples} at temperature 0, which writes the same text each time; give "
                "--temperature, such as 0.7, or leave --samples out"
            )
        return self


class QuerySettings(Section):
    """Everything `t1 reason`, `t1 eval` and a search that reasons need."""

    db: str
    encoder: ModelSettings = Field(ModelSettings(), description="Only where the database has no table to say it.")
    reason: ReasonSettings = ReasonSettings()


def load_query_settings(path: str | None, overrides: Mapping[str, Any]) -> QuerySettings:
    """The settings of the query side: the file's `db`, `encoder` and `reason`, then the flags that were given.

    Args:
        path: A TOML file, the one of the index run or another; None for none.
        overrides: {"section.field": value}; a value of None leaves the file's or the default.

    Raises:
        SettingsError: an unknown field, a value out of bounds, or an unreadable file.
    """
    others = {"corpus", "pool", "commit", "indexes", "compaction", "publish"}
    return resolve_settings(QuerySettings, path, overrides, others=others)
