"""The torch-free half of a reasoner: which model, which prompt ids for a query, which fingerprint.

This is all that a look-up in the cache needs. `reasoner.load_reasoner` turns a bundle into something that generates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.errors import SettingsError
from pipeline.fingerprint import ReasonerIdentity
from pipeline.model.checkpoint import Checkpoint, resolve
from pipeline.model.endpoint_address import checked_base
from pipeline.model.identity import digest_adapter, digest_weights
from pipeline.model.tokenizer import TextTokenizer, load_tokenizer
from pipeline.prompts import Prompt, reasoning_instruction, reasoning_prompt
from pipeline.records import Query
from pipeline.settings import ModelSettings, ReasonSettings

# An endpoint is given ids of the encoder's tokenizer, as it serves that model; plumbing needs no model of its own.
_TOKENIZER_OF = "default"


@dataclass(frozen=True, slots=True)
class ReasonerBundle:
    """A reasoner that is ready to be asked what a query's prompt and fingerprint are.

    Attributes:
        settings: As resolved; `model` is never None, `compute_dtype` never "auto".
        checkpoint: Its files; for an endpoint the encoder's, whose tokenizer spells the prompt ids.
        allow_remote_code: Passed to transformers.
        source: The model's name as people know it.
    """

    settings: ReasonSettings
    checkpoint: Checkpoint
    allow_remote_code: bool
    source: str
    _prompts: dict[str, Prompt] = field(default_factory=dict, repr=False)
    _digests: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer; loaded once a process."""
        return load_tokenizer(self.checkpoint.folder)

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
        prompt = self.prompt(query)
        served = self.settings.engine in ("openai", "echo")
        identity = ReasonerIdentity(
            weights=f"{self.settings.engine}:{self.source}" if served else self._digest("weights", digest_weights),
            adapter=self._digest("adapter", digest_adapter) if self.checkpoint.adapter else "",
            tokenizer="" if served else self.tokenizer.digest,
            prompt=(prompt.prefix, prompt.suffix),
            compute_dtype="" if served else self.settings.compute_dtype,
            max_query_tokens=self.settings.max_query_tokens,
        )
        return identity.fingerprint

    def _digest(self, what: str, digest: Callable[[str], str]) -> str:
        if what not in self._digests:
            folder = self.checkpoint.adapter if what == "adapter" else self.checkpoint.folder
            self._digests[what] = digest(str(folder))
        return self._digests[what]


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
    served = settings.engine in ("openai", "echo")
    model = settings.model or ("echo" if settings.engine == "echo" else encoder.model)
    own = settings.model is None or settings.engine == "openai"
    dtype = settings.compute_dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    checkpoint = resolve(
        _TOKENIZER_OF if settings.engine == "echo" else encoder.model if own else model,
        revision=None if settings.engine == "echo" else encoder.revision if own else settings.revision,
        adapter=None if served else encoder.adapter if own else settings.adapter,
        allow_remote_code=encoder.allow_remote_code,
    )
    if checkpoint.kind != "decoder":
        raise SettingsError(
            f"{model} cannot reason: it is not a causal decoder; name one that is with --reasoner, such as default"
        )
    settings = settings.model_copy(update={"model": model, "compute_dtype": dtype})
    source = model if served else checkpoint.source
    bundle = ReasonerBundle(settings, checkpoint, encoder.allow_remote_code, source)
    _check_fits(bundle)
    return bundle


def _check_fits(bundle: ReasonerBundle) -> None:
    """A served model's positions are its server's to know."""
    settings = bundle.settings
    if settings.engine in ("openai", "echo"):
        return
    frame = len(bundle.prompt_ids(Query("", "a")))
    needed = frame + settings.max_query_tokens + settings.sampling.max_tokens
    if needed > bundle.checkpoint.max_positions:
        raise SettingsError(
            f"a query of {settings.max_query_tokens} tokens, its instruction of {frame} and a trajectory of "
            f"{settings.sampling.max_tokens} are {needed} tokens, but {bundle.source} has "
            f"{bundle.checkpoint.max_positions} positions; lower --max-tokens or --max-query-tokens"
        )
