"""Small models made on the spot, and what transformers itself says of a text, one at a time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoModelForCausalLM

from infra.bench.random_model import _make_tokenizer
from pipeline.model.bundle import ModelBundle, Role, open_bundle
from pipeline.model.decoder import DecoderEncoder
from pipeline.model.encoder import Encoder, TokenIds
from pipeline.model.load import load_encoder
from pipeline.settings import ModelSettings

# 1 - cosine that two ways to compute one vector may differ by in float32.
TOLERANCE = 1e-5


def open_small(model: Path | str, **settings: Any) -> ModelBundle:
    return open_bundle(ModelSettings(model=str(model), **settings), device="cpu")


def load_small(model: Path | str, *, batch_tokens: int | None = None, **settings: Any) -> Encoder:
    return load_encoder(open_small(model, **settings), device="cpu", threads=1, batch_tokens=batch_tokens)


def load_decoder(model: Path | str, **settings: Any) -> DecoderEncoder:
    encoder = load_small(model, **settings)
    assert isinstance(encoder, DecoderEncoder)
    return encoder


def write_decoder(folder: Path, config: Any, *, seed: int = 0) -> Path:
    """A decoder of a configuration of transformers, weights drawn at random, and a tokenizer of words."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    _make_tokenizer(folder)
    return folder


def copy_model(source: Path, target: Path) -> Path:
    """A copy of a model's folder, for a test to change."""
    return Path(shutil.copytree(source, target))


def random_bodies(lengths: Sequence[int], *, below: int, seed: int = 0) -> list[TokenIds]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, below, size=length).astype(np.int32) for length in lengths]


def reference_model(bundle: ModelBundle) -> Any:
    """The decoder as transformers loads it, `<emb_token>` starting as the mean of the tokens of a colon."""
    model = AutoModel.from_pretrained(bundle.checkpoint.folder, dtype=torch.float32).eval()
    tokenizer = bundle.tokenizer
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.emb_token_id >= rows:
        model.resize_token_embeddings(tokenizer.emb_token_id + 1, mean_resizing=False)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[tokenizer.emb_token_id] = weight[tokenizer.frame_ids(":")].mean(0)
    return model


@torch.inference_mode()
def plain_vectors(model: Any, encoder: DecoderEncoder, bodies: Sequence[TokenIds], role: Role) -> NDArray[np.float32]:
    """Each text alone, nothing cached and nothing left out; the state at the last position, then the encoder's head."""
    frame = encoder.frames[role]
    states = []
    for body in bodies:
        ids = torch.tensor([[*frame.prefix, *body.tolist(), *frame.suffix]])
        states.append(model(input_ids=ids, use_cache=False).last_hidden_state[0, -1])
    return np.asarray(encoder.head(torch.stack(states), role))


def worst(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest 1 - cosine of two lists of unit vectors, row by row."""
    assert got.shape == expected.shape
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    return float((1 - (got.astype(np.float64) * expected.astype(np.float64)).sum(axis=1)).max())
