"""What decides whether two vectors may meet, and whether a trajectory is one that was asked for already.

Hashes over everything that shapes a vector or a trajectory. Knows nothing of models or tables; `model` fills them in,
`store` compares them.
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
        return _hash(asdict(self))


@dataclass(frozen=True, slots=True)
class ReasonerIdentity:
    """Everything but the query and the sampling settings that shapes a trajectory.

    Which engine computed it is left out, as for vectors: all are given the same prompt ids.

    Attributes:
        weights: SHA-256 over the weight files; for a served model its name, and the revision if
            one was named; for an import its source.
        adapter: SHA-256 over the adapter's files, "" for none.
        tokenizer: SHA-256 over tokenizer.json; "" where the model is not ours to read.
        prompt: Prefix and suffix of the reasoning prompt, the instruction among them.
        compute_dtype: "float32" or "bfloat16"; "" where it is not known.
        max_query_tokens: A longer query is cut before the model reads it.
    """

    weights: str
    adapter: str
    tokenizer: str
    prompt: tuple[str, str]
    compute_dtype: str
    max_query_tokens: int

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal characters."""
        return _hash(asdict(self))


def trajectory_key(query: str, *, reasoner: str, sampling: str, sample: int) -> str:
    """Under which a trajectory is cached: 32 hexadecimal characters.

    Args:
        query: The query's text, stripped.
        reasoner: Fingerprint of a `ReasonerIdentity`.
        sampling: JSON of the sampling settings, keys sorted.
        sample: Number of the sample, from 0.
    """
    return _hash({"query": query, "reasoner": reasoner, "sampling": sampling, "sample": sample})


def imported_reasoner(source: str) -> ReasonerIdentity:
    """Whose fingerprint stands for trajectories that were generated elsewhere.

    Args:
        source: What they are known by, such as a model's name.
    """
    return ReasonerIdentity(
        weights=f"import:{source}", adapter="", tokenizer="", prompt=("", ""), compute_dtype="", max_query_tokens=0
    )


def imported_sampling(task: str) -> str:
    """Stands for sampling settings in the key of a trajectory that was generated elsewhere: JSON of its task alone.

    The task decides under which instruction it is embedded, so it has to be in the key: two tasks may share a query.

    >>> imported_sampling("biology"), imported_sampling("")
    ('{"task": "biology"}', '{}')
    """
    return json.dumps({"task": task} if task else {})


def _hash(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]
