"""What the loop round every encoder does when memory runs out, and with vectors that are not numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.model.batch import padded_batches
from pipeline.model.bundle import Role
from pipeline.model.decoder import DecoderEncoder
from pipeline.model.encoder import Encoder, TokenIds, Vectors
from pipeline.model.pooling import is_out_of_memory
from pipeline.records import Reason
from tests.model.models import random_bodies

FRAME = 3


class Limited(Encoder):
    """Fits only so many tokens; a text's vector points where its first token says, and token 99 gives no number."""

    def __init__(self, *, fits: int, batch_tokens: int, error: Exception) -> None:
        self.dim, self.fits, self.batch_tokens, self.error = 128, fits, batch_tokens, error
        self.passes: list[int] = []

    def frame_tokens(self, role: Role) -> int:
        return FRAME

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        return padded_batches(lengths, max_tokens=self.batch_tokens)

    def _is_out_of_memory(self, error: Exception) -> bool:
        return is_out_of_memory(error)

    def _forward(self, bodies: Sequence[TokenIds], role: Role) -> tuple[Vectors, int, int]:
        tokens = sum(len(body) + FRAME for body in bodies)
        if tokens > self.fits:
            raise self.error
        self.passes.append(tokens)
        vectors = np.zeros((len(bodies), self.dim), dtype=np.float32)
        for row, body in zip(vectors, bodies, strict=True):
            row[body[0]] = np.nan if body[0] == 99 else 1.0
        return vectors, tokens, 2 * tokens


def bodies_of(lengths: Sequence[int]) -> list[TokenIds]:
    return [np.full(length, number, dtype=np.int32) for number, length in enumerate(lengths)]


ERRORS = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=["posix", "windows", "python"])
def test_a_smaller_batch_is_tried(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    lengths = [40, 7, 60, 200, 33, 12, 90, 41]
    encoder = Limited(fits=150, batch_tokens=1_000, error=error)
    result = encoder.encode(bodies_of(lengths), role="document")
    assert result.failures == {3: Reason.OUT_OF_MEMORY}
    expected = np.eye(128, dtype=np.float32)[: len(lengths)]
    expected[3] = 0
    np.testing.assert_array_equal(result.vectors, expected)
    fitting = sum(length + FRAME for length in lengths if length < 150)
    assert (result.num_slots, result.flops, sum(encoder.passes)) == (fitting, 2 * fitting, fitting)
    assert result.num_tokens == sum(lengths) + FRAME * len(lengths)
    assert 64 <= encoder.batch_tokens <= 300
    assert "200 tokens does not fit in memory even alone" in caplog.text


def test_the_smaller_budget_is_kept() -> None:
    encoder = Limited(fits=150, batch_tokens=1_000, error=MemoryError())
    encoder.encode(bodies_of([30] * 20), role="document")
    smaller = encoder.batch_tokens
    assert smaller <= 300
    encoder.passes.clear()
    encoder.encode(bodies_of([10] * 20), role="document")
    assert encoder.batch_tokens <= smaller
    assert max(encoder.passes) <= 150


def test_the_budget_does_not_shrink_without_end() -> None:
    encoder = Limited(fits=10, batch_tokens=1_000, error=MemoryError())
    result = encoder.encode(bodies_of([30] * 20), role="document")
    assert len(result.failures) == 20
    assert encoder.batch_tokens == 64


def test_other_errors_are_not_caught() -> None:
    encoder = Limited(fits=10, batch_tokens=100, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        encoder.encode(bodies_of([30]), role="document")


def test_a_vector_that_is_no_number_fails_alone() -> None:
    encoder = Limited(fits=1_000, batch_tokens=1_000, error=MemoryError())
    bodies = [np.full(5, token, dtype=np.int32) for token in (4, 99, 5)]
    result = encoder.encode(bodies, role="document")
    assert result.failures == {1: Reason.NOT_FINITE}
    np.testing.assert_array_equal(result.vectors.argmax(axis=1), [4, 0, 5])
    np.testing.assert_array_equal(np.linalg.norm(result.vectors, axis=1), [1, 0, 1])


def test_a_decoder_that_runs_out_gives_the_same_vectors(
    tiny_encoder: DecoderEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = random_bodies([40, 7, 60, 20, 33, 300, 90], below=20_000)
    monkeypatch.setattr(tiny_encoder, "batch_tokens", 1_024)
    expected = tiny_encoder.encode(bodies, role="document").vectors
    forward = tiny_encoder._forward

    def limited(group: Sequence[TokenIds], role: Role) -> tuple[Vectors, int, int]:
        if sum(map(len, group)) > 150:
            raise RuntimeError("can't allocate memory")
        return forward(group, role)

    monkeypatch.setattr(tiny_encoder, "_forward", limited)
    result = tiny_encoder.encode(bodies, role="document")
    assert result.failures == {5: Reason.OUT_OF_MEMORY}
    kept = [0, 1, 2, 3, 4, 6]
    np.testing.assert_allclose(result.vectors[kept], expected[kept], atol=1e-5)
    assert not result.vectors[5].any()
