"""On an accelerator: the fast path is on, and gives the vectors of a plain forward pass. `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infra.bench.random_model import make_random_model
from pipeline.model.bundle import open_bundle
from pipeline.model.load import load_encoder
from pipeline.settings import ModelSettings

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    path: Path = tmp_path_factory.mktemp("model")
    return make_random_model(path, shape="tiny", device="cpu")


def bodies(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    return [generator.integers(7, 20_000, n).astype(np.int32) for n in generator.integers(1, 400, count)]


def test_bfloat16_packs_on_cuda_and_agrees_with_float32_on_cpu(folder: str) -> None:
    settings = ModelSettings(model=folder)
    fast = load_encoder(open_bundle(settings, device="cuda"), device="cuda")
    assert fast.packs, "padding-free attention should be on"  # type: ignore[attr-defined]
    exact = load_encoder(open_bundle(settings, device="cpu"), device="cpu", threads=4)
    texts = bodies(64)
    got = fast.encode(texts, role="document").vectors
    expected = exact.encode(texts, role="document").vectors
    assert (got * expected).sum(1).min() > 0.99


def test_a_batch_too_large_for_memory_is_halved(folder: str) -> None:
    import torch

    encoder = load_encoder(open_bundle(ModelSettings(model=folder), device="cuda"), device="cuda", batch_tokens=10**9)
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        result = encoder.encode(bodies(4_000), role="document")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not result.failures
    assert encoder.batch_tokens < 10**9


def test_compiled_layers_give_the_same_vectors(folder: str) -> None:
    bundle = open_bundle(ModelSettings(model=folder), device="cuda")
    plain = load_encoder(bundle, device="cuda")
    fused = load_encoder(bundle, device="cuda", compiles=True)
    assert fused.compiled, "torch.compile should work where a C compiler is"  # type: ignore[attr-defined]
    for count in (1, 7, 200):
        texts = bodies(count)
        got = fused.encode(texts, role="query").vectors
        assert (got * plain.encode(texts, role="query").vectors).sum(1).min() > 0.998


def test_vectors_do_not_depend_on_the_batch(folder: str) -> None:
    encoder = load_encoder(open_bundle(ModelSettings(model=folder), device="cuda"), device="cuda", compiles=True)
    texts = bodies(50)
    together = encoder.encode(texts, role="document").vectors
    alone = np.concatenate([encoder.encode([text], role="document").vectors for text in texts])
    assert (together * alone).sum(1).min() > 0.998


def test_a_cached_prefix_gives_the_same_vectors(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.model import decoder

    bundle = open_bundle(ModelSettings(model=folder), device="cuda")
    cached = load_encoder(bundle, device="cuda", compiles=True)
    monkeypatch.setattr(decoder, "MIN_PREFIX_TOKENS", 10_000)
    whole = load_encoder(bundle, device="cuda")
    texts = bodies(50)
    result = cached.encode(texts, role="document")
    assert result.num_slots < result.num_tokens
    assert (result.vectors * whole.encode(texts, role="document").vectors).sum(1).min() > 0.998
