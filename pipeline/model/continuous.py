"""The default reasoner: continuous batching of transformers, on CPU and CUDA.

One manager lives as long as the reasoner. Its thread runs one step after another for whatever requests there are, from
one call of `generate` or several at once, and a request's place is taken by the next as soon as it ends. Knows nothing
of queries or caches; `reasoner.load_reasoner` makes one. Uses transformers 5.23's manager, and of its parts the router
of results and the list of logits processors.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import OutputRouter

from pipeline.errors import ModelError
from pipeline.model import cpu_kernels, paged
from pipeline.model.drawing import Draw, DrawProcessor, find_stop
from pipeline.model.loading import load_causal
from pipeline.model.reasoner import Completion, Request
from pipeline.model.reasoning import ReasonerBundle
from pipeline.records import FinishReason, Query

_PAGE_TOKENS = 16  # small, so that nearly all of an instruction's tokens are shared between the queries of a task
_BATCH_TOKENS = {"cpu": 1_024, "cuda": 8_192}
_MEMORY_SHARE = {"cpu": 0.25, "cuda": 0.6}  # of what is free, for the cache; an encoder may be beside it
_ALIVE_SECONDS = 0.1  # how often a waiting caller makes sure that the manager's thread runs and that it is wanted


class _Router(OutputRouter):  # type: ignore[misc]
    """Hands each result to the call of `generate` that asked for it; of a call that has ended, to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[str, queue.SimpleQueue[Any]] = {}

    def deliver(self, output: Any) -> None:
        results = self.waiting.get(output.request_id)
        if results is not None:
            results.put(output)

    def deliver_batch(self, outputs: list[Any]) -> None:
        for output in outputs:
            self.deliver(output)


class ContinuousReasoner:
    """The bundle's model behind transformers' continuous batching. Threads may share it.

    Greedy requests give the tokens that `model.generate` gives on each prompt alone, ties and rounding aside. A sampled
    request's draws follow from its seed; other requests change it only where rounding does.
    """

    def __init__(self, bundle: ReasonerBundle, *, device: str, threads: int | None = None) -> None:
        """Loads the model and starts the manager's thread.

        Raises:
            ModelError: the device is absent, or the model cannot be loaded.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ModelError("torch sees no CUDA device here; use --device cpu or a GPU node")
        if device == "cpu":
            torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        self._tokenizer = bundle.tokenizer
        self._source = bundle.source
        model: Any = load_causal(
            bundle.checkpoint, device=torch.device(device), dtype=bundle.settings.compute_dtype,
            allow_remote_code=bundle.allow_remote_code,
        )  # fmt: skip
        self._ends = _end_tokens(model, bundle)
        config = _configure(model, bundle, device)
        self._capacity = config.num_blocks * _PAGE_TOKENS
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        self._router = _Router()
        self._names = itertools.count()
        self._manager: Any = self._start(model, config)

    def _start(self, model: Any, config: ContinuousBatchingConfig) -> Any:
        ends = sorted(self._ends)
        generation = GenerationConfig(do_sample=False, eos_token_id=ends or -1, max_new_tokens=1)
        manager = model.init_continuous_batching(generation, continuous_batching_config=config)
        if paged.is_plain(model.config.get_text_config()):
            paged.register()
            model.set_attn_implementation(paged.ATTENTION)
        if model.device.type == "cpu" and model.dtype is torch.float32 and cpu_kernels.is_available():
            cpu_kernels.replace_linear(model, num_rows=config.max_requests_per_batch)
            cpu_kernels.release(model)
        # without an end of its own the model gets its last token as one, which it then cannot choose by itself
        spare = [] if ends else [self._vocabulary - 1]
        emb = self._tokenizer.emb_token_id
        banned = [emb, *spare] if emb < self._vocabulary else spare
        if spare:
            self._ends = frozenset(spare)
        processor = DrawProcessor(banned=banned, end=min(self._ends), decode=self._tokenizer.decode)
        manager.logit_processor = processor.as_list()
        manager.output_router = self._router
        # as manager.start(), but a process that forgets to close must still be able to end
        run = cpu_kernels.keep_threads(manager._run_generation_loop)
        manager._generation_thread = threading.Thread(target=run, daemon=True)
        manager._generation_thread.start()
        return manager

    def generate(
        self, requests: Sequence[Request], *, cancelled: threading.Event | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """As in `Reasoner`; stopping early takes what is unfinished out of the engine."""
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        positions: dict[str, int] = {}
        try:
            for position, request in enumerate(requests):
                refused = self._refusal(request)
                if refused:
                    yield position, Completion("", 0, FinishReason.ERROR, refused)
                    continue
                name = f"t1-{next(self._names)}"
                positions[name] = position
                self._add(name, request, results)
            while positions and (output := self._next(results, cancelled)) is not None:
                self._router.waiting.pop(output.request_id, None)
                position = positions.pop(output.request_id)
                yield position, self._complete(output, requests[position])
        finally:
            for name in positions:
                self._router.waiting.pop(name, None)
                if self._manager is not None:
                    self._manager.cancel_request(name)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end a completion."""
        return self._ends

    def close(self) -> None:
        """Ends the manager's thread, once the step it is in is done, and frees the cache; may be called twice."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.stop(block=True, hard_stop=True)

    def _refusal(self, request: Request) -> str:
        """Why a request can never be served; "" where it can."""
        needed = len(request.prompt_ids) + request.sampling.max_tokens
        if not request.prompt_ids:
            return "the prompt is empty; a request needs a token to begin with"
        if needed > self._capacity:
            return f"needs a cache of {needed} tokens, but there is memory for {self._capacity}; lower max_tokens"
        if max(request.prompt_ids) >= self._vocabulary:
            return f"token {max(request.prompt_ids)} of the prompt is not one of the model's {self._vocabulary}"
        return ""

    def _add(self, name: str, request: Request, results: queue.SimpleQueue[Any]) -> None:
        manager = self._alive()
        self._router.waiting[name] = results
        added = manager.add_request(
            list(request.prompt_ids), request_id=name, max_new_tokens=request.sampling.max_tokens,
            eos_token_id=sorted(self._ends), draw=Draw(request.sampling, request.seed),
        )  # fmt: skip
        if added is None:
            self._alive()
            raise ModelError(f"the reasoner {self._source} takes no more requests; make a new one")

    def _next(self, results: queue.SimpleQueue[Any], cancelled: threading.Event | None) -> Any:
        """The next result, waited for as long as there is a thread that may bring it; None once nobody wants it."""
        while cancelled is None or not cancelled.is_set():
            try:
                output = results.get(timeout=_ALIVE_SECONDS)
            except queue.Empty:
                self._alive()
                continue
            if output.error is not None:
                self._alive(because=output.error)
            return output
        return None

    def _alive(self, because: str = "") -> Any:
        """The manager, if it runs.

        Raises:
            ModelError: it was closed, or its thread broke down.
        """
        manager = self._manager
        if manager is None:
            raise ModelError(f"the reasoner {self._source} is closed; make a new one")
        status = manager.background_thread_status
        if status.can_accept_new_requests() is None and manager.is_running():
            return manager
        found = because or str(status.fatal_error or "its thread ended")
        raise ModelError(
            f"continuous batching of {self._source} broke down: {found}; run the same command again, with a smaller "
            "--batch-queries if memory ran out"
        )

    def _complete(self, output: Any, request: Request) -> Completion:
        if output.error is not None:
            return Completion("", 0, FinishReason.ERROR, f"continuous batching gave this one up: {output.error}")
        ids = list(output.generated_tokens)
        ended = bool(ids) and ids[-1] in self._ends
        if ended:
            ids.pop()
        text = self._tokenizer.decode(ids)
        at = find_stop(text, request.sampling.stop)
        if at >= 0:
            ended, text = True, text[:at]
            lengths = range(1, len(ids) + 1)
            found = (find_stop(self._tokenizer.decode(ids[:n]), request.sampling.stop) >= 0 for n in lengths)
            ids = ids[: next((n for n, yes in enumerate(found) if yes), len(ids))]
        text = text.strip()
        if not ended:
            return Completion(text, len(ids), FinishReason.LENGTH)
        return Completion(text, len(ids), FinishReason.STOP if text else FinishReason.EMPTY)


def _end_tokens(model: Any, bundle: ReasonerBundle) -> frozenset[int]:
    """Tokens that end a turn: the generation configuration's, the model's and the tokenizer's."""
    found: set[int] = set()
    for config in (model.generation_config, model.config.get_text_config()):
        ids = getattr(config, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    path = Path(bundle.checkpoint.folder) / "tokenizer_config.json"
    token = json.loads(path.read_text(encoding="utf-8")).get("eos_token") if path.is_file() else None
    text = token.get("content") if isinstance(token, dict) else token
    ids = bundle.tokenizer.frame_ids(text) if text else []
    return frozenset(found | set(ids if len(ids) == 1 else []))


def _configure(model: Any, bundle: ReasonerBundle, device: str) -> ContinuousBatchingConfig:
    """A cache for every request at its longest, or for as many as a share of the free memory holds."""
    settings, config = bundle.settings, model.config.get_text_config()
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    page_bytes = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize * _PAGE_TOKENS
    longest = len(bundle.prompt_ids(Query("", "a"))) + settings.max_query_tokens + settings.sampling.max_tokens
    batch = settings.batch_on(device)
    wanted = batch * (-(-longest // _PAGE_TOKENS) + 1)
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else psutil.virtual_memory().available
    share = _MEMORY_SHARE[device] * min(1.0, settings.pool.gpus_per_encoder or 1.0)  # others see the same memory free
    blocks = max(1, min(wanted, int(free * share) // page_bytes))
    return ContinuousBatchingConfig(
        page_size=_PAGE_TOKENS, num_blocks=blocks, max_batch_tokens=max(_BATCH_TOKENS[device], batch),
        max_requests_per_batch=batch, max_blocks_per_request=0, safety_margin=0.0,
        allow_block_sharing=True, use_async_batching=False, use_cuda_graph=False, auto_switch_to_flash=False,
    )  # fmt: skip
