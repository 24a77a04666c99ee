"""The encoder with mean pooling: the mean of the last states of transformers' model, in any batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from pipeline.model.encoder import Encoder
from tests.model.models import TOLERANCE, load_small, open_small, random_bodies, worst

TEXTS = [
    "a lake",
    "How are oceans and lakes different?",
    "word " * 150,
    "Über 1,024 naïve cafés 🙂",
    "[SEP] [MASK] <s>",
]


@pytest.fixture(scope="module")
def peer() -> Encoder:
    return load_small("minilm")


@pytest.fixture(scope="module")
def reference() -> Any:
    return AutoModel.from_pretrained(open_small("minilm").checkpoint.folder, dtype=torch.float32).eval()


@torch.inference_mode()
def mean_pooled(model: Any, rows: list[list[int]]) -> NDArray[np.float32]:
    """As sentence-transformers does it: states times mask, summed, over the mask's sum."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return np.asarray(torch.nn.functional.normalize(pooled, dim=-1))


def test_vectors_are_the_mean_of_the_last_states(peer: Encoder, reference: Any) -> None:
    encoded = open_small("minilm").tokenizer.encode(TEXTS)
    expected = mean_pooled(reference, [[101, *ids, 102] for ids in encoded])
    result = peer.encode([np.array(ids, dtype=np.int32) for ids in encoded], role="document")
    assert worst(result.vectors, expected) <= TOLERANCE
    assert result.num_tokens == sum(map(len, encoded)) + 2 * len(encoded)


@pytest.mark.parametrize("batch_tokens", [64, 200, 1_024])
def test_the_same_in_any_batch(peer: Encoder, batch_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = random_bodies([1, 30, 30, 120, 7, 30, 64], below=30_000)
    alone = np.concatenate([peer.encode([body], role="document").vectors for body in bodies])
    monkeypatch.setattr(peer, "batch_tokens", batch_tokens)
    result = peer.encode(bodies, role="query")
    assert worst(result.vectors, alone) <= TOLERANCE
    assert result.num_slots >= result.num_tokens


def test_its_window_is_that_of_sentence_transformers() -> None:
    bundle = open_small("minilm")
    assert (bundle.max_body_tokens, bundle.chunk_tokens) == (254, 254)
    assert bundle.identity.chunking[0] == 254
    assert bundle.identity.pooling == "mean"


def test_it_tells_near_from_far(peer: Encoder) -> None:
    texts = ["A cat sits on the mat.", "A kitten is on the rug.", "Interest rates rose in March."]
    bodies = [np.array(ids, dtype=np.int32) for ids in open_small("minilm").tokenizer.encode(texts)]
    cat, kitten, rates = peer.encode(bodies, role="document").vectors
    assert cat @ kitten > 0.5 > 0.3 > cat @ rates
