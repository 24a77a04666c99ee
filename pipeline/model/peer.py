"""An encoder-only model with mean pooling, such as all-MiniLM-L6-v2, for comparisons on the same pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.model.batch import padded_batches
from pipeline.model.bundle import ModelBundle, Role
from pipeline.model.encoder import Encoder, TokenIds, Vectors
from pipeline.model.loading import load_backbone, load_head
from pipeline.model.pooling import Head, is_out_of_memory


class MeanPoolingEncoder(Encoder):
    """Mean of the last layer over all tokens, normalised (Reimers and Gurevych 2019, arXiv 1908.10084)."""

    def __init__(self, bundle: ModelBundle, *, device: torch.device, batch_tokens: int) -> None:
        settings = bundle.settings
        self.device = device
        self.batch_tokens = batch_tokens
        self.dim = bundle.identity.dim
        self.frame = bundle.frames["document"]
        self.model = load_backbone(
            bundle.checkpoint, device=device, dtype=str(settings.compute_dtype), emb_start="",
            allow_remote_code=settings.allow_remote_code,
        )  # fmt: skip
        self.head = Head(load_head(bundle.checkpoint.folder), dim=self.dim, device=device)
        linear = [m for m in self.model.modules() if isinstance(m, torch.nn.Linear)]
        self._weights = sum(m.weight.numel() for m in linear)

    def frame_tokens(self, role: Role) -> int:
        """Tokens around a body."""
        return self.frame.num_tokens

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        return padded_batches(lengths, max_tokens=self.batch_tokens)

    def _is_out_of_memory(self, error: Exception) -> bool:
        return is_out_of_memory(error)

    @torch.inference_mode()
    def _forward(self, bodies: Sequence[TokenIds], role: Role) -> tuple[Vectors, int, int]:
        rows = [[*self.frame.prefix, *map(int, body), *self.frame.suffix] for body in bodies]
        longest = max(map(len, rows))
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        mask = mask.to(self.device)
        # without padding no mask is passed: attention then takes its fast path
        padded = any(len(row) < longest for row in rows)
        hidden = self.model(input_ids=ids.to(self.device), attention_mask=mask if padded else None).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        vectors: Vectors = self.head(pooled, role).cpu().numpy()
        return vectors, len(rows) * longest, 2 * self._weights * sum(map(len, rows))
