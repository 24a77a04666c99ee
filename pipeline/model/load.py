"""A bundle's weights into memory: the one way to get an `Encoder`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipeline.errors import ModelError
from pipeline.model.bundle import ModelBundle
from pipeline.model.encoder import Encoder

if TYPE_CHECKING:
    import torch

# Tokens of one forward pass where the user names none. On CPU a batch's activations should stay in the cache: on two
# cores 1,024 tokens were the fastest of 512, 1,024, 2,048 (infra/bench/encode). A GPU wants its matrix units full.
CPU_BATCH_TOKENS = 1_024
CUDA_BATCH_TOKENS = 65_536


def load_encoder(
    bundle: ModelBundle,
    *,
    device: str,
    threads: int | None = None,
    batch_tokens: int | None = None,
    compiles: bool = False,
) -> Encoder:
    """The encoder of an opened model, on a device.

    Args:
        bundle: From `open_bundle`.
        device: "cpu" or "cuda".
        threads: Threads on CPU: so many lanes that each encode a group, or one group on all of them; every core of the
            process when None.
        batch_tokens: Tokens of one forward pass; by device when None.
        compiles: Compile a decoder's layers on CUDA: half a minute that a long run wins back.

    Raises:
        ModelError: the weights do not load, or the device is absent.
    """
    if bundle.checkpoint.kind == "hashing":
        from pipeline.model.hashing import HashingEncoder

        return HashingEncoder(bundle)
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "--device cuda was asked for, but torch sees no CUDA device here; use --device cpu or a GPU node"
        )
    threads = threads or len(os.sched_getaffinity(0))
    if device == "cpu":
        torch.set_num_threads(threads)
    batch_tokens = batch_tokens or (CUDA_BATCH_TOKENS if device == "cuda" else CPU_BATCH_TOKENS)
    encoder = _load_torch(bundle, torch.device(device), batch_tokens, compiles=compiles and device == "cuda")
    if device == "cpu":
        encoder.open_lanes(threads, prepare=lambda: torch.set_num_threads(1))
    return encoder


def _load_torch(bundle: ModelBundle, device: torch.device, batch_tokens: int, *, compiles: bool) -> Encoder:
    if bundle.checkpoint.kind == "encoder":
        from pipeline.model.peer import MeanPoolingEncoder

        return MeanPoolingEncoder(bundle, device=device, batch_tokens=batch_tokens)
    from pipeline.model.decoder import DecoderEncoder

    return DecoderEncoder(bundle, device=device, batch_tokens=batch_tokens, compiles=compiles)
