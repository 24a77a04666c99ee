"""A vector is what a plain forward pass of transformers gives for the text alone, whatever shares its batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.model import cpu_kernels
from pipeline.model.decoder import DecoderEncoder
from pipeline.model.last_layer import TrimmedLayer
from tests.model.models import TOLERANCE, load_decoder, plain_vectors, random_bodies, worst

lengths = st.lists(st.integers(1, 120), min_size=1, max_size=8)
budgets = st.integers(64, 1024)
roles = st.sampled_from(["document", "query"])


def check(encoder: DecoderEncoder, reference: Any, *, case: tuple[list[int], int, Any, int], below: int) -> None:
    sizes, batch_tokens, role, seed = case
    bodies = random_bodies(sizes, below=below, seed=seed)
    encoder.batch_tokens = batch_tokens
    result = encoder.encode(bodies, role=role)
    assert result.failures == {}
    assert result.num_tokens == sum(sizes) + len(sizes) * encoder.frame_tokens(role)
    assert worst(result.vectors, plain_vectors(reference, encoder, bodies, role)) <= TOLERANCE


@given(case=st.tuples(lengths, budgets, roles, st.integers(0, 1_000)))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_small_decoder(tiny_encoder: DecoderEncoder, tiny_reference: Any, case: Any) -> None:
    check(tiny_encoder, tiny_reference, case=case, below=20_000)


@given(case=st.tuples(st.lists(st.integers(1, 120), min_size=1, max_size=4), budgets, roles, st.integers(0, 1_000)))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_default_decoder(default_encoder: DecoderEncoder, default_reference: Any, case: Any) -> None:
    check(default_encoder, default_reference, case=case, below=49_152)


def test_texts_longer_than_a_block_of_queries(tiny_encoder: DecoderEncoder, tiny_reference: Any) -> None:
    check(tiny_encoder, tiny_reference, case=([700, 128, 129, 256, 1, 110], 1_024, "document", 1), below=20_000)


def test_a_body_of_no_tokens(tiny_encoder: DecoderEncoder, tiny_reference: Any) -> None:
    check(tiny_encoder, tiny_reference, case=([0, 3, 0], 256, "document", 2), below=20_000)


def test_results_are_in_the_order_of_the_texts(tiny_encoder: DecoderEncoder) -> None:
    bodies = random_bodies([50, 3, 90, 3, 17], below=20_000)
    tiny_encoder.batch_tokens = 128
    there = tiny_encoder.encode(bodies, role="document").vectors
    back = tiny_encoder.encode(bodies[::-1], role="document").vectors[::-1]
    assert worst(there, back) <= TOLERANCE
    assert worst(there, there[[1, 0, 3, 2, 4]]) > 0.01


def test_no_texts(tiny_encoder: DecoderEncoder) -> None:
    result = tiny_encoder.encode([], role="document")
    assert result.vectors.shape == (0, 128)
    assert (result.failures, result.num_tokens, result.flops) == ({}, 0, 0)


@pytest.mark.parametrize("name", ["tiny_encoder", "default_encoder"])
def test_documents_and_queries_differ(name: str, request: pytest.FixtureRequest) -> None:
    encoder: DecoderEncoder = request.getfixturevalue(name)
    bodies = random_bodies([20, 30], below=20_000)
    as_document = encoder.encode(bodies, role="document").vectors
    assert worst(as_document, encoder.encode(bodies, role="query").vectors) > 1e-3


def test_fewer_components_are_the_first_ones(tiny: Path, tiny_encoder: DecoderEncoder) -> None:
    bodies = random_bodies([20, 30], below=20_000)
    whole = tiny_encoder.encode(bodies, role="document").vectors[:, :32]
    short = load_decoder(tiny, dim=32).encode(bodies, role="document").vectors
    assert worst(short, whole / np.linalg.norm(whole, axis=1, keepdims=True)) <= TOLERANCE


def test_bfloat16_is_near_float32(tiny: Path, tiny_encoder: DecoderEncoder) -> None:
    bodies = random_bodies([5, 40, 90], below=20_000)
    encoder = load_decoder(tiny, compute_dtype="bfloat16")
    assert next(encoder.model.parameters()).dtype == torch.bfloat16
    off = worst(encoder.encode(bodies, role="document").vectors, tiny_encoder.encode(bodies, role="document").vectors)
    assert 0 < off < 0.01


@pytest.mark.parametrize("name", ["tiny_encoder", "default_encoder"])
def test_every_fast_path_is_on(name: str, request: pytest.FixtureRequest) -> None:
    encoder: DecoderEncoder = request.getfixturevalue(name)
    layers: Any = encoder.model.layers
    assert encoder.packs
    assert isinstance(layers[-1], TrimmedLayer)
    for role in ("document", "query"):
        prefix = encoder._prefixes[role]
        assert prefix is not None
        assert prefix.num_tokens == len(encoder.frames[role].prefix)
        assert len(prefix.layers) == len(layers)
    if cpu_kernels.is_available():
        kinds = {type(module) for module in layers.modules()}
        assert {cpu_kernels.ReorderedLinear, cpu_kernels.GatedFeedForward} <= kinds
        assert torch.nn.Linear not in kinds


def test_less_is_computed_than_a_plain_pass_would(tiny_encoder: DecoderEncoder) -> None:
    bodies = random_bodies([10, 60, 100], below=20_000)
    tiny_encoder.batch_tokens = 1_024
    result = tiny_encoder.encode(bodies, role="document")
    assert result.num_slots == result.num_tokens - 3 * len(tiny_encoder.frames["document"].prefix)
