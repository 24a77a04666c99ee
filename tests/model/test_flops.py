"""Operations counted by hand for the small model: 4 layers, 128 wide, 4 heads of 32, 2 of them for keys."""

from __future__ import annotations

from pipeline.model.decoder import DecoderEncoder
from tests.model.models import random_bodies

ATTENTION = 128 * 128 + 2 * 128 * 64 + 128 * 128  # q, k and v, o
FEED_FORWARD = 3 * 128 * 256


def by_hand(length: int, shared: int) -> int:
    products = 0
    for position in range(shared, length):
        products += 4 * ATTENTION + 3 * FEED_FORWARD
        products += 4 * 4 * 2 * 32 * (position + 1)  # layers, heads, q.k and p.v
    return 2 * (products + FEED_FORWARD)


def test_by_hand(tiny_encoder: DecoderEncoder) -> None:
    cost = tiny_encoder.cost
    assert cost.weights == 4 * (ATTENTION + FEED_FORWARD)
    assert cost.useful([1], shared=0) == by_hand(1, 0)
    assert cost.useful([40, 7], shared=5) == by_hand(40, 5) + by_hand(7, 5)
    assert cost.useful([], shared=5) == 0


def test_what_is_cached_is_not_counted(tiny_encoder: DecoderEncoder) -> None:
    frame = tiny_encoder.frames["document"]
    result = tiny_encoder.encode(random_bodies([30, 4], below=20_000), role="document")
    shared = len(frame.prefix)
    assert result.flops == sum(by_hand(length + frame.num_tokens, shared) for length in (30, 4))
