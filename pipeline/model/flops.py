"""How many floating-point operations a text needs: two a weight and token, and attention's two products.

Counts what the wanted state needs and nothing else: no padding, no LM head, a cached prefix left out, the last layer's
feed-forward part at one position. Utilisation is this over the time and the machine's matrix-product rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class DecoderCost:
    """Weights that every token meets.

    Attributes:
        weights: Of all layers' linear maps.
        last_mlp_weights: Of the last layer's feed-forward part, needed once a text.
        attention_width: Query heads x head length, summed over layers.
    """

    weights: int
    last_mlp_weights: int
    attention_width: int

    def useful(self, lengths: Sequence[int], *, shared: int) -> int:
        """Operations for texts of these lengths (frame included), their first `shared` tokens already computed."""
        total = 0
        for length in lengths:
            own = length - shared
            total += 2 * own * (self.weights - self.last_mlp_weights) + 2 * self.last_mlp_weights
            # each new token attends to everything before it and itself: q.k and p.v, two operations a component each
            total += 4 * self.attention_width * (own * shared + own * (own + 1) // 2)
        return total


def decoder_cost(model: nn.Module) -> DecoderCost:
    """Counted from a model's own layers; mixtures of experts count every expert and so overstate."""
    layers = getattr(model, "layers", model)
    linear = [m for m in layers.modules() if isinstance(m, nn.Linear)]
    last = layers[-1] if isinstance(layers, nn.ModuleList) else None
    mlp = getattr(last, "mlp", None)
    last_mlp = sum(m.weight.numel() for m in mlp.modules() if isinstance(m, nn.Linear)) if mlp is not None else 0
    config = getattr(model, "config", None)
    heads = int(getattr(config, "num_attention_heads", 0))
    head_dim = int(getattr(config, "head_dim", None) or (getattr(config, "hidden_size", 0) // max(heads, 1)))
    depth = len(layers) if isinstance(layers, nn.ModuleList) else 0
    return DecoderCost(sum(m.weight.numel() for m in linear), last_mlp, heads * head_dim * depth)
