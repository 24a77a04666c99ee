"""Each way of computing less is right by itself, and is left out, with a warning, for a model that it does not suit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, Gemma2Config, LlamaConfig, MambaConfig, MistralConfig, Olmo2Config

from pipeline.errors import ModelError
from pipeline.model import cpu_kernels, decoder, packed
from pipeline.model.cpu_kernels import ReorderedLinear
from pipeline.model.decoder import DecoderEncoder
from pipeline.model.last_layer import TrimmedLayer
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

SHAPE: dict[str, Any] = {
    "vocab_size": 20_100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1_024, "intermediate_size": 96,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def paths(encoder: DecoderEncoder) -> tuple[bool, bool, bool, bool]:
    """Whether it packs, trims the last layer, caches the prefix, and uses oneDNN."""
    # "reasoned" has no constant prefix: each task brings its own
    cached = {encoder._prefixes[role] is not None for role, frame in encoder.frames.items() if frame.prefix}
    assert len(cached) == 1
    return (
        encoder.packs,
        any(isinstance(module, TrimmedLayer) for module in encoder.model.modules()),
        cached.pop(),
        any(isinstance(module, ReorderedLinear) for module in encoder.model.modules()),
    )


def off(encoder: DecoderEncoder, reference: Any) -> float:
    """How far the worst of some texts is from a plain forward pass."""
    bodies = random_bodies([5, 90, 1, 300, 40], below=20_000)
    encoder.batch_tokens = 400
    return max(
        worst(encoder.encode(bodies, role=role).vectors, plain_vectors(reference, encoder, bodies, role))
        for role in encoder.frames
    )


def leave_out_trimming(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decoder, "wrap_last_layer", lambda model: False)


def leave_out_prefix(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(decoder, "MIN_PREFIX_TOKENS", 10_000)


def leave_out_kernels(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cpu_kernels, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ((leave_out_trimming, leave_out_prefix, leave_out_kernels), (True, False, False, False)),
        ((leave_out_prefix, leave_out_kernels), (True, True, False, False)),
        ((leave_out_trimming, leave_out_kernels), (True, False, True, False)),
        ((leave_out_trimming, leave_out_prefix), (True, False, False, True)),
    ],
    ids=["packing", "trimming", "prefix", "kernels"],
)
def test_each_alone(
    tiny: Path,
    tiny_reference: Any,
    monkeypatch: pytest.MonkeyPatch,
    left_out: tuple[Callable[[pytest.MonkeyPatch], None], ...],
    expected: tuple[bool, bool, bool, bool],
) -> None:
    if expected[3] and not cpu_kernels.is_available():
        pytest.skip("this build of torch lacks the operators")
    for leave_out in left_out:
        leave_out(monkeypatch)
    encoder = load_decoder(tiny)
    assert paths(encoder) == expected
    assert off(encoder, tiny_reference) <= TOLERANCE


def test_the_default_model_without_prefix_and_trimming(
    default_encoder: DecoderEncoder, default_reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = random_bodies([5, 60], below=49_152)
    expected = plain_vectors(default_reference, default_encoder, bodies, "document")
    monkeypatch.setitem(default_encoder._prefixes, "document", None)
    assert worst(default_encoder.encode(bodies, role="document").vectors, expected) <= TOLERANCE
    layers: Any = default_encoder.model.layers
    trimmed = layers[-1]
    monkeypatch.setattr(default_encoder, "_trims", False)
    layers[-1] = trimmed.layer
    try:
        assert worst(default_encoder.encode(bodies, role="document").vectors, expected) <= TOLERANCE
    finally:
        layers[-1] = trimmed


def attend_nowhere(layout: Any, query: torch.Tensor, key: Any, value: Any, **options: Any) -> torch.Tensor:
    return torch.zeros_like(query).transpose(1, 2)


def fail(*args: Any, **options: Any) -> Any:
    raise RuntimeError("no such kernel\nand a second line")


class Doubled(TrimmedLayer):
    """A last layer that is built otherwise than the trimmed one believes."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return super().forward(hidden_states, *args, **options) + hidden_states.mean()


def wrap_wrongly(model: Any) -> bool:
    model.layers[-1] = Doubled(model.layers[-1])
    return True


def compute_another_prefix(self: DecoderEncoder, frame: Any, *, compute: Any = DecoderEncoder._compute_prefix) -> Any:
    return compute(self, type(frame)(frame.prefix[::-1], frame.suffix))


def scale(self: ReorderedLinear, rows: torch.Tensor, *, apply_with: Any = ReorderedLinear.apply_with) -> torch.Tensor:
    return apply_with(self, rows, "swish")


@pytest.mark.parametrize(
    ("target", "broken", "expected", "said"),
    [
        (
            (packed, "attend_blocks"),
            attend_nowhere,
            (False, False, False, False),
            "packing without padding is not used",
        ),
        ((packed, "attend_blocks"), fail, (False, False, False, False), "is not used: no such kernel"),
        ((decoder, "wrap_last_layer"), wrap_wrongly, (True, False, True, True), "the trimmed last layer is not used"),
        ((DecoderEncoder, "_compute_prefix"), compute_another_prefix, (True, True, False, True), "the cached prefix"),
        ((ReorderedLinear, "forward"), scale, (True, True, True, False), "oneDNN with reordered weights is not used"),
        ((cpu_kernels, "replace_linear"), fail, (True, True, True, False), "is not used: no such kernel"),
    ],
    ids=["packing differs", "packing fails", "last layer", "prefix", "kernels differ", "kernels fail"],
)
def test_a_wrong_one_is_left_out(
    tiny: Path,
    tiny_reference: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    target: tuple[Any, str],
    broken: Any,
    expected: tuple[bool, bool, bool, bool],
    said: str,
) -> None:
    if not cpu_kernels.is_available():
        pytest.skip("this build of torch lacks the operators")
    monkeypatch.setattr(*target, broken)
    encoder = load_decoder(tiny)
    assert paths(encoder) == expected
    assert [said in record.getMessage() for record in caplog.records] == [True]
    assert "second line" not in caplog.text
    assert off(encoder, tiny_reference) <= TOLERANCE


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(**SHAPE), (True, True, True)),
        (Olmo2Config(**SHAPE), (True, False, True)),
        (MistralConfig(**SHAPE, sliding_window=64), (False, False, False)),
        (Gemma2Config(**SHAPE, sliding_window=64, head_dim=16), (False, False, False)),
        (BloomConfig(vocab_size=20_100, hidden_size=64, n_layer=2, n_head=4), (False, False, False)),
        (MambaConfig(vocab_size=20_100, hidden_size=64, num_hidden_layers=2), (False, False, False)),
    ],
    ids=["llama", "another last layer", "window", "window and capped scores", "alibi", "no attention"],
)
def test_other_families(tmp_path: Path, config: Any, expected: tuple[bool, bool, bool]) -> None:
    folder = write_decoder(tmp_path / "model", config)
    encoder = load_decoder(folder)
    assert paths(encoder)[:3] == expected
    assert off(encoder, reference_model(open_small(folder))) <= TOLERANCE


def test_weights_that_are_not_finite_are_refused(tiny: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        load_decoder(folder)
