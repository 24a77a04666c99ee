"""The last layer computed where it is read: its feed-forward part at one position a text instead of at every token.

Fits decoders built as residual + attention, residual + feed-forward with norms before each (Llama, Qwen2/3, Mistral,
SmolLM); `decoder` checks the result against a plain pass and unwraps it where a model is built otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
_wanted: ContextVar[Tensor | None] = ContextVar("wanted", default=None)


@contextmanager
def wanted_rows(rows: Tensor) -> Iterator[None]:
    """Within it, a wrapped last layer returns only these rows of its one long sequence."""
    token = _wanted.set(rows)
    try:
        yield
    finally:
        _wanted.reset(token)


class TrimmedLayer(nn.Module):
    """A decoder layer whose output is wanted at a few rows only; passes through when no rows are set."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        # transformers reads attributes of its layers, such as attention_type
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
        """[1, tokens, hidden] to [1, wanted, hidden]."""
        layer: Any = self.layer
        rows = _wanted.get()
        if rows is None:
            result: Tensor = layer(hidden_states, *args, **options)
            return result
        attended = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **options)[0]
        residual = hidden_states[:, rows] + attended[:, rows]
        trimmed: Tensor = residual + layer.mlp(layer.post_attention_layernorm(residual))
        return trimmed


def wrap_last_layer(model: nn.Module) -> bool:
    """Wraps a model's last layer; False where it is not built of the parts named above."""
    layers = getattr(model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(hasattr(layers[-1], part) for part in _PARTS):
        return False
    layers[-1] = TrimmedLayer(layers[-1])
    return True
