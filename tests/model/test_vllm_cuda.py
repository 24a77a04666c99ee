"""On CUDA, with the extra `vllm` installed: the real engine takes our arguments and answers. `pytest -m gpu`."""

from __future__ import annotations

import pytest

from pipeline.model.reasoner import Request, load_reasoner
from pipeline.model.reasoning import open_reasoner
from pipeline.query_settings import ReasonSettings, SamplingSettings
from pipeline.records import FinishReason, Query
from pipeline.settings import ModelSettings

pytestmark = pytest.mark.gpu


def test_each_request_is_answered_once_and_as_it_asks() -> None:
    pytest.importorskip("vllm")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    bundle = open_reasoner(ReasonSettings(engine="vllm"), ModelSettings(), device="cuda")
    ids = bundle.prompt_ids(Query("q", "Why are leaves green?"))
    greedy = SamplingSettings(max_tokens=8)
    drawn = SamplingSettings(max_tokens=24, temperature=0.8, top_p=0.9, top_k=40, stop=("\n\n",))
    too_long = ids * (bundle.checkpoint.max_positions // len(ids) + 1)
    reasoner = load_reasoner(bundle, device="cuda")
    try:
        found = list(reasoner.generate([Request(ids, greedy), Request(ids, drawn, seed=5), Request(too_long, greedy)]))
    finally:
        reasoner.close()
    assert sorted(position for position, _ in found) == [0, 1, 2]
    completions = dict(found)
    assert completions[0].text
    assert completions[0].num_tokens <= 8
    assert "\n\n" not in completions[1].text
    assert completions[2].finish_reason is FinishReason.ERROR
