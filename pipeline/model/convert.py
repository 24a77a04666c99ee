"""A quantised GGUF file to a folder of safetensors, tokenizer and configuration. Run once a machine."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

_log = logging.getLogger(__name__)


def convert_gguf(folder: Path, gguf_file: str, target: Path) -> None:
    """Writes the dequantised float32 model of a SmolLM2 GGUF file to `target`.

    transformers loses two things on the way, mended here: the tokenizer's digit-by-digit step (without it one text in
    fourteen is tokenised otherwise than by llama.cpp), and the permission to save a model that was quantised.
    """
    _log.info("converting %s to safetensors, once", gguf_file)
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    transformers_logging.enable_progress_bar()
