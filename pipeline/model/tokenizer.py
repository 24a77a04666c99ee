"""Token ids of bodies and of the frame around them, by the `tokenizers` library (no torch, no transformers).

A body never yields a special token: `<|im_end|>` written in a document is ordinary text. `<emb_token>` is added to a
tokenizer that lacks it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from pipeline.errors import ModelError
from pipeline.model.word_cache import WordCache
from pipeline.prompts import EMB_TOKEN, Prompt

_TRAINED_PART = re.compile(r"({%[-+]?\s*)(end)?generation\b")


class TextTokenizer:
    """A model's tokenizer with `<emb_token>`; safe to share between threads that only encode."""

    def __init__(self, folder: str) -> None:
        path = Path(folder)
        try:
            self._bodies = Tokenizer.from_file(str(path / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing more precise
            raise ModelError(f"tokenizer.json of {folder} cannot be read: {error}; save it anew") from error
        self._bodies.no_truncation()
        self._bodies.no_padding()
        self.emb_token_added = self._bodies.token_to_id(EMB_TOKEN) is None
        self._bodies.add_special_tokens([AddedToken(EMB_TOKEN, special=True, normalized=False)])
        self.emb_token_id = int(self._bodies.token_to_id(EMB_TOKEN) or 0)
        self._bodies.encode_special_tokens = True
        self._words = WordCache.of(self._bodies)
        self._template = _chat_template(path)

    @cached_property
    def _frames(self) -> Tokenizer:
        """One that recognises special tokens; a tenth of a second, which a model without prompts has no use for."""
        frames = Tokenizer.from_str(self._bodies.to_str())
        frames.encode_special_tokens = False
        return frames

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        if self._words is not None:
            return self._words.encode(texts)
        return [e.ids for e in self._bodies.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._frames.decode(list(ids), skip_special_tokens=True))

    def offsets(self, text: str) -> tuple[list[int], list[int]]:
        """First character, and one past the last, of each token of a text; both ascending."""
        pairs = self._bodies.encode(text, add_special_tokens=False).offsets
        starts, ends, low = [], [], 0
        for start, end in pairs:
            low = max(low, start)  # the bytes of one character can be several tokens with one offset
            starts.append(low)
            ends.append(max(end, low))
        return starts, ends

    def frame(self, prompt: Prompt) -> tuple[list[int], list[int]]:
        """Token ids of a prompt's prefix and suffix, special tokens recognised."""
        lead, _ = self.specials() if self._template is None else ([], [])
        return [*lead, *self.frame_ids(prompt.prefix)], self.frame_ids(prompt.suffix)

    def frame_ids(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are recognised."""
        return list(self._frames.encode(text, add_special_tokens=False).ids)

    def specials(self) -> tuple[list[int], list[int]]:
        """What the tokenizer itself puts before and after a text, such as [CLS] and [SEP]."""
        encoding = self._frames.encode("a", add_special_tokens=True)
        ordinary = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
        return encoding.ids[: ordinary[0]], encoding.ids[ordinary[-1] + 1 :]

    @property
    def has_chat_format(self) -> bool:
        """Whether the model says how a chat is spelled."""
        return self._template is not None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Chat messages in the model's own format, the assistant's turn opened.

        Raises:
            ModelError: the template is broken, or refuses a system turn.
        """
        # a fiftieth of a second, which processes that only tokenise have no use for
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self._template is None:
            raise ModelError("this model has no chat template")
        source, names = self._template
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        # transformers' own block, which marks what a model is trained on and prints what it holds
        source = _TRAINED_PART.sub(lambda found: f"{found[1]}{'endif' if found[2] else 'if true'}", source)
        try:
            return str(
                environment.from_string(source).render(
                    messages=messages, add_generation_prompt=True, enable_thinking=False, **names
                )
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            raise ModelError(f"the model's chat template cannot be used: {error}") from error

    @property
    def digest(self) -> str:
        """SHA-256 over the tokenizer with `<emb_token>`."""
        return hashlib.sha256(self._bodies.to_str().encode()).hexdigest()


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _chat_template(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """The template's source and the special tokens that it may name."""
    config_path = folder / "tokenizer_config.json"
    try:
        config: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"tokenizer_config.json of {folder} is not valid JSON: {error}") from error
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several named templates
        source = next((t["template"] for t in source if t.get("name") == "default"), None)
    if not source:
        return None
    names = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(key)
        names[key] = token.get("content", "") if isinstance(token, dict) else (token or "")
    return str(source), names


@lru_cache(maxsize=4)
def load_tokenizer(folder: str) -> TextTokenizer:
    """The tokenizer of a checkpoint folder, once a process."""
    return TextTokenizer(folder)
