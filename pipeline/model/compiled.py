"""A decoder's layers compiled: on a GPU, what lies between the matrix products is fused into a few kernels.

Norms, rotary positions, the gate and residuals move as many bytes as the matrix products compute, and run one operation
at a time in transformers' code. `torch.compile` makes one kernel of each stretch; all layers share one compilation,
with the number of tokens left open.

Called by `decoder`, which checks the results and goes on without where it fails (a node without a C compiler, say).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def compile_layers(layers: nn.ModuleList, *, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles every layer but the last, which `last_layer` runs its own way.

    Args:
        layers: Of a decoder whose attention is `packed.attend`.
        backend: As `torch.compile` takes it.
    """
    # a probe and a first batch of other lengths; the layers themselves all share one entry
    torch._dynamo.config.recompile_limit = max(16, torch._dynamo.config.recompile_limit)
    for layer in layers[:-1]:
        layer.compile(dynamic=True, fullgraph=True, backend=backend)


def restore_layers(layers: nn.ModuleList) -> None:
    """Undoes `compile_layers`."""
    for layer in layers[:-1]:
        layer._compiled_call_impl = None
    torch._dynamo.reset()
