"""One opened model, free of torch: files, tokenizer, prompt frames and identity.

This is all that read tasks, plans, searches and a run with nothing to do need. `load.load_encoder` turns a bundle into
something that computes vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.errors import SettingsError
from pipeline.fingerprint import CHUNKING_VERSION, EncoderIdentity
from pipeline.model.checkpoint import Checkpoint, resolve
from pipeline.model.identity import digest_adapter, digest_head, digest_weights
from pipeline.model.tokenizer import TextTokenizer, load_tokenizer
from pipeline.prompts import EMB_START, Prompt, chat_prompt, plain_prompt, reasoned_suffix, reasoning_prompt
from pipeline.settings import ModelSettings

# "reasoned" is a query with its trajectory; its body is the whole prompt, so that each task can have its own.
Role = Literal["document", "query", "reasoned"]


@dataclass(frozen=True, slots=True)
class Frame:
    """Token ids before and after a body; for a decoder the last one is `<emb_token>`."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens it adds to every body."""
        return len(self.prefix) + len(self.suffix)


@dataclass(frozen=True, slots=True)
class ModelBundle:
    """A model that is ready to be asked what a text costs and which vectors it may meet.

    Attributes:
        settings: As resolved; `compute_dtype` is never "auto", `revision` is a commit.
        checkpoint: Its files.
        frames: Token ids around a body, by role.
        prompts: The same as text, by role; empty for encoder-only and hashing models.
        identity: What decides whether two vectors may meet.
    """

    settings: ModelSettings
    checkpoint: Checkpoint
    frames: dict[Role, Frame]
    prompts: dict[Role, Prompt]
    identity: EncoderIdentity

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer; loaded once a process."""
        return load_tokenizer(self.checkpoint.folder)

    @property
    def max_body_tokens(self) -> int:
        """Tokens that a body may have in one forward pass."""
        return self.checkpoint.max_positions - max(f.num_tokens for f in self.frames.values())

    @property
    def chunk_tokens(self) -> int:
        """Tokens of the longest chunk's body: what was asked for, or what fits the model."""
        return min(self.settings.chunk_tokens, self.max_body_tokens)

    def reasoned_body(
        self, query: str, trajectory: str, *, instruction: str, max_query_tokens: int | None = None
    ) -> list[int]:
        """Token ids to encode as "reasoned": the reasoning prompt and what was written, as the reasoner saw them.

        Whoever wrote the trajectory: this model is shown it as its own. Where both do not fit, the query's end goes
        first.

        Args:
            query: Its text.
            trajectory: Not blank.
            instruction: What the reasoner was told.
            max_query_tokens: Where the query was cut before the reasoner read it; None where it was not.
        """
        tokenizer = self.tokenizer
        asked, written = tokenizer.encode([query, trajectory])
        asked = asked[:max_query_tokens]
        limit = self.checkpoint.max_positions - self.frames["reasoned"].num_tokens
        if self.checkpoint.kind != "decoder":
            return [*asked, *written][:limit]
        render = tokenizer.render if tokenizer.has_chat_format else None
        prefix, suffix = tokenizer.frame(reasoning_prompt(instruction, render=render))
        room = max(0, limit - len(prefix) - len(suffix) - len(written))
        return [*prefix, *asked[:room], *suffix, *written][-limit:]


def open_bundle(settings: ModelSettings, *, device: str) -> ModelBundle:
    """Opens a model without loading its weights.

    Args:
        settings: Which model and what shapes its vectors.
        device: "cpu" or "cuda"; decides the arithmetic when `compute_dtype` is "auto".

    Raises:
        ModelError: the model is absent or cannot be used.
        SettingsError: the settings do not fit the model.
    """
    checkpoint = resolve(
        settings.model,
        revision=settings.revision,
        adapter=settings.adapter,
        allow_remote_code=settings.allow_remote_code,
    )
    if settings.compute_dtype == "auto":
        settings = settings.model_copy(update={"compute_dtype": "bfloat16" if device == "cuda" else "float32"})
    if settings.model.startswith("hf://"):
        repo, _, commit = checkpoint.source.rpartition("@")
        settings = settings.model_copy(update={"model": repo, "revision": commit})
    if settings.dim is not None and settings.dim > checkpoint.hidden_size:
        raise SettingsError(
            f"--dim {settings.dim} is more than the model's {checkpoint.hidden_size} components; leave it out or "
            "choose fewer"
        )
    prompts, frames = _frames(settings, checkpoint)
    bundle = ModelBundle(settings, checkpoint, frames, prompts, _identity(settings, checkpoint, prompts))
    if bundle.max_body_tokens < 32:
        raise SettingsError(
            f"the instruction leaves {bundle.max_body_tokens} of {checkpoint.max_positions} tokens for the text; "
            "shorten it"
        )
    if bundle.chunk_tokens != settings.chunk_tokens:
        identity = replace(bundle.identity, chunking=(bundle.chunk_tokens, *bundle.identity.chunking[1:]))
        bundle = replace(bundle, identity=identity)
    return bundle


def _frames(settings: ModelSettings, checkpoint: Checkpoint) -> tuple[dict[Role, Prompt], dict[Role, Frame]]:
    tokenizer = load_tokenizer(checkpoint.folder)
    if checkpoint.kind == "hashing":
        empty = Frame((), ())
        return {}, {"document": empty, "query": empty, "reasoned": empty}
    if checkpoint.kind == "encoder":
        lead, tail = tokenizer.specials()
        frame = Frame(tuple(lead), tuple(tail))
        return {}, {"document": frame, "query": frame, "reasoned": frame}
    wording: dict[Role, tuple[str, str]] = {
        "document": (settings.document_instruction, settings.document_opening),
        "query": (settings.query_instruction, settings.query_opening),
    }
    prompts: dict[Role, Prompt] = {}
    frames: dict[Role, Frame] = {}
    for role, (instruction, opening) in wording.items():
        chat = tokenizer.has_chat_format
        prompts[role] = (
            chat_prompt(instruction, opening, render=tokenizer.render) if chat else plain_prompt(instruction, opening)
        )
        prefix, suffix = tokenizer.frame(prompts[role])
        frames[role] = Frame(tuple(prefix), tuple(suffix))
    frames["reasoned"] = Frame((), tuple(tokenizer.frame_ids(reasoned_suffix(settings.query_opening))))
    return prompts, frames


def _identity(settings: ModelSettings, checkpoint: Checkpoint, prompts: dict[Role, Prompt]) -> EncoderIdentity:
    hashing = checkpoint.kind == "hashing"
    document = prompts.get("document")
    start = EMB_START if load_tokenizer(checkpoint.folder).emb_token_added else ""
    return EncoderIdentity(
        weights=checkpoint.source if hashing else digest_weights(checkpoint.folder),
        adapter=digest_adapter(checkpoint.adapter) if checkpoint.adapter else "",
        tokenizer=load_tokenizer(checkpoint.folder).digest,
        # Queries may be asked with another instruction without re-encoding a single document.
        prompts=(document.prefix, document.suffix, start) if document else (),
        pooling={"decoder": "emb_token", "encoder": "mean", "hashing": "hashing"}[checkpoint.kind],
        head="" if hashing else digest_head(checkpoint.folder),
        chunking=(settings.chunk_tokens, settings.overlap_tokens, CHUNKING_VERSION),
        compute_dtype=str(settings.compute_dtype),
        vector_dtype=settings.vector_dtype,
        dim=settings.dim or checkpoint.hidden_size,
    )
