"""The hashing encoder: the same everywhere and always, for tests that need vectors and no model."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.hashing import HashingEncoder
from tests.model.models import load_small, random_bodies

GOLDEN = np.array(
    [[0, -1, 0, 0, 0, 0, 0, 0], [0, -0.4082, -0.8165, 0, 0, 0, 0.4082, 0], [-1, 0, 0, 0, 0, 0, 0, 0]], dtype=np.float32
)
token_ids = st.lists(st.integers(0, 49_152), max_size=40).map(lambda ids: np.array(ids, dtype=np.int32))


@cache
def encoder_of(dim: int) -> HashingEncoder:
    encoder = load_small(f"hashing://{dim}")
    assert isinstance(encoder, HashingEncoder)
    return encoder


def test_golden() -> None:
    bodies = [np.array(ids, dtype=np.int32) for ids in ([1], [1, 2, 3, 3, 3, 3], [49_152])]
    vectors = encoder_of(8).encode(bodies, role="document").vectors
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(np.round(vectors, 4), GOLDEN)


@settings(deadline=None)
@given(bodies=st.lists(token_ids, min_size=1, max_size=6), dim=st.sampled_from([8, 64, 100]))
def test_unit_length_and_the_same_in_any_batch(bodies: list[np.ndarray], dim: int) -> None:
    encoder = encoder_of(dim)
    together = encoder.encode(bodies, role="document")
    assert together.failures == {}
    np.testing.assert_allclose(np.linalg.norm(together.vectors, axis=1), 1, atol=1e-6)
    alone = [encoder.encode([body], role="query").vectors[0] for body in bodies]
    np.testing.assert_array_equal(together.vectors, alone)


def test_counts_that_cancel_out_still_give_a_unit_vector() -> None:
    encoder = encoder_of(8)
    ids = np.arange(2_000, dtype=np.int32)
    vectors = encoder.encode([np.array([i], dtype=np.int32) for i in ids], role="document").vectors
    column, sign = np.abs(vectors).argmax(1), vectors.sum(1)
    pair = [int(np.flatnonzero((column == 0) & (sign == s))[0]) for s in (1, -1)]
    cancelled = encoder.encode([np.array(pair, dtype=np.int32)], role="document").vectors
    np.testing.assert_array_equal(cancelled, np.eye(8, dtype=np.float32)[:1])


def test_order_within_a_text_does_not_matter_and_tokens_do() -> None:
    encoder = encoder_of(256)
    (body,) = random_bodies([30], below=49_152)
    same, other = encoder.encode([body, body[::-1]], role="document").vectors
    np.testing.assert_array_equal(same, other)
    assert same @ encoder.encode([body + 1], role="document").vectors[0] < 0.5


def test_no_texts() -> None:
    assert encoder_of(8).encode([], role="document").vectors.shape == (0, 8)
