"""What is ours of the vLLM engine: which parameters it is given, how its answers are read, when it is refused.

vLLM itself is replaced by a stand-in with the names that are used of it, written after vLLM 0.30: these tests say
nothing of vLLM. `test_vllm_cuda` runs the real engine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import ModelError, SettingsError
from pipeline.model.reasoner import Completion, Request, load_reasoner
from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.model.vllm_engine import VllmReasoner, _adapter_rank
from pipeline.query_settings import ReasonSettings, SamplingSettings
from pipeline.records import FinishReason
from pipeline.settings import ModelSettings


class RefusedByVllm(Exception):
    """In the place of vllm.exceptions.VLLMClientError, which is no ValueError either."""


@dataclass
class Engine:
    """Answers one request a step, the one that was added last first, or breaks when it is told to."""

    arguments: dict[str, Any]
    added: list[tuple[str, dict[str, Any], SimpleNamespace, Any]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    outputs: dict[int, SimpleNamespace] = field(default_factory=dict)  # by seed
    aborted: list[str] = field(default_factory=list)
    broken = False
    shutdowns = 0

    @property
    def engine_core(self) -> SimpleNamespace:
        return SimpleNamespace(shutdown=self._shut_down)

    def _shut_down(self) -> None:
        self.shutdowns += 1

    def add_request(self, request_id: str, prompt: Any, params: Any, *, lora_request: Any = None) -> str:
        if len(prompt["prompt_token_ids"]) > 8:
            raise RefusedByVllm("longer than the maximum model length of 8")
        assert request_id not in {name for name, *_ in self.added}
        self.added.append((request_id, prompt, params, lora_request))
        self.waiting.append(request_id)
        return f"{request_id}-internal"

    def step(self) -> list[SimpleNamespace]:
        if self.broken:
            raise RuntimeError("EngineCore died")
        name = self.waiting.pop()
        params = next(params for added, _, params, _ in self.added if added == name)
        output = self.outputs.get(params.seed, said("It asks about leaves.", "stop", 6))
        return [SimpleNamespace(request_id=name, finished=True, outputs=[output])]

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids


def said(text: str, finish_reason: str, num_tokens: int) -> SimpleNamespace:
    return SimpleNamespace(text=text, token_ids=[1] * num_tokens, finish_reason=finish_reason)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Every engine that is made while the stand-in is imported as vllm."""
    made: list[Engine] = []

    def from_engine_args(arguments: dict[str, Any]) -> Engine:
        made.append(Engine(arguments))
        return made[-1]

    def module(name: str, **names: Any) -> None:
        stand_in = ModuleType(name)
        vars(stand_in).update(names)
        monkeypatch.setitem(sys.modules, name, stand_in)

    engine = SimpleNamespace(from_engine_args=from_engine_args)
    module("vllm", LLMEngine=engine, EngineArgs=dict, TokensPrompt=dict)
    kinds = SimpleNamespace(FINAL_ONLY="final only")
    module("vllm.sampling_params", SamplingParams=SimpleNamespace, RequestOutputKind=kinds)
    module("vllm.exceptions", VLLMClientError=RefusedByVllm)
    module("vllm.lora", __path__=[])
    module("vllm.lora.request", LoRARequest=SimpleNamespace)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    return made


def bundle_of(model: Path | str, *, adapter: Path | None = None) -> ReasonerBundle:
    settings = ReasonSettings(
        engine="vllm", model=str(model), adapter=str(adapter) if adapter else None, max_query_tokens=64
    )
    return open_reasoner(settings, ModelSettings(), device="cuda")


@pytest.fixture
def load(tiny: Path, engines: list[Engine]) -> Callable[[], tuple[VllmReasoner, Engine]]:
    def load_one() -> tuple[VllmReasoner, Engine]:
        return VllmReasoner(bundle_of(tiny), device="cuda"), engines[-1]

    return load_one


def request(seed: int, *, length: int = 3, sampling: SamplingSettings | None = None) -> Request:
    return Request(tuple(range(length)), sampling or SamplingSettings(max_tokens=16), seed=seed)


def test_the_engine_is_given_the_bundles_model_and_arithmetic(tiny: Path, engines: list[Engine]) -> None:
    reasoner = load_reasoner(bundle_of(tiny), device="cuda")
    arguments = engines[0].arguments
    assert arguments["model"] == arguments["tokenizer"] == str(tiny)
    assert arguments["dtype"] == "bfloat16"
    assert arguments["enable_prefix_caching"] is True
    assert arguments["gpu_memory_utilization"] < 0.9
    assert "enable_lora" not in arguments
    reasoner.close()
    reasoner.close()
    assert engines[0].shutdowns == 1


def test_a_request_becomes_prompt_ids_and_sampling_parameters(load: Any) -> None:
    reasoner, engine = load()
    sampling = SamplingSettings(max_tokens=9, temperature=0.7, top_p=0.8, top_k=5, stop=("\n\n",))
    list(reasoner.generate([request(11, sampling=sampling)]))
    _, prompt, params, adapter = engine.added[0]
    assert prompt == {"prompt_token_ids": [0, 1, 2]}
    assert adapter is None
    given = vars(params) | {"logit_bias": None}
    assert given == {
        **{"n": 1, "max_tokens": 9, "temperature": 0.7, "top_p": 0.8, "top_k": 5, "seed": 11, "stop": ["\n\n"]},
        **{"logit_bias": None, "detokenize": True, "output_kind": "final only"},
    }


def test_the_reading_token_is_never_written_where_it_is_in_the_vocabulary(tiny: Path, engines: list[Engine]) -> None:
    for vocabulary, banned in ((10**6, True), (100, False)):
        bundle = bundle_of(tiny)
        bundle.checkpoint.config["vocab_size"] = vocabulary
        list(VllmReasoner(bundle, device="cuda").generate([request(1)]))
        bias = engines[-1].added[0][2].logit_bias
        assert bias == ({bundle.tokenizer.emb_token_id: -100.0} if banned else None)


def test_completions_come_as_they_finish_and_are_mapped(load: Any) -> None:
    reasoner, engine = load()
    engine.outputs = {
        0: said(" It asks. ", "stop", 4),
        1: said("It asks and", "length", 16),
        2: said("", "stop", 1),
        3: said("It", "abort", 1),
    }
    found = list(reasoner.generate([request(seed) for seed in range(4)]))
    assert [position for position, _ in found] == [3, 2, 1, 0]
    by_position = dict(found)
    assert by_position[0] == Completion("It asks.", 3, FinishReason.STOP)
    assert by_position[1] == Completion("It asks and", 16, FinishReason.LENGTH)
    assert by_position[2] == Completion("", 0, FinishReason.EMPTY)
    assert by_position[3].finish_reason is FinishReason.ERROR
    assert "abort" in by_position[3].detail


def test_a_request_that_vllm_refuses_is_an_error_of_its_own(load: Any) -> None:
    reasoner, _ = load()
    found = dict(reasoner.generate([request(0), request(1, length=9)]))
    assert found[0].finish_reason is FinishReason.STOP
    assert found[1] == Completion(
        "", 0, FinishReason.ERROR, "vLLM refused this request: longer than the maximum model length of 8"
    )


def test_stopping_early_takes_the_rest_out_of_the_engine(load: Any) -> None:
    reasoner, engine = load()
    running = reasoner.generate([request(seed) for seed in range(3)])
    next(running)
    running.close()
    assert engine.aborted == ["0", "1"]
    assert len(list(reasoner.generate([request(9)]))) == 1


def test_an_engine_that_breaks_is_a_model_error(load: Any) -> None:
    reasoner, engine = load()
    engine.broken = True
    with pytest.raises(ModelError, match="vLLM's engine broke down: EngineCore died"):
        list(reasoner.generate([request(0)]))


def write_adapter(folder: Path, **fields: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 12} | fields))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_an_adapter_is_asked_for_beside_the_weights(tiny: Path, tmp_path: Path, engines: list[Engine]) -> None:
    bundle = bundle_of(tiny, adapter=write_adapter(tmp_path / "adapter"))
    list(VllmReasoner(bundle, device="cuda").generate([request(0)]))
    assert {"enable_lora": True, "max_lora_rank": 16}.items() <= engines[0].arguments.items()
    adapter = engines[0].added[0][3]
    assert adapter.lora_path == bundle.checkpoint.adapter
    assert adapter.lora_int_id == 1


@pytest.mark.parametrize(
    ("fields", "said_of_it"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 1024}}, "rank 1024"),
    ],
)
def test_an_adapter_that_vllm_lacks_is_refused(fields: dict[str, Any], said_of_it: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"vLLM cannot apply the adapter.*{said_of_it}"):
        _adapter_rank(str(write_adapter(tmp_path / "adapter", **fields)))


def test_vllm_that_is_not_installed_or_not_on_cuda_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SettingsError, match=r"pip install 't1-index\[vllm\]' on a machine with CUDA"):
        VllmReasoner(bundle_of(tiny), device="cuda")
    with pytest.raises(SettingsError, match="engine vllm needs CUDA, not cpu"):
        VllmReasoner(bundle_of(tiny), device="cpu")
