"""Weights into memory: a decoder or encoder of transformers, an adapter merged in, `<emb_token>` given its row.

Called by the encoders in this package; knows nothing of batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError, safe_open
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
    model = _load(checkpoint, dtype=DTYPES[dtype], allow_remote_code=allow_remote_code)
    if checkpoint.kind == "decoder":
        _add_emb_token(model, checkpoint.folder, emb_start)
    if checkpoint.adapter is not None:
        model = _merge_adapter(model, checkpoint.adapter)
    model.requires_grad_(False)
    return model.to(device).eval()


def load_causal(checkpoint: Checkpoint, *, device: torch.device, dtype: str, allow_remote_code: bool) -> nn.Module:
    """The decoder with its LM head, in evaluation mode, an adapter merged in; it gets no row for `<emb_token>`.

    Args:
        checkpoint: A decoder's files.
        device: Where it is to live.
        dtype: "float32" or "bfloat16".
        allow_remote_code: Passed to transformers.

    Raises:
        ModelError: transformers cannot load it.
    """
    model = _load(checkpoint, dtype=DTYPES[dtype], allow_remote_code=allow_remote_code, with_head=True)
    if checkpoint.adapter is not None:
        _merge_adapter(model, checkpoint.adapter)  # in place, below the head or with it
    model.requires_grad_(False)
    return model.to(device).eval()


def _load(checkpoint: Checkpoint, *, dtype: torch.dtype, allow_remote_code: bool, with_head: bool = False) -> nn.Module:
    plain = not with_head and (checkpoint.adapter is None or checkpoint.kind == "encoder")
    auto = AutoModel if plain else AutoModelForCausalLM
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it reports an LM head that is left out on purpose
    try:
        with _without_adapter(checkpoint.folder) as folder:
            model, found = auto.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=allow_remote_code, output_loading_info=True
            )
    except (OSError, ValueError, ImportError, LookupError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"transformers cannot load {checkpoint.source}: {_first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    # transformers would draw what is missing at random: other vectors at each start
    missing = sorted(name for name in found["missing_keys"] if "pooler." not in name)
    if missing:
        raise ModelError(
            f"the weights of {checkpoint.source} lack {len(missing)} of the model's tensors, such as {missing[0]}; "
            "copy all of its *.safetensors"
        )
    return model  # type: ignore[no-any-return]


@contextmanager
def _without_adapter(folder: str) -> Iterator[str]:
    """The folder as if no adapter lay in it: transformers would apply that one by itself, and we would again."""
    if not (Path(folder) / "adapter_config.json").is_file():
        yield folder
        return
    with TemporaryDirectory() as bare:
        for path in Path(folder).iterdir():
            if not path.name.startswith("adapter_"):
                (Path(bare) / path.name).symlink_to(path.resolve())
        yield bare


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


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
        with safe_open(Path(adapter) / "adapter_model.safetensors", framework="pt") as tensors:
            names = list(tensors.keys())
        # trained on the model with its LM head, or on what is below it
        with_head = any(name.startswith(f"base_model.model.{model.base_model_prefix}.") for name in names)
        with warnings.catch_warnings():
            # peft only warns of layers for which the adapter has nothing, and leaves them as they were
            warnings.filterwarnings("error", message="Found missing adapter keys")
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
            peft_model = PeftModel.from_pretrained(model if with_head else model.base_model, adapter)
            merged = peft_model.merge_and_unload()
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, SafetensorError, UserWarning) as error:
        raise ModelError(f"the adapter at {adapter} does not fit the model: {_first_line(error)}") from error
    base: nn.Module = merged.base_model
    return base


def load_head(folder: str) -> dict[str, Tensor]:
    """Means by role and a projection applied after pooling, float32; empty where the checkpoint has none."""
    path = Path(folder) / HEAD_FILE
    return {name: t.float() for name, t in load_file(path).items()} if path.is_file() else {}
