"""The torch-free half of a reasoner: which model, which prompt ids for a query, which fingerprint.

This is all that a look-up in the cache needs. `reasoner.load_reasoner` turns a bundle into something that generates.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipeline.errors import SettingsError
from pipeline.fingerprint import ReasonerIdentity, imported_reasoner, imported_sampling, trajectory_key
from pipeline.model.checkpoint import Checkpoint, resolve
from pipeline.model.endpoint_address import checked_base
from pipeline.model.identity import digest_adapter, digest_weights
from pipeline.model.tokenizer import TextTokenizer, load_tokenizer
from pipeline.prompts import TASK_NOUNS, Prompt, reasoning_instruction, reasoning_prompt
from pipeline.query_settings import ReasonSettings
from pipeline.records import Query
from pipeline.settings import ModelSettings

# An endpoint is given ids of the encoder's tokenizer, as it serves that model; plumbing needs no model of its own.
_TOKENIZER_OF = "default"
# Engines whose weights are not ours to read.
_SERVED = ("openai", "imported", "echo")


@dataclass(frozen=True, slots=True)
class ReasonerBundle:
    """A reasoner that is ready to be asked what a query's prompt and fingerprint are.

    Attributes:
        settings: As resolved; `model` is never None, `compute_dtype` never "auto".
        arithmetic: `compute_dtype` as it was asked for: "auto" stands for itself in the fingerprint, so that what a
            laptop and a cluster wrote with one model is one cache.
        checkpoint: Its files; for an endpoint the encoder's, whose tokenizer spells the prompt ids.
        allow_remote_code: Passed to transformers.
        source: The model's name as people know it; for an endpoint with the revision that was named, if any.
    """

    settings: ReasonSettings
    arithmetic: str
    checkpoint: Checkpoint
    allow_remote_code: bool
    source: str
    _prompts: dict[str, Prompt] = field(default_factory=dict, repr=False)
    _fingerprints: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer; loaded once a process."""
        return load_tokenizer(self.checkpoint.folder)

    @property
    def max_query_tokens(self) -> int | None:
        """Where the reasoner's reading of a query ends; None for an import: nobody knows what was read elsewhere."""
        return None if self.settings.engine == "imported" else self.settings.max_query_tokens

    def instruction(self, query: Query) -> str:
        """What the model is told to do with a query: the settings' own words, else its task's."""
        if self.settings.instruction is not None:
            return self.settings.instruction
        return reasoning_instruction(query.task, own=self.settings.tasks)

    def prompt(self, query: Query) -> Prompt:
        """What stands before and after the query's text."""
        instruction = self.instruction(query)
        if instruction not in self._prompts:
            tokenizer = self.tokenizer
            render = tokenizer.render if tokenizer.has_chat_format else None
            self._prompts[instruction] = reasoning_prompt(instruction, render=render)
        return self._prompts[instruction]

    def prompt_ids(self, query: Query) -> tuple[int, ...]:
        """Token ids of the whole prompt, the same for every engine; a query that is too long is cut at its end."""
        prefix, suffix = self.tokenizer.frame(self.prompt(query))
        body = self.tokenizer.encode([query.text])[0][: self.settings.max_query_tokens]
        return (*prefix, *body, *suffix)

    def fingerprint(self, query: Query) -> str:
        """Of the model and the instruction that reason about this query."""
        engine = self.settings.engine
        instruction = "" if engine == "imported" else self.instruction(query)
        if instruction not in self._fingerprints:
            identity = imported_reasoner(self.source) if engine == "imported" else self._identity(query)
            self._fingerprints[instruction] = identity.fingerprint
        return self._fingerprints[instruction]

    def _identity(self, query: Query) -> ReasonerIdentity:
        prompt, served = self.prompt(query), self.settings.engine in _SERVED
        return ReasonerIdentity(
            weights=f"{self.settings.engine}:{self.source}" if served else digest_weights(self.checkpoint.folder),
            adapter=digest_adapter(self.checkpoint.adapter) if self.checkpoint.adapter else "",
            tokenizer="" if served else self.tokenizer.digest,
            prompt=(prompt.prefix, prompt.suffix),
            compute_dtype="" if served else self.arithmetic,
            max_query_tokens=self.settings.max_query_tokens,
        )

    @property
    def sampling(self) -> str:
        """The sampling settings as keys have them; nothing is known of those of an import."""
        return self.settings.sampling.canonical

    def key(self, query: Query, *, sample: int = 0) -> str:
        """Under which a query's trajectory is cached."""
        sampling = imported_sampling(query.task) if self.settings.engine == "imported" else self.sampling
        return trajectory_key(query.text, reasoner=self.fingerprint(query), sampling=sampling, sample=sample)

    def other_keys(self, query: Query) -> list[str]:
        """Under which an import may be there too, best first: of no task, or of any known one if the query has none."""
        if self.settings.engine != "imported":
            return []
        tasks = [""] if query.task else sorted({*TASK_NOUNS, *self.settings.tasks})
        return [self.key(replace(query, task=task)) for task in tasks]

    def keeps_vector(self, query: Query) -> bool:
        """Whether the vector of a query's trajectory may be cached: whether the key decides the instruction.

        That of an import holds the task alone, so a vector under words of somebody's own is computed and not kept.
        """
        if self.settings.engine != "imported":
            return True
        return self.instruction(query) == reasoning_instruction(query.task)


def open_reasoner(settings: ReasonSettings, encoder: ModelSettings, *, device: str) -> ReasonerBundle:
    """Opens a reasoner without loading its weights.

    Args:
        settings: Which model, and what it is told.
        encoder: The encoder's settings: T1 reasons and embeds with one model, so it is the default.
        device: "cpu" or "cuda"; decides the arithmetic when `compute_dtype` is "auto".

    Raises:
        ModelError: the model is absent or cannot be used.
        SettingsError: the settings do not fit each other or the model.
    """
    if settings.engine == "openai" and not (settings.endpoint and settings.model):
        raise SettingsError("engine openai needs --endpoint URL and --reasoner NAME, the model that it serves")
    if settings.endpoint:
        checked_base(settings.endpoint)
    if settings.engine == "imported" and (not settings.model or settings.num_samples > 1):
        raise SettingsError(
            "engine imported needs --reasoner SOURCE, as `t1 cache import --source` named it, and has one trajectory a "
            "query"
        )
    served = settings.engine in _SERVED
    model = settings.model or ("echo" if settings.engine == "echo" else encoder.model)
    own = settings.model is None or settings.engine in ("openai", "imported")
    dtype = asked = settings.compute_dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    checkpoint = resolve(
        _TOKENIZER_OF if settings.engine == "echo" else encoder.model if own else model,
        revision=None if settings.engine == "echo" else encoder.revision if own else settings.revision,
        adapter=None if served else encoder.adapter if own else settings.adapter,
        allow_remote_code=encoder.allow_remote_code,
    )
    if checkpoint.kind != "decoder" and settings.engine == "openai":
        raise SettingsError(
            f"engine openai is sent token ids of the encoder's tokenizer, which that of {encoder.model} cannot be: it "
            "is not a causal decoder; reason with another engine, or index with a decoder"
        )
    if checkpoint.kind != "decoder" and settings.engine != "imported":
        raise SettingsError(
            f"{model} cannot reason: it is not a causal decoder; name one that is with --reasoner, such as default"
        )
    settings = settings.model_copy(update={"model": model, "compute_dtype": dtype})
    source = model if served else checkpoint.source
    if settings.engine == "openai" and settings.revision:
        source = f"{model}@{settings.revision}"  # nothing else tells what the server has under that name
    bundle = ReasonerBundle(settings, asked, checkpoint, encoder.allow_remote_code, source)
    _check_fits(bundle)
    return bundle


def _check_fits(bundle: ReasonerBundle) -> None:
    """A served model's positions are its server's to know."""
    settings = bundle.settings
    if settings.engine in _SERVED:
        return
    frame = len(bundle.prompt_ids(Query("", "a")))
    needed = frame + settings.max_query_tokens + settings.sampling.max_tokens
    if needed > bundle.checkpoint.max_positions:
        raise SettingsError(
            f"a query of {settings.max_query_tokens} tokens, its instruction of {frame} and a trajectory of "
            f"{settings.sampling.max_tokens} are {needed} tokens, but {bundle.source} has "
            f"{bundle.checkpoint.max_positions} positions; lower --max-tokens or --max-query-tokens"
        )
