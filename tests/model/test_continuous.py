"""Continuous batching: the tokens of `model.generate` whatever the neighbours; ends, draws, failures as promised."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.errors import ModelError
from pipeline.model.continuous import ContinuousReasoner
from pipeline.model.reasoner import Completion, Request, load_reasoner
from pipeline.model.reasoning import ReasonerBundle, open_reasoner
from pipeline.query_settings import ReasonSettings, SamplingSettings
from pipeline.records import FinishReason, Query
from pipeline.settings import ModelSettings

WORDS = ("w1 w2 w3", "w9 " * 40, "w5", "w17 w18 " * 9, "w3 w1", "w40 " * 23)


def _open(model: Path | str, *, batch_queries: int = 4) -> ReasonerBundle:
    settings = ReasonSettings(
        batch_queries=batch_queries, max_query_tokens=128, sampling=SamplingSettings(max_tokens=32)
    )
    return open_reasoner(settings, ModelSettings(model=str(model)), device="cpu")


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> ReasonerBundle:
    return _open(tiny)


@pytest.fixture(scope="module")
def reasoner(bundle: ReasonerBundle) -> Iterator[ContinuousReasoner]:
    made = load_reasoner(bundle, device="cpu", threads=1)
    assert isinstance(made, ContinuousReasoner)
    yield made
    made.close()


def _requests(bundle: ReasonerBundle, lengths: list[int], **sampling: Any) -> list[Request]:
    return [
        Request(bundle.prompt_ids(Query("", text)), SamplingSettings(max_tokens=n, **sampling), seed=n)
        for text, n in zip(WORDS, lengths, strict=False)
    ]


def _all(reasoner: ContinuousReasoner, requests: list[Request]) -> list[Completion]:
    found = dict(reasoner.generate(requests))
    assert sorted(found) == list(range(len(requests)))
    return [found[n] for n in range(len(requests))]


def _alone(bundle: ReasonerBundle, requests: list[Request], ends: frozenset[int]) -> list[str]:
    """What `model.generate` writes for each prompt alone."""
    model = AutoModelForCausalLM.from_pretrained(bundle.checkpoint.folder, dtype=torch.float32).eval()
    texts = []
    for request in requests:
        ids = torch.tensor([request.prompt_ids])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, eos_token_id=sorted(ends),
            max_new_tokens=request.sampling.max_tokens,
        )  # fmt: skip
        written = [int(token) for token in out[0, ids.shape[1] :] if int(token) not in ends]
        texts.append(bundle.tokenizer.decode(written).strip())
    return texts


def test_greedy_is_what_generate_gives_alone(bundle: ReasonerBundle, reasoner: ContinuousReasoner) -> None:
    requests = _requests(bundle, [20, 7, 32, 1, 12, 25])
    completions = _all(reasoner, requests)
    assert [c.text for c in completions] == _alone(bundle, requests, reasoner.end_tokens)
    for completion, request in zip(completions, requests, strict=True):
        assert completion.num_tokens <= request.sampling.max_tokens
        if completion.finish_reason is FinishReason.LENGTH:
            assert completion.num_tokens == request.sampling.max_tokens


@pytest.mark.slow
def test_the_default_model_too_ends_its_own_turn() -> None:
    settings = ReasonSettings(batch_queries=2, max_query_tokens=64, sampling=SamplingSettings(max_tokens=24))
    bundle = open_reasoner(settings, ModelSettings(), device="cpu")
    reasoner = ContinuousReasoner(bundle, device="cpu", threads=1)
    ids = [bundle.tokenizer.frame_ids(text) for text in (
        "<|im_start|>user\nSay only: hello<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nWhy do moths fly to lamps?<|im_end|>\n<|im_start|>assistant\n",
    )]  # fmt: skip
    requests = [Request(tuple(one), SamplingSettings(max_tokens=24)) for one in ids]
    completions = _all(reasoner, requests)
    reasoner.close()
    assert [c.text for c in completions] == _alone(bundle, requests, reasoner.end_tokens)
    assert [c.finish_reason for c in completions] == [FinishReason.STOP, FinishReason.LENGTH]


def test_results_come_while_others_are_still_written(bundle: ReasonerBundle, reasoner: ContinuousReasoner) -> None:
    order = [position for position, _ in reasoner.generate(_requests(bundle, [32, 2, 30, 1]))]
    assert order.index(3) < order.index(0)
    assert order.index(1) < order.index(2)


def test_a_stop_text_ends_and_is_left_out(bundle: ReasonerBundle, reasoner: ContinuousReasoner) -> None:
    # drawn, because a random model's likeliest token is the same each time
    (free,) = _all(reasoner, _requests(bundle, [16], temperature=1.0))
    words = free.text.split()
    stop = next(word for n, word in enumerate(words) if n >= 2 and word not in words[:n])
    (cut,) = _all(reasoner, _requests(bundle, [16], temperature=1.0, stop=(stop,)))
    assert cut.finish_reason is FinishReason.STOP
    assert cut.text == free.text[: free.text.index(stop)].strip()
    assert cut.num_tokens < free.num_tokens
    (nothing,) = _all(reasoner, _requests(bundle, [16], temperature=1.0, stop=(words[0],)))
    assert (nothing.text, nothing.finish_reason) == ("", FinishReason.EMPTY)


def test_a_draw_follows_from_its_seed_alone(bundle: ReasonerBundle, reasoner: ContinuousReasoner) -> None:
    requests = _requests(bundle, [10, 11, 12, 13], temperature=1.0, top_p=0.95, top_k=50)
    together = _all(reasoner, requests)
    assert [_all(reasoner, [request])[0] for request in requests] == together
    other = [Request(r.prompt_ids, r.sampling, seed=r.seed + 100) for r in requests]
    assert [c.text for c in _all(reasoner, other)] != [c.text for c in together]
    (narrow,) = _all(reasoner, _requests(bundle, [10], temperature=1.0, top_k=1))
    (greedy,) = _all(reasoner, _requests(bundle, [10]))
    assert narrow == greedy


def test_two_threads_share_one_engine(bundle: ReasonerBundle, reasoner: ContinuousReasoner) -> None:
    requests = _requests(bundle, [20, 7, 32, 1, 12, 25])
    expected = _all(reasoner, requests)
    found: list[list[Completion]] = []
    threads = [threading.Thread(target=lambda: found.append(_all(reasoner, requests))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected, expected]


def test_what_is_given_up_leaves_the_engine(bundle: ReasonerBundle, reasoner: ContinuousReasoner) -> None:
    running = reasoner.generate(_requests(bundle, [32, 1]))
    assert next(running)[0] == 1
    running.close()
    assert len(_all(reasoner, _requests(bundle, [3, 3]))) == 2


def test_cancelling_ends_it_at_once_and_leaves_the_engine_free(
    bundle: ReasonerBundle, reasoner: ContinuousReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, step, running = reasoner._manager.model.forward, threading.Event(), threading.Event()

    def hold(*args: Any, **kwargs: Any) -> Any:
        running.set()
        assert step.wait(60)
        return forward(*args, **kwargs)

    monkeypatch.setattr(reasoner._manager.model, "forward", hold)
    cancelled = threading.Event()
    found: list[Any] = []
    caller = threading.Thread(
        target=lambda: found.extend(reasoner.generate(_requests(bundle, [32, 32]), cancelled=cancelled))
    )
    caller.start()
    assert running.wait(60)
    cancelled.set()
    caller.join(30)
    assert not caller.is_alive(), "it should not wait for an answer"
    assert found == []
    step.set()
    monkeypatch.undo()
    assert len(_all(reasoner, _requests(bundle, [3, 3]))) == 2
    assert not reasoner._manager.batch_processor.scheduler.active_requests


def test_the_engine_computes_with_the_threads_that_were_asked_for(
    bundle: ReasonerBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_by: dict[int, int] = {}
    set_num_threads = torch.set_num_threads

    def note(count: int) -> None:
        set_by[threading.get_ident()] = count
        set_num_threads(count)

    monkeypatch.setattr(torch, "set_num_threads", note)
    reasoner = ContinuousReasoner(bundle, device="cpu", threads=1)
    _all(reasoner, _requests(bundle, [1]))
    engine = reasoner._manager._generation_thread.ident
    reasoner.close()
    assert set_by[engine] == 1


def test_one_request_that_cannot_be_is_an_error_of_its_own(
    bundle: ReasonerBundle, reasoner: ContinuousReasoner
) -> None:
    good = _requests(bundle, [4])
    bad = [Request((), SamplingSettings()), Request((10**6,), SamplingSettings()),
           Request((1,), SamplingSettings(max_tokens=100_000))]  # fmt: skip
    completions = _all(reasoner, bad + good)
    assert [c.finish_reason for c in completions[:3]] == [FinishReason.ERROR] * 3
    assert all(c.detail for c in completions[:3])
    assert completions[3] == _all(reasoner, good)[0]


def test_a_broken_engine_says_so_and_does_not_wait(bundle: ReasonerBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    reasoner = ContinuousReasoner(bundle, device="cpu", threads=1)

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(reasoner._manager.model, "forward", fail)
    with pytest.raises(ModelError, match="no memory left"):
        list(reasoner.generate(_requests(bundle, [4, 4])))
    with pytest.raises(ModelError, match="no memory left"):
        list(reasoner.generate(_requests(bundle, [4])))
    reasoner.close()


def test_closed_twice_and_then_refuses(bundle: ReasonerBundle) -> None:
    reasoner = ContinuousReasoner(bundle, device="cpu", threads=1)
    reasoner.close()
    reasoner.close()
    with pytest.raises(ModelError, match="closed"):
        list(reasoner.generate(_requests(bundle, [4])))
