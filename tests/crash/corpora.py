"""A corpus with everything in it, in two editions, so that the second adds, changes, deletes and moves."""

from __future__ import annotations

import json
import random
from typing import Any

from pipeline.storage import join, open_filesystem

NUM_SHARDS = 3
NUM_DOCUMENTS = 720
_WORDS = [f"word{number}" for number in range(300)]


def write_corpus(uri: str, *, edition: int = 1) -> None:
    """Writes an edition of the corpus, over whatever is there.

    The second edition lacks a tenth of the documents of the first, has a tenth of others, a tenth with other text, and
    its last shard under another name.
    """
    fs, path = open_filesystem(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)
    shards: list[list[str]] = [[] for _ in range(NUM_SHARDS)]
    for number in range(NUM_DOCUMENTS):
        lines = shards[number * NUM_SHARDS // NUM_DOCUMENTS]
        part = number % 10
        if edition == 2 and part == 3:
            continue
        lines.append(_line(f"d{number}", seed=number + (10_000 if edition == 2 and part == 4 else 0)))
        if edition == 2 and part == 5:
            lines.append(_line(f"new{number}", seed=number))
        if number % 60 == 7:
            lines.append(_line(f"d{number // 2}", seed=-number))  # an id that another document has already
        if number % 80 == 9:
            lines.append(["{broken", json.dumps({"id": f"bad{number}", "text": " "})][number // 80 % 2])
    for number, lines in enumerate(shards):
        name = f"renamed-{number}" if edition == 2 and number == NUM_SHARDS - 1 else f"part-{number}"
        target = join(path, f"{name}.jsonl")
        fs.makedirs(path, exist_ok=True)
        fs.pipe_file(target, "".join(f"{line}\n" for line in lines).encode())


def _line(name: str, *, seed: int) -> str:
    chooser = random.Random(seed)
    # one document in eight becomes several chunks
    num_words = chooser.choice([5, 8, 12, 15, 18, 20, 22, 90])
    row: dict[str, Any] = {"id": name, "title": f"Of {name}", "text": " ".join(chooser.choices(_WORDS, k=num_words))}
    return json.dumps(row | {"year": 1990 + seed % 30})
