"""Matrix products on CPU by oneDNN with weights laid out once.

`torch.nn.functional.linear` in float32 goes to MKL, which lays the weights out anew at every call and is not at home
on every processor; oneDNN's kernels with reordered weights, and the gate's SiLU and the product with it computed in the
same pass, were a fifth faster where this was written (infra/bench/encode measures it). These are the operators that
PyTorch's own compiler emits for CPU inference. They exist on x86 builds; where they do not, nothing is replaced.

Knows linear maps and gated feed-forward parts; `decoder` checks the whole model's result before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_GATED_PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")


def is_available() -> bool:
    """Whether this build of torch has the operators."""
    found: Any = torch.backends.mkldnn
    return bool(found.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class ReorderedLinear(nn.Module):
    """An `nn.Linear` whose weights are in oneDNN's own layout; for inference on CPU only.

    Args:
        linear: Whose weights are taken; kept until `release`, so that `restore_linear` can put it back.
        num_rows: Rows that a batch usually has; chooses the layout.
    """

    replaced: nn.Linear | None

    def __init__(self, linear: nn.Linear, *, num_rows: int) -> None:
        super().__init__()
        self.replaced = linear
        self.bias = linear.bias
        self.reordered = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), num_rows)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return self.apply_with(rows, "none")

    def apply_with(self, rows: Tensor, function: str) -> Tensor:
        """The same, with "none" or "swish" (SiLU) applied to the result in the same pass."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.reordered, self.bias, function, [], "")
        return result

    def multiply_with(self, rows: Tensor, other: Tensor) -> Tensor:
        """The same, multiplied by `other` in the same pass."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, other, self.reordered, self.bias, "mul")
        return result


class GatedFeedForward(nn.Module):
    """SiLU(gate(x)) * up(x), then down: three passes over the weights and nothing beside them."""

    def __init__(self, replaced: nn.Module) -> None:
        super().__init__()
        self.replaced = replaced

    def forward(self, rows: Tensor) -> Tensor:
        """[..., hidden] to [..., hidden]."""
        parts: Any = self.replaced
        return parts.down_proj(parts.up_proj.multiply_with(rows, parts.gate_proj.apply_with(rows, "swish")))  # type: ignore[no-any-return]


def keep_threads(run: Callable[[], None]) -> Callable[[], None]:
    """`run` for a thread of its own that computes with as many threads as the caller.

    OpenMP, which oneDNN asks, counts by the thread that calls; a new one has what the process started with.
    """
    count = torch.get_num_threads()

    def run_with_as_many() -> None:
        torch.set_num_threads(count)
        run()

    return run_with_as_many


def replace_linear(layers: nn.Module, *, num_rows: int) -> None:
    """Replaces every linear map and SiLU-gated feed-forward part below `layers`."""
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, ReorderedLinear(child, num_rows=num_rows))
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if _is_gated(child):
                setattr(parent, name, GatedFeedForward(child))


def restore_linear(layers: nn.Module) -> None:
    """Puts everything back that `replace_linear` replaced."""
    for kind in (GatedFeedForward, ReorderedLinear):
        for parent in list(layers.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, kind):
                    setattr(parent, name, child.replaced)


def release(layers: nn.Module) -> None:
    """Frees the weights as they were; `restore_linear` is then no longer possible."""
    for module in layers.modules():
        if isinstance(module, ReorderedLinear):
            module.replaced = None


def _is_gated(module: nn.Module) -> bool:
    if not all(hasattr(module, part) for part in _GATED_PARTS):
        return False
    silu = type(module.act_fn).__name__ in {"SiLU", "SiLUActivation"}
    return silu and all(isinstance(getattr(module, part), ReorderedLinear) for part in _GATED_PARTS[:3])
