"""From pooled states to unit vectors: centring, projection, truncation, normalisation."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.model.bundle import Role


class Head:
    """A pooled state to a vector, in float32.

    The state's direction, minus the role's mean, times the projection, its first `dim` components, at unit length.

    Args:
        tensors: "document_mean", "query_mean" [hidden] and "projection" [hidden, out]; each may be absent.
        dim: Components kept.
        device: Where states live.
    """

    def __init__(self, tensors: dict[str, Tensor], *, dim: int, device: torch.device) -> None:
        self.dim = dim
        self._means = {name: t.to(device) for name, t in tensors.items() if name.endswith("_mean")}
        projection = tensors.get("projection")
        self._projection: Tensor | None = projection.to(device) if projection is not None else None

    def clear(self) -> None:
        """Forgets means and projection; what is left is the state's direction. For estimating them anew."""
        self._means, self._projection = {}, None

    def __call__(self, states: Tensor, role: Role) -> Tensor:
        """[texts, hidden] to [texts, dim] float32."""
        states = torch.nn.functional.normalize(states.float(), dim=-1)
        mean = self._means.get(f"{role}_mean")
        if mean is None and role == "reasoned":
            mean = self._means.get("query_mean")
        if mean is not None:
            states = states - mean
        if self._projection is not None:
            states = states @ self._projection
        return torch.nn.functional.normalize(states[:, : self.dim], dim=-1)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch ran out of memory, on an accelerator or in the CPU allocator; frees cached accelerator memory."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        torch.cuda.empty_cache()
        return True
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "not enough memory" in str(error)
