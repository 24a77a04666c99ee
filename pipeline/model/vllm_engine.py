"""A reasoner in vLLM's own engine, on CUDA: an optional extra, `pip install 't1-index[vllm]'`.

Adds requests to vLLM's scheduler and hands completions on as they finish. Knows nothing of queries or caches;
`load_reasoner` makes one. Written to vLLM 0.30: `LLMEngine.add_request` and `step`, `SamplingParams`, `TokensPrompt`.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError, SettingsError
from pipeline.model.reasoner import Completion, Request
from pipeline.model.reasoning import ReasonerBundle
from pipeline.records import FinishReason

# Share of the device's memory for weights and cache. vLLM takes 0.92 where it is alone; the vectors of what was written
# come from an encoder that may be on the same device, and a second copy of a small model fits into the rest.
_MEMORY_SHARE = 0.8
# vLLM sizes buffers for one of these ranks (vllm.config.lora.MaxLoRARanks).
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_NEVER = -100.0  # the least that a logit bias may be, as in OpenAI's API; no likelihood is left


class VllmReasoner:
    """The bundle's model in vLLM, with its adapter beside the weights."""

    def __init__(self, bundle: ReasonerBundle, *, device: str) -> None:
        """Loads the model.

        Raises:
            ModelError: the device is absent, the adapter is of a kind that vLLM lacks, or vLLM cannot load the model.
            SettingsError: vLLM is not installed, or the device is not CUDA.
        """
        if device != "cuda":
            raise SettingsError(f"engine vllm needs CUDA, not {device}; use engine transformers there")
        arguments = _engine_arguments(bundle)
        try:
            import vllm
        except ImportError as error:
            raise SettingsError(
                f"engine vllm needs vLLM ({error}); pip install 't1-index[vllm]' on a machine with CUDA, "
                "or use engine transformers"
            ) from error
        import torch

        if not torch.cuda.is_available():
            raise ModelError("engine vllm needs CUDA, but torch sees no CUDA device here; use a GPU node")
        self._vllm = vllm
        self._adapter = _lora_request(bundle)
        self._banned = _banned_tokens(bundle)
        self._names = itertools.count()
        try:
            self._engine: Any = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**arguments))
        except Exception as error:
            raise ModelError(f"vLLM cannot load {bundle.source}: {error}; try engine transformers") from error

    def generate(
        self, requests: Sequence[Request], *, cancelled: threading.Event | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """As in `Reasoner`; stopping early takes what is unfinished out of the engine."""
        positions: dict[str, int] = {}
        try:
            for position, request in enumerate(requests):
                name = str(next(self._names))  # unique in the engine's life, as vLLM wants
                refused = self._add(name, request)
                if refused is None:
                    positions[name] = position
                else:
                    yield position, refused
            while positions and not (cancelled and cancelled.is_set()):
                for output in self._step():
                    if output.finished and output.request_id in positions:
                        yield positions.pop(output.request_id), _completion(output.outputs[0])
        finally:
            if positions and self._engine is not None:
                self._engine.abort_request(list(positions))

    def close(self) -> None:
        """Ends vLLM's own process, which holds the device's memory; may be called twice."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.engine_core.shutdown()

    def _add(self, name: str, request: Request) -> Completion | None:
        """Why vLLM refuses this request, such as that it is too long; None where it does not."""
        from vllm.exceptions import VLLMClientError

        prompt = self._vllm.TokensPrompt(prompt_token_ids=list(request.prompt_ids))
        try:
            params = _sampling_params(request, banned=self._banned)
            self._engine.add_request(name, prompt, params, lora_request=self._adapter)
        except (ValueError, VLLMClientError) as error:
            return Completion("", 0, FinishReason.ERROR, f"vLLM refused this request: {error}")
        return None

    def _step(self) -> list[Any]:
        try:
            return list(self._engine.step())
        except Exception as error:  # of vLLM's engine as a whole: requests that fail alone come back with a reason
            raise ModelError(f"vLLM's engine broke down: {error}; run the same command again") from error


def _engine_arguments(bundle: ReasonerBundle) -> dict[str, Any]:
    """Of vllm.EngineArgs.

    Raises:
        ModelError: the adapter is of a kind that vLLM lacks.
    """
    folder = bundle.checkpoint.folder
    arguments: dict[str, Any] = {
        "model": folder,
        "tokenizer": folder,
        "trust_remote_code": bundle.allow_remote_code,
        "dtype": bundle.settings.compute_dtype,
        "gpu_memory_utilization": _MEMORY_SHARE,
        "enable_prefix_caching": True,  # all queries of a task begin with the same instruction
        "disable_log_stats": True,
    }
    if bundle.checkpoint.adapter:
        rank = _adapter_rank(bundle.checkpoint.adapter)
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
    return arguments


def _adapter_rank(folder: str) -> int:
    """The smallest of vLLM's ranks that the adapter fits."""
    try:
        config = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        rank = max(int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values()), 1)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"the adapter in {folder} is not a LoRA that vLLM reads ({error!r}); merge it first"
        ) from error
    extras = ("modules_to_save", "trainable_token_indices", "use_dora")
    unknown = [name for name in extras if config.get(name)]
    if config.get("peft_type", "LORA") != "LORA" or unknown or rank > _LORA_RANKS[-1]:
        found = ", ".join(unknown) or f"{config.get('peft_type')} of rank {rank}"
        raise ModelError(
            f"vLLM cannot apply the adapter in {folder}: it has {found}; merge it into the weights, or use engine "
            "transformers"
        )
    return next(known for known in _LORA_RANKS if known >= rank)


def _lora_request(bundle: ReasonerBundle) -> Any:
    if not bundle.checkpoint.adapter:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name="adapter", lora_int_id=1, lora_path=bundle.checkpoint.adapter)


def _banned_tokens(bundle: ReasonerBundle) -> tuple[int, ...]:
    """`<emb_token>`, which reads a state and says nothing, where the model could write it at all."""
    token = bundle.tokenizer.emb_token_id
    return (token,) if token < int(bundle.checkpoint.config.get("vocab_size") or 0) else ()


def _sampling_params(request: Request, *, banned: Sequence[int]) -> Any:
    """A vllm.SamplingParams; its own defaults leave special tokens and the stop text out of what is said."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    sampling = request.sampling
    return SamplingParams(
        n=1,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=request.seed,
        stop=list(sampling.stop),
        logit_bias=dict.fromkeys(banned, _NEVER) or None,
        detokenize=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(output: Any) -> Completion:
    """What a finished vllm.CompletionOutput says."""
    text, num_tokens = output.text.strip(), len(output.token_ids)
    if output.finish_reason == "length":
        return Completion(text, num_tokens, FinishReason.LENGTH)
    if output.finish_reason == "stop":  # the token that ended it is among the ids
        return Completion(text, max(num_tokens - 1, 0), FinishReason.STOP if text else FinishReason.EMPTY)
    return Completion("", 0, FinishReason.ERROR, f"vLLM ended this one with finish_reason {output.finish_reason!r}")
