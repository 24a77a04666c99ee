"""A decoder of a real model's shape with random weights and a word-level tokenizer: speed without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Published configurations: Qwen3-4B (huggingface.co/Qwen/Qwen3-4B), and a small one for trying this file out.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-4b": {
        "vocab_size": 151_936, "hidden_size": 2_560, "intermediate_size": 9_728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40_960,
        "rope_theta": 1_000_000.0,
    },
    "tiny": {
        "vocab_size": 20_100, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4_096,
    },
}  # fmt: skip
_NUM_WORDS = 20_000
_CHAT = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


def make_random_model(folder: Path, *, shape: str, device: str) -> str:
    """Writes a Qwen3 model of a named shape to `folder` and returns it as text.

    Args:
        folder: Made when absent.
        shape: A key of `SHAPES`.
        device: Where the weights are drawn; drawing four billion on CPU takes minutes.
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    folder.mkdir(parents=True, exist_ok=True)
    config = Qwen3Config(**SHAPES[shape], tie_word_embeddings=True)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.cpu().save_pretrained(folder)
    _make_tokenizer(folder)
    return str(folder)


def _make_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    frame = ["<unk>", "<|im_start|>", "<|im_end|>", "system", "user", "assistant", ":"]
    words = [*frame, *(f"w{n}" for n in range(_NUM_WORDS))]
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": frame[1:3]})
    fast.chat_template = _CHAT
    fast.save_pretrained(folder)
