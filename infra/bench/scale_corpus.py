"""A corpus of any size for the scale benchmark: JSON lines, the same bytes from the same seed.

Texts are 60 to 120 words, drawn as often as they come in Python's own language reference (which every installation
has), one in thirty of them a name or number nobody else uses: about as many tokens a word as prose has.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DOCUMENTS_PER_SHARD = 12_500
_POOL_WORDS = 500_000
_RARE_SHARE = 1 / 30
_WORDS = (60, 120)
_SYLLABLES = ("ka", "to", "ri", "men", "sol", "ba", "ter", "in", "lo", "ex", "pra", "ti", "on", "ve", "ur", "da")


class Prose:
    """A long run of words; a text is a stretch of it, so that making one costs next to nothing."""

    def __init__(self, seed: int = 0) -> None:
        from pydoc_data.topics import topics

        generator = np.random.default_rng(seed)
        known = re.findall(r"(?<!\S)[A-Za-z(]?[A-Za-z'-]*[A-Za-z][).,:;]?(?!\S)", "\n".join(sorted(topics.values())))
        pool = [known[i] for i in generator.integers(0, len(known), _POOL_WORDS)]
        for i in np.flatnonzero(generator.random(_POOL_WORDS) < _RARE_SHARE):
            parts = generator.integers(0, len(_SYLLABLES), 3)
            pool[i] = f"{''.join(_SYLLABLES[p] for p in parts)}{i}"
        self._text = " ".join(pool)
        self._starts: NDArray[np.int64] = np.cumsum([0, *(len(word) + 1 for word in pool)])

    def texts(self, count: int, *, seed: int) -> list[str]:
        """As many texts, the same for the same seed."""
        generator = np.random.default_rng(seed)
        begin = generator.integers(0, _POOL_WORDS - _WORDS[1], count)
        end = begin + generator.integers(_WORDS[0], _WORDS[1] + 1, count)
        bounds = zip(self._starts[begin].tolist(), (self._starts[end] - 1).tolist(), strict=True)
        return [self._text[a:b] for a, b in bounds]


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"part-{number:05}.jsonl"


def write_corpus(folder: Path, prose: Prose, *, documents: int) -> int:
    """Writes a corpus of so many documents; returns its bytes."""
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, documents, DOCUMENTS_PER_SHARD)):
        count = min(DOCUMENTS_PER_SHARD, documents - first)
        _write_shard(shard_path(folder, number), first, prose.texts(count, seed=number))
    return sum(path.stat().st_size for path in folder.iterdir())


def change_documents(folder: Path, prose: Prose, *, documents: int, changed: int, night: int = 1) -> int:
    """Gives documents a text of this night in place, a fifth of a shard at most; returns in how many shards."""
    for number, first in enumerate(range(0, documents, DOCUMENTS_PER_SHARD)):
        count = min(DOCUMENTS_PER_SHARD, documents - first)
        share = min(changed, max(1, count // 5))
        texts = prose.texts(count, seed=number)
        texts[:share] = prose.texts(share, seed=number + 1_000_003 * night)
        _write_shard(shard_path(folder, number), first, texts)
        changed -= share
        if not changed:
            return number + 1
    raise ValueError(f"a corpus of {documents} documents has no {changed} more to change")


def _write_shard(path: Path, first: int, texts: list[str]) -> None:
    with path.open("w", encoding="utf-8") as lines:
        for number, text in enumerate(texts, first):
            row = {"id": f"doc-{number:09}", "title": " ".join(text.split(maxsplit=4)[:4]), "text": text}
            lines.write(json.dumps(row | {"year": 1990 + number % 36}) + "\n")
