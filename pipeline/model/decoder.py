"""The T1 encoder: a causal model read at `<emb_token>`.

A document is prefix + body + suffix, the suffix ending in `<emb_token>`; its vector is the last layer's state there
(CRE-T1, arXiv 2603.17387), centred where the checkpoint brings a mean, and normalised. Because a causal state sees only
what stands before it, sequences can be laid end to end without padding, the prefix can be computed once, and the last
layer's feed-forward part is needed at one position a text. Each of these is checked against a plain forward pass when
the model is loaded, and left out where the results differ.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.model import compiled, cpu_kernels, flops
from pipeline.model.batch import packed_batches, padded_batches
from pipeline.model.bundle import Frame, ModelBundle, Role
from pipeline.model.encoder import Encoder, TokenIds, Vectors
from pipeline.model.last_layer import wanted_rows, wrap_last_layer
from pipeline.model.loading import load_backbone, load_head
from pipeline.model.packed import ATTENTION, Packing, PrefixState, lay_out, packing
from pipeline.model.pooling import Head, is_out_of_memory
from pipeline.prompts import EMB_START

_log = logging.getLogger(__name__)

# A prefix shorter than this costs more to merge with every text's keys than to compute again.
MIN_PREFIX_TOKENS = 8
# How far a fast path may be from the plain forward pass before it is left out: 1 - cosine.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-3}
_PROBE = (5, 17, 40)


class DecoderEncoder(Encoder):
    """Encodes with a decoder of transformers. See the module's text; made by `load.load_encoder`."""

    def __init__(self, bundle: ModelBundle, *, device: torch.device, batch_tokens: int, compiles: bool = False) -> None:
        settings = bundle.settings
        self.device = device
        self.batch_tokens = batch_tokens
        self.dim = bundle.identity.dim
        self.frames = bundle.frames
        self.model = load_backbone(
            bundle.checkpoint, device=device, dtype=str(settings.compute_dtype), emb_start=EMB_START,
            allow_remote_code=settings.allow_remote_code,
        )  # fmt: skip
        self.head = Head(load_head(bundle.checkpoint.folder), dim=self.dim, device=device)
        self.cost = flops.decoder_cost(self.model)
        self.packs = False
        self.compiled = False
        self._prefixes: dict[Role, PrefixState | None] = dict.fromkeys(self.frames)
        self._choose_path(compiles=compiles)

    def frame_tokens(self, role: Role) -> int:
        """Tokens around a body."""
        return self.frames[role].num_tokens

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        return (packed_batches if self.packs else padded_batches)(lengths, max_tokens=self.batch_tokens)

    def _is_out_of_memory(self, error: Exception) -> bool:
        return is_out_of_memory(error)

    @torch.inference_mode()
    def _forward(self, bodies: Sequence[TokenIds], role: Role) -> tuple[Vectors, int, int]:
        frame = self.frames[role]
        states, slots = self._packed(bodies, frame, self._prefixes[role]) if self.packs else self._plain(bodies, frame)
        prefix = self._prefixes[role]
        shared = prefix.num_tokens if prefix else 0
        lengths = [len(b) + frame.num_tokens for b in bodies]
        vectors: Vectors = self.head(states, role).cpu().numpy()
        return vectors, slots, self.cost.useful(lengths, shared=shared)

    def _plain(self, bodies: Sequence[TokenIds], frame: Frame) -> tuple[Tensor, int]:
        """States at `<emb_token>`, [texts, hidden]: padded on the right, where a causal state never looks."""
        rows = [[*frame.prefix, *map(int, body), *frame.suffix] for body in bodies]
        longest = max(map(len, rows))
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        hidden = self._run(input_ids=ids.to(self.device))
        return hidden[torch.arange(len(rows), device=self.device), last], len(rows) * longest

    def _packed(self, bodies: Sequence[TokenIds], frame: Frame, prefix: PrefixState | None) -> tuple[Tensor, int]:
        """The same, sequences end to end; with `prefix`, its tokens are left out of the row."""
        shared = prefix.num_tokens if prefix else 0
        lead, tail = np.asarray(frame.prefix[shared:], dtype=np.int64), np.asarray(frame.suffix, dtype=np.int64)
        pieces = [np.concatenate([lead, body, tail]) for body in bodies]
        lengths = [len(piece) for piece in pieces]
        positions = np.concatenate([np.arange(shared, shared + n) for n in lengths])
        layout = lay_out(lengths, prefix=prefix, device=self.device)
        last = torch.from_numpy(np.cumsum(lengths) - 1).to(self.device)
        with packing(layout), wanted_rows(last):
            hidden = self._run(
                input_ids=torch.from_numpy(np.concatenate(pieces)).to(self.device)[None],
                position_ids=torch.from_numpy(positions).to(self.device)[None],
            )[0]
        return hidden if len(hidden) == len(last) and self._trims else hidden[last], sum(lengths)

    def _run(self, **inputs: Tensor) -> Tensor:
        hidden: Tensor = self.model(**inputs, use_cache=False).last_hidden_state
        return hidden

    # -- choosing the fastest path that is right ------------------------------------------------

    _trims = False

    @torch.inference_mode()
    def _choose_path(self, *, compiles: bool) -> None:
        frame = self.frames["document"]
        generator = np.random.default_rng(0)
        vocabulary = min(self.model.get_input_embeddings().weight.shape[0], 1_000)  # type: ignore[operator]
        probe = [generator.integers(vocabulary // 10, vocabulary, size=n).astype(np.int32) for n in _PROBE]
        usual = self.model.config._attn_implementation  # type: ignore[union-attr]
        expected, _ = self._plain(probe, frame)
        if not torch.isfinite(expected).all():
            raise ModelError(
                "the model gives states that are not finite; its weights are damaged or the arithmetic overflows"
            )
        if not self._try("packing without padding", self._use_packing, probe, expected):
            self._set_attention(usual)  # type: ignore[arg-type]
            self.packs = False
            return
        if wrap_last_layer(self.model):
            self._trims = True
            if not self._try("the trimmed last layer", lambda: None, probe, expected):
                self._unwrap()
        if not self._try("the cached prefix", self._use_prefixes, probe, expected):
            self._prefixes = dict.fromkeys(self.frames)
        layers = getattr(self.model, "layers", None)
        if compiles and isinstance(layers, nn.ModuleList):
            self.compiled = self._try("compilation", partial(compiled.compile_layers, layers), probe, expected)
            if not self.compiled:
                compiled.restore_layers(layers)
        if self.device.type == "cpu" and layers is not None and cpu_kernels.is_available():
            switch = partial(cpu_kernels.replace_linear, layers, num_rows=self.batch_tokens)
            if self._try("oneDNN with reordered weights", switch, probe, expected):
                cpu_kernels.release(layers)
            else:
                cpu_kernels.restore_linear(layers)

    def _try(self, what: str, switch: Any, probe: Sequence[TokenIds], expected: Tensor) -> bool:
        """Whether, after `switch()`, the packed path agrees with the plain one."""
        try:
            switch()
            got, _ = self._packed(probe, self.frames["document"], self._prefixes["document"])
        except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, ImportError) as error:
            _log.warning("%s is not used: %s", what, str(error).splitlines()[0] if str(error) else type(error).__name__)
            return False
        off = 1 - torch.nn.functional.cosine_similarity(got.float(), expected.float()).min().item()
        if off > _TOLERANCE[expected.dtype]:
            _log.warning("%s is not used: its vectors are off by %.1e", what, off)
            return False
        return True

    def _use_packing(self) -> None:
        self._set_attention(ATTENTION)
        self.packs = True
        depth = self.model.config.num_hidden_layers  # type: ignore[union-attr]
        reached = len(self._compute_prefix(Frame((0, 0), ())).layers)
        if reached != depth:  # recurrent layers, or attention that transformers does not let us replace
            raise ValueError(f"it reaches the attention of {reached} of the model's {depth} layers")

    def _use_prefixes(self) -> None:
        for role, frame in self.frames.items():
            self._prefixes[role] = self._compute_prefix(frame) if len(frame.prefix) >= MIN_PREFIX_TOKENS else None

    def _set_attention(self, name: str) -> None:
        self.model.set_attn_implementation(name)  # type: ignore[operator]

    def _unwrap(self) -> None:
        layers: nn.ModuleList = self.model.layers  # type: ignore[assignment]
        layers[-1] = layers[-1].layer  # type: ignore[assignment]
        self._trims = False

    def _compute_prefix(self, frame: Frame) -> PrefixState:
        """Keys and values of the frame's prefix in every layer."""
        state = PrefixState(len(frame.prefix))
        layout = lay_out([len(frame.prefix)], prefix=None, device=self.device)
        with packing(Packing(layout.lengths, record=state, bounds=layout.bounds, key_bounds=layout.key_bounds)):
            positions = torch.arange(len(frame.prefix), device=self.device)[None]
            self._run(input_ids=torch.tensor([frame.prefix], device=self.device), position_ids=positions)
        return state
