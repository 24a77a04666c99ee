"""Weights into memory: a decoder or encoder of transformers, an adapter merged in, `<emb_token>` given its row.

Called by the encoders in this package; knows nothing of batches.
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from pipeline.errors import ModelError
from pipeline.model.checkpoint import Checkpoint
from pipeline.model.identity import HEAD_FILE
from pipeline.model.tokenizer import load_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_backbone(
    checkpoint: Checkpoint, *, device: torch.device, dtype: str, emb_start: str, allow_remote_code: bool
) -> nn.Module:
    """The model without its LM head, in evaluation mode, `<emb_token>`'s row in place.

    Args:
        checkpoint: A decoder's files.
        device: Where it is to live.
        dtype: "float32" or "bfloat16".
        emb_start: Text whose tokens' mean embedding starts `<emb_token>` where the checkpoint has none.
        allow_remote_code: Passed to transformers.

    Raises:
        ModelError: transformers cannot load it.
    """
    transformers_logging.disable_progress_bar()
    wants_head = checkpoint.adapter is not None
    auto = AutoModelForCausalLM if wants_head else AutoModel
    try:
        model: nn.Module = auto.from_pretrained(
            checkpoint.folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=allow_remote_code,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(f"transformers cannot load {checkpoint.source}: {str(error).splitlines()[0]}") from error
    if checkpoint.kind == "decoder":
        _add_emb_token(model, checkpoint.folder, emb_start)
    if checkpoint.adapter is not None:
        model = _merge_adapter(model, checkpoint.adapter)
    model.requires_grad_(False)
    return model.to(device).eval()


def _add_emb_token(model: nn.Module, folder: str, emb_start: str) -> None:
    """Gives an untrained `<emb_token>` the mean embedding of `emb_start`'s tokens."""
    tokenizer = load_tokenizer(folder)
    if not tokenizer.emb_token_added:
        return
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    if tokenizer.emb_token_id >= embedding.weight.shape[0]:
        model.resize_token_embeddings(tokenizer.emb_token_id + 1, mean_resizing=False)  # type: ignore[operator]
        embedding = model.get_input_embeddings()  # type: ignore[operator]
    start = tokenizer.frame_ids(emb_start)
    with torch.no_grad():
        embedding.weight[tokenizer.emb_token_id] = embedding.weight[start].float().mean(0).to(embedding.weight.dtype)


def _merge_adapter(model: nn.Module, adapter: str) -> nn.Module:
    from peft import PeftModel

    try:
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the adapter at {adapter} does not fit the model: {str(error).splitlines()[0]}") from error
    base: nn.Module = merged.base_model
    return base


def load_head(folder: str) -> dict[str, Tensor]:
    """Means by role and a projection applied after pooling, float32; empty where the checkpoint has none."""
    from pathlib import Path

    path = Path(folder) / HEAD_FILE
    return {name: t.float() for name, t in load_file(path).items()} if path.is_file() else {}
