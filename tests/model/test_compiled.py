"""Compiling a decoder's layers: one compilation for all of them, and the vectors stay what they are. No compiler runs
here: what torch.compile traced is run as it is; `test_cuda` runs the real thing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from infra.bench.random_model import make_random_model
from pipeline.model import compiled, cpu_kernels, packed
from pipeline.model.bundle import open_bundle
from pipeline.model.load import load_encoder
from pipeline.settings import ModelSettings


@torch.library.custom_op("t1_test::attend", mutates_args=())
def attend_opaquely(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    layout, shared = packed._next_layer(key, value)
    return packed.attend_blocks(query, key, value, lengths=layout.lengths, shared=shared, scale=scale)


@attend_opaquely.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return query.new_empty((1, query.shape[2], query.shape[1], query.shape[3]))


def attend(_module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **options: Any) -> Any:
    """As `packed.attend` does on CUDA: behind an operator that the compiler takes as it is."""
    return attend_opaquely(query, key, value, options["scaling"]), None


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    folder = make_random_model(tmp_path, shape="tiny", device="cpu")
    monkeypatch.setattr(cpu_kernels, "is_available", lambda: False)
    bundle = open_bundle(ModelSettings(model=folder), device="cpu")
    AttentionInterface.register(packed.ATTENTION, attend)
    yield load_encoder(bundle, device="cpu", threads=1, batch_tokens=1_000)
    AttentionInterface.register(packed.ATTENTION, packed.attend)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_all_layers_and_lengths_share_one_compilation(encoder: Any) -> None:
    generator = np.random.default_rng(0)
    bodies = [generator.integers(7, 20_000, n).astype(np.int32) for n in (1, 3, 40, 200, 17, 350)]
    expected = encoder.encode(bodies, role="document").vectors
    graphs = []

    def backend(graph: Any, _examples: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled.compile_layers(encoder.model.layers, backend=backend)
    for chosen in (bodies[:1], bodies[1:3], bodies):
        got = encoder.encode(chosen, role="document").vectors
        assert (got * expected[[i for i, b in enumerate(bodies) if any(b is c for c in chosen)]]).sum(1).min() > 0.99999
    assert len(graphs) == 1

    compiled.restore_layers(encoder.model.layers)
    encoder.encode(bodies[3:4], role="document")
    assert len(graphs) == 1
