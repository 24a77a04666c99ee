"""What decides whether two vectors may meet: a hash over everything that shapes a vector.

Knows nothing of models or tables; `model` fills it in, `store` compares it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

# Raise it when `text.chunk` or `text.tokenise` cut texts elsewhere: the same lengths then mean other chunks.
CHUNKING_VERSION = 1


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """Everything that shapes a document's vector.

    Two runs with equal identities give equal vectors for equal text (up to the rounding of the arithmetic), so
    batching, device and attention kernel are left out on purpose.

    Attributes:
        weights: SHA-256 over the weight files.
        adapter: SHA-256 over the adapter's files, "" for none.
        tokenizer: SHA-256 over tokenizer.json with `<emb_token>` added.
        prompts: The document prompt's prefix and suffix, and where an untrained `<emb_token>` starts.
        pooling: "emb_token" or "mean".
        head: SHA-256 over the mean and projection applied after pooling, "" for none.
        chunking: Chunk length and overlap in tokens, and `CHUNKING_VERSION`.
        compute_dtype: "float32" or "bfloat16".
        vector_dtype: "float32" or "float16".
        dim: Length of the stored vector.
        normalised: Whether vectors have unit length.
    """

    weights: str
    adapter: str
    tokenizer: str
    prompts: tuple[str, ...]
    pooling: str
    head: str
    chunking: tuple[int, int, int]
    compute_dtype: str
    vector_dtype: str
    dim: int
    normalised: bool = True

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal characters."""
        canonical = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]
