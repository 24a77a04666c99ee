"""On an accelerator: continuous batching writes what `model.generate` writes. `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.model.reasoner import Request
from pipeline.model.reasoning import open_reasoner
from pipeline.query_settings import ReasonSettings, SamplingSettings
from pipeline.records import Query
from pipeline.settings import ModelSettings

pytestmark = pytest.mark.gpu

WORDS = ("w1 w2 w3", "w9 " * 40, "w5", "w17 w18 " * 9, "w3 w1", "w40 " * 23)
LIMITS = (20, 7, 32, 1, 12, 25)


@pytest.mark.parametrize(("dtype", "may_differ", "in_one_call"), [("float32", 0, False), ("bfloat16", 1, True)])
def test_greedy_is_what_generate_gives_alone(tiny: Path, dtype: str, may_differ: int, in_one_call: bool) -> None:
    """More requests than a batch, so that prompts are read beside those that write; bfloat16 has ties."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    from transformers import AutoModelForCausalLM

    from pipeline.model import paged
    from pipeline.model.continuous import ContinuousReasoner

    settings = ReasonSettings(batch_queries=4, max_query_tokens=128, compute_dtype=dtype)  # type: ignore[arg-type]
    bundle = open_reasoner(settings, ModelSettings(model=str(tiny)), device="cuda")
    requests = [
        Request(bundle.prompt_ids(Query("", text)), SamplingSettings(max_tokens=n))
        for text, n in zip(WORDS, LIMITS, strict=True)
    ]
    reasoner = ContinuousReasoner(bundle, device="cuda")
    found = dict(reasoner.generate(requests))
    reasoner.close()
    assert all(completion.num_tokens for completion in found.values())
    model = AutoModelForCausalLM.from_pretrained(bundle.checkpoint.folder, dtype=getattr(torch, dtype)).cuda().eval()
    texts = []
    for request in requests:
        ids = torch.tensor([request.prompt_ids], device="cuda")
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
            eos_token_id=sorted(reasoner.end_tokens), max_new_tokens=request.sampling.max_tokens,
        )  # fmt: skip
        written = [int(token) for token in out[0, ids.shape[1] :] if int(token) not in reasoner.end_tokens]
        texts.append(bundle.tokenizer.decode(written).strip())
    assert sum(found[n].text != text for n, text in enumerate(texts)) <= may_differ
    query, key = (torch.zeros(1, heads, 1, 32, dtype=getattr(torch, dtype), device="cuda") for heads in (4, 2))
    assert paged.takes_varlen(query, key) == in_one_call
