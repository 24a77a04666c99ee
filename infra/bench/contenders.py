"""The peers that `encode` measures, each as its own documentation would have it, on the same model and texts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.model.loading import load_backbone
from pipeline.prompts import EMB_START


def _saved_with_emb_token(workload: Any, scratch: Path, device: str) -> Path:
    """The model with `<emb_token>` in its tokenizer and embedding, as transformers saves it."""
    import torch
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    folder = scratch / "saved"
    if not folder.exists():
        checkpoint = workload.bundle.checkpoint
        dtype = str(workload.bundle.settings.compute_dtype)
        model = load_backbone(
            checkpoint, device=torch.device("cpu"), dtype=dtype, emb_start=EMB_START, allow_remote_code=False
        )
        model.save_pretrained(folder)  # type: ignore[operator]
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
        tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<emb_token>", special=True)]})
        tokenizer.chat_template = None  # the texts are spelled out; sentence-transformers would wrap them once more
        tokenizer.save_pretrained(folder)
    return folder


def _spelled(workload: Any) -> list[str]:
    prompt = workload.bundle.prompts["document"]
    return [prompt.spell(text) for text in workload.texts]


def sentence_transformers(workload: Any, *, device: str, scratch: Path) -> Any:
    """`SentenceTransformer.encode` with its defaults: 32 texts a batch, longest first, last-token pooling."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    folder = _saved_with_emb_token(workload, scratch, device)
    dtype = getattr(torch, str(workload.bundle.settings.compute_dtype))
    transformer = Transformer(str(folder), model_kwargs={"dtype": dtype}, max_seq_length=2048)
    size = transformer.get_embedding_dimension()
    model = SentenceTransformer(modules=[transformer, Pooling(size, "lasttoken"), Normalize()], device=device)
    model.max_seq_length = 2048  # else the tokenizer's own limit may cut `<emb_token>` off the longest texts
    texts = _spelled(workload)
    model.encode(texts[:32])

    def run() -> Any:
        begin = time.perf_counter()
        vectors = model.encode(texts)
        return np.asarray(vectors, np.float32), time.perf_counter() - begin, {}

    return run


class TutorialEmbedder:
    """The class that Ray Data's batch-inference guides show: a tokenizer with padding, a model, one state a text."""

    def __init__(self, folder: str, device: str, dtype: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
        self.device = device
        self.ready_at = time.time()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Adds a vector to every text of a batch."""
        import torch

        inputs = self.tokenizer(
            list(batch["text"]), padding=True, truncation=True, max_length=2048, return_tensors="pt"
        )
        inputs = inputs.to(self.device)
        with torch.no_grad():
            hidden = self.model(**inputs).last_hidden_state
        last = inputs["attention_mask"].sum(1) - 1
        states = hidden[torch.arange(len(last), device=hidden.device), last].float()
        batch["vector"] = torch.nn.functional.normalize(states, dim=-1).cpu().numpy()
        batch["ready_at"] = np.full(len(last), self.ready_at)
        return batch


def plain_ray_data(workload: Any, *, device: str, scratch: Path) -> Any:
    """`read_json`, `map_batches` with an actor and 32 texts a batch in file order; start-up is not counted."""
    import ray

    folder = _saved_with_emb_token(workload, scratch, device)
    path = scratch / "spelled.jsonl"
    path.write_text("".join(json.dumps({"n": n, "text": text}) + "\n" for n, text in enumerate(_spelled(workload))))

    def run() -> Any:
        import os

        # Ray gives an actor as many threads as CPUs; a script that wants the machine's asks for them
        os.environ["OMP_NUM_THREADS"] = str(os.cpu_count())
        ray.init(logging_level="error", include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        arguments = (str(folder), device, str(workload.bundle.settings.compute_dtype))
        rows = (
            ray.data.read_json(str(path))
            .map_batches(
                TutorialEmbedder,
                fn_constructor_args=arguments,
                batch_size=32,
                compute=ray.data.ActorPoolStrategy(size=1),
                num_gpus=1 if device == "cuda" else None,
            )
            .take_all()
        )
        done = time.time()
        ray.shutdown()
        rows.sort(key=lambda row: row["n"])
        return np.stack([row["vector"] for row in rows]), done - rows[0]["ready_at"], {}

    return run


def our_pipeline(workload: Any, *, device: str, scratch: Path) -> Any:
    """`t1 index` from a JSONL file to a published table; start-up is not counted, the rest is."""
    from pipeline.flows.index import index
    from pipeline.settings import CorpusSettings, IndexSettings, PoolSettings

    path = scratch / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(workload.texts)))
    settings = IndexSettings(
        db=str(scratch / "db"),
        corpus=CorpusSettings(uris=(str(path),)),
        encoder=workload.bundle.settings,
        pool=PoolSettings(device="cuda" if device == "cuda" else "cpu", compile_layers=True),
    )

    def run() -> Any:
        report = index(settings, quiet=True)
        assert report.documents_encoded == len(workload.texts)
        seconds = report.stream_seconds - report.startup_seconds
        facts = {"slots": report.num_slots, "flops": report.flops, "startup_s": report.startup_seconds}
        return _stored_vectors(settings.db, len(workload.texts)), seconds, facts

    return run


def _stored_vectors(db: str, count: int) -> Any:
    from pipeline.store.database import Database

    table = Database.at(db).open("documents").to_table(columns=["id", "vector"])
    vectors = np.stack(table.column("vector").to_pylist()).astype(np.float32)
    ordered = np.empty_like(vectors)
    ordered[[int(i) for i in table.column("id").to_pylist()]] = vectors
    assert len(ordered) == count
    return ordered
