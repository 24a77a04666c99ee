"""A LoRA adapter is merged into the weights, whichever way it was trained and wherever it lies; never twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, Qwen3Config

from infra.bench.random_model import SHAPES
from pipeline.errors import ModelError
from pipeline.model.decoder import DecoderEncoder
from tests.model.models import (
    TOLERANCE,
    copy_model,
    load_decoder,
    open_small,
    plain_vectors,
    random_bodies,
    reference_model,
    worst,
    write_decoder,
)

# peft reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def write_adapter(model: Path, folder: Path, *, auto: Any = AutoModelForCausalLM, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
    adapted = get_peft_model(auto.from_pretrained(model, dtype=torch.float32), config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tiny, tmp_path_factory.mktemp("adapter") / "lora")


@pytest.fixture(scope="module")
def expected(tiny: Path, adapter: Path, tiny_encoder: DecoderEncoder) -> Any:
    """Vectors of peft's own model, the adapter beside the weights rather than merged."""
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), adapter).eval()
    body = adapted.base_model.model.model
    embedding = reference_model(open_small(tiny)).get_input_embeddings().weight
    body.set_input_embeddings(torch.nn.Embedding.from_pretrained(embedding))
    return plain_vectors(body, tiny_encoder, BODIES, "document")


BODIES = random_bodies([5, 40, 90], below=20_000)


def vectors_of(model: Path | str, **settings: Any) -> Any:
    return load_decoder(model, **settings).encode(BODIES, role="document").vectors


def test_an_adapter_by_name(tiny: Path, adapter: Path, expected: Any, tiny_encoder: DecoderEncoder) -> None:
    got = vectors_of(tiny, adapter=str(adapter))
    assert worst(got, expected) <= TOLERANCE
    assert worst(got, tiny_encoder.encode(BODIES, role="document").vectors) > 0.01


def test_an_adapter_beside_the_weights(tiny: Path, adapter: Path, expected: Any, tmp_path: Path) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    for path in adapter.glob("adapter_*"):
        (folder / path.name).write_bytes(path.read_bytes())
    assert open_small(folder).checkpoint.adapter == str(folder)
    assert worst(vectors_of(folder), expected) <= TOLERANCE


def test_a_named_adapter_takes_the_place_of_the_one_beside(
    tiny: Path, adapter: Path, expected: Any, tmp_path: Path
) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    other = write_adapter(tiny, tmp_path / "other", seed=2)
    for path in other.glob("adapter_*"):
        (folder / path.name).write_bytes(path.read_bytes())
    assert worst(vectors_of(folder), expected) > 0.01
    assert worst(vectors_of(folder, adapter=str(adapter)), expected) <= TOLERANCE


def test_an_adapter_that_was_trained_without_the_lm_head(
    tiny: Path, tmp_path: Path, expected: Any, tiny_encoder: DecoderEncoder
) -> None:
    headless = write_adapter(tiny, tmp_path / "headless", auto=AutoModel)
    got = vectors_of(tiny, adapter=str(headless))
    assert worst(got, tiny_encoder.encode(BODIES, role="document").vectors) > 0.01
    assert worst(got, expected) <= TOLERANCE


def test_it_has_a_fingerprint_of_its_own(tiny: Path, adapter: Path, tmp_path: Path) -> None:
    plain, adapted = open_small(tiny).identity, open_small(tiny, adapter=str(adapter)).identity
    assert plain.adapter == ""
    assert (plain.weights, plain.tokenizer) == (adapted.weights, adapted.tokenizer)
    assert plain.fingerprint != adapted.fingerprint
    other = write_adapter(tiny, tmp_path / "other", seed=2)
    assert open_small(tiny, adapter=str(other)).identity.fingerprint != adapted.fingerprint


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_what_is_no_adapter_is_refused_before_weights_load(
    tiny: Path, adapter: Path, tmp_path: Path, name: str
) -> None:
    folder = copy_model(adapter, tmp_path / "adapter")
    (folder / name).unlink()
    for missing in (folder, tmp_path / "absent"):
        with pytest.raises(ModelError, match=r"^--adapter .* has no adapter_"):
            open_small(tiny, adapter=str(missing))


@pytest.mark.parametrize("shape", [{"hidden_size": 64}, {"num_hidden_layers": 6}], ids=["wide", "deep"])
def test_an_adapter_of_another_model(adapter: Path, tmp_path: Path, shape: dict[str, int]) -> None:
    folder = write_decoder(tmp_path / "model", Qwen3Config(**(SHAPES["tiny"] | shape)))
    with pytest.raises(ModelError, match="does not fit the model") as caught:
        load_decoder(folder, adapter=str(adapter))
    assert "\n" not in str(caught.value)


def test_the_weights_on_disk_stay_as_they_were(tiny: Path, adapter: Path) -> None:
    before = open_small(tiny).identity.weights
    vectors_of(tiny, adapter=str(adapter))
    assert open_small(tiny).identity.weights == before
    assert np.isfinite(vectors_of(tiny)).all()
