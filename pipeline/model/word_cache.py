"""Token ids by the word: the words of a corpus repeat, so each is cut up once and looked up ever after.

A byte-level tokenizer parts a text into words by a pattern and knows nothing beyond the word when it merges bytes. So
the ids of a text are those of its words, end to end, and are exactly the library's. Where a tokenizer is of another
kind, or its pattern is none of those below, there is no cache. Called by `tokenizer`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, groupby
from typing import Any

from tokenizers import Tokenizer

# Words as GPT-2 parts them (tokenizers' ByteLevel with `use_regex`), then as Qwen 2 and 3 and Llama 3 do.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LATER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_KNOWN_SPLITS = (_LATER % "", _LATER % "{1,3}")
# GPT-2's words where each digit has been parted from the rest before (SmolLM): a digit ends a run of blanks as the
# text's end does.
_GPT2_SINGLE_DIGITS = _GPT2.replace(r" ?\p{N}+", r"\p{N}").replace(r"(?!\S)", r"(?![^\s\p{N}])")

# What the classes of these patterns hold of ASCII. Python's own \s takes four control characters more.
_ASCII = {r"\p{L}": "A-Za-z", r"\p{N}": "0-9", r"\s": r"\t\n\x0b\x0c\r ", r"\S": r"^\t\n\x0b\x0c\r "}
# Between a character and the blank before the next: in each pattern a word ends there, whatever stands on either side
# of the two. Where a text is not ASCII, the pieces that are can be parted here, and the others left to the library.
_BETWEEN_PIECES = re.compile(r"(?<=[!-~])(?= [!-~])")

# Tokens that are no special ones are looked for in every text, one after the other; more than these take too long.
_MAX_ADDED = 64

# About 60 MB of words and ids a process.
_MAX_CHARS = 2_000_000
# Where words do not repeat (random letters, base64), a new one costs up to three times what the library takes for it.
# After so many characters, of which more than this share were of new words, the library does it all for a while.
_JUDGED_CHARS = 2_000_000
_MAX_NEW_SHARE = 0.3
_REST_CHARS = 50_000_000
# Of texts that are parted at once; their words take ten times as many bytes for a moment.
_PART_CHARS = 2_000_000


class WordCache:
    """Token ids of texts, from those of their words; safe to share between threads.

    Args:
        tokenizer: Recognises no special token in a text, cuts and pads nothing.
        pattern: One of this module's, which parts texts as the tokenizer does.
        added: Contents of tokens that it does recognise in a text.
    """

    def __init__(self, tokenizer: Tokenizer, pattern: str, added: Collection[str]) -> None:
        self._tokenizer = tokenizer
        self._find: Callable[[str], list[str]] = re.compile(_for_ascii(pattern)).findall
        self._added = re.compile("|".join(map(re.escape, added))) if added else None
        self._ids: dict[str, tuple[int, ...]] = {}
        self._chars = self._seen = self._new = self._rest = 0

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> WordCache | None:
        """A cache where the tokenizer's words are known and few tokens stand beside them, else None."""
        pattern = _pattern_of(tokenizer)
        if pattern is None:
            return None
        added = {token.content for token in tokenizer.get_added_tokens_decoder().values() if not token.special}
        # the library looks for some in the text as it is, for some in the text as it is normalised
        added |= {unicodedata.normalize("NFC", content) for content in added}
        return cls(tokenizer, pattern, sorted(added)) if len(added) <= _MAX_ADDED else None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as the tokenizer gives them without special tokens."""
        ids: list[list[int]] = []
        for part in _parts(texts):
            ids += self._encode(part)
        return ids

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        num_chars = sum(map(len, texts))
        if self._rest > 0:
            self._rest -= num_chars
            return self._by_library(texts)
        # another thread may begin a new table at any time; this call goes on with the one it began with
        table = self._ids
        words = [self._words(text) for text in texts]
        new = list(set(chain.from_iterable(words)).difference(table))
        if new:
            table.update(zip(new, map(tuple, self._by_library(new)), strict=True))
        self._judge(num_chars, sum(map(len, new)))
        return [list(chain.from_iterable(map(table.__getitem__, of_text))) for of_text in words]

    def _words(self, text: str) -> list[str]:
        if self._holds_added(text):
            return [text]
        if text.isascii():
            return self._find(text)
        words: list[str] = []
        for is_ascii, group in groupby(_BETWEEN_PIECES.split(text), key=str.isascii):
            pieces = list(group)
            words += self._find("".join(pieces)) if is_ascii else pieces
        return words

    def _holds_added(self, text: str) -> bool:
        if self._added is None:
            return False
        if self._added.search(text):
            return True
        return not text.isascii() and self._added.search(unicodedata.normalize("NFC", text)) is not None

    def _by_library(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _judge(self, seen: int, new: int) -> None:
        """Begins a new table where this one is full, and rests where words do not repeat."""
        self._seen += seen
        self._new += new
        self._chars += new
        if self._seen >= _JUDGED_CHARS:
            self._rest = _REST_CHARS if self._new > _MAX_NEW_SHARE * self._seen else 0
            self._seen = self._new = 0
        if self._chars > _MAX_CHARS:
            self._ids, self._chars = {}, 0


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in their order, so many characters at a time, one text at least."""
    begin, num_chars = 0, 0
    for end, text in enumerate(texts):
        num_chars += len(text)
        if num_chars > _PART_CHARS and end > begin:
            yield texts[begin:end]
            begin, num_chars = end, len(text)
    if begin < len(texts):
        yield texts[begin:]


def _pattern_of(tokenizer: Tokenizer) -> str | None:
    """How the tokenizer parts texts into words, where this module knows it."""
    if getattr(tokenizer.model, "dropout", None):
        return None
    if tokenizer.normalizer is not None and _state(tokenizer.normalizer) != {"type": "NFC"}:
        return None
    if tokenizer.pre_tokenizer is None:
        return None
    steps = _state(tokenizer.pre_tokenizer)
    match steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return _GPT2
        case [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ]:
            return _GPT2_SINGLE_DIGITS
        case [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if split in _KNOWN_SPLITS:
            return str(split)
    return None


def _state(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as it stands in tokenizer.json."""
    found: dict[str, Any] = json.loads(part.__getstate__())
    return found


def _for_ascii(pattern: str) -> str:
    """A pattern for ASCII texts alone, in Python's own `re`, which has no classes of Unicode's categories."""
    inner = re.compile(r"\\p\{[LN]\}|\\[sS]")

    def spelled(found: re.Match[str]) -> str:
        part = found[0]
        return inner.sub(lambda c: _ASCII[c[0]], part) if part.startswith("[") else f"[{_ASCII[part]}]"

    return re.sub(rf"\[[^\]]*\]|{inner.pattern}", spelled, pattern)
