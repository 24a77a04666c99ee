"""Where a model's files are: turns what the user named into a local folder, fetched once into a cache.

Free of torch. Called by `bundle`; knows nothing of prompts or vectors.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ModelError
from pipeline.model import builtin
from pipeline.model.cache import cache_folder, exclusive
from pipeline.storage import is_local, local_path, open_filesystem, redact

Kind = Literal["decoder", "encoder", "hashing"]

# What is fetched of a remote model: weights as safetensors, configuration and tokenizer; never pickles.
_WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "vocab.txt",
    "merges.txt",
)
_WANTED_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")
# Encoder-only families by model_type; they pool over all tokens instead of reading one state.
_ENCODER_TYPES = {
    "bert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "distilbert",
    "modernbert",
    "electra",
    "nomic_bert",
    "camembert",
}
HASHING_SCHEME = "hashing://"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's files on this machine.

    Attributes:
        source: The model as the user named it, with an hf:// revision resolved to a commit.
        kind: "decoder" (reads the state at `<emb_token>`), "encoder" (mean over tokens) or "hashing".
        folder: Local folder of the files; for "hashing", of the tokenizer it borrows.
        adapter: Local folder of a peft adapter, or None.
        config: The parsed config.json.
    """

    source: str
    kind: Kind
    folder: str
    adapter: str | None
    config: dict[str, Any]

    @property
    def hidden_size(self) -> int:
        """Length of a hidden state (of the vector, for "hashing")."""
        return int(self.config["hidden_size"])

    @property
    def max_positions(self) -> int:
        """Tokens one sequence may hold."""
        limit = self.config.get("max_seq_length") or self.config.get("max_position_embeddings") or 1 << 30
        return int(limit)


def resolve(model: str, *, revision: str | None, adapter: str | None, allow_remote_code: bool) -> Checkpoint:
    """The files of a model, fetched or converted into the cache when they are not on this machine yet.

    Args:
        model: "default", "minilm", "hashing://DIM", a folder, an object-store URI, or "hf://ORG/NAME[@REVISION]".
        revision: For hf:// only.
        adapter: A peft adapter's folder or URI; None takes one that lies beside the weights, if any.
        allow_remote_code: Without it, a model that brings its own code is refused.

    Raises:
        ModelError: absent, not safetensors, of an unsupported kind, or in need of remote code.
    """
    if model.startswith(HASHING_SCHEME):
        return _hashing(model)
    source, folder = _locate(model, revision)
    config = _read_config(folder, source)
    _check_safe(folder, config, source, allow_remote_code=allow_remote_code)
    adapter_folder = (
        _locate(adapter, None)[1] if adapter else (folder if (folder / "adapter_config.json").is_file() else None)
    )
    kind = _kind(config, folder, source)
    return Checkpoint(source, kind, str(folder), str(adapter_folder) if adapter_folder else None, config)


def _hashing(model: str) -> Checkpoint:
    dim = model.removeprefix(HASHING_SCHEME)
    if not dim.isdigit() or not 8 <= int(dim) <= 8192:
        raise ModelError(
            f"{model} is not a hashing encoder; write hashing://DIM with DIM from 8 to 8192, such as hashing://256"
        )
    return Checkpoint(model, "hashing", str(builtin.default_model()), None, {"hidden_size": int(dim)})


def _locate(model: str, revision: str | None) -> tuple[str, Path]:
    if model == "default":
        return builtin.DEFAULT_SOURCE, builtin.default_model()
    if model == "minilm":
        return builtin.MINILM_SOURCE, builtin.minilm()
    if model.startswith("hf://"):
        return _from_hub(model, revision)
    if revision is not None:
        raise ModelError(f"--revision {revision} was given, but {model} is not an hf:// model; leave it out")
    if is_local(model):
        folder = Path(local_path(model))
        if not folder.is_dir():
            raise ModelError(
                f"no model folder at {folder}; --model takes default, minilm, a folder, an object-store URI or "
                "hf://ORG/NAME"
            )
        return str(folder), folder
    return model, _from_store(model)


def _from_hub(model: str, revision: str | None) -> tuple[str, Path]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, inline = model.removeprefix("hf://").partition("@")
    wanted = revision or inline or "main"
    try:
        commit = wanted if _is_commit(wanted) else HfApi().model_info(repo, revision=wanted).sha
        folder = snapshot_download(
            repo, revision=commit, allow_patterns=[*_WANTED, "*.py"], cache_dir=cache_folder() / "hub"
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot fetch {repo} at {wanted} from the hub: {redact(str(error).splitlines()[0])}; check the name, "
            "the network and HF_TOKEN, or give --model a folder"
        ) from error
    return f"hf://{repo}@{commit}", Path(folder)


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and all(c in "0123456789abcdef" for c in revision)


def _from_store(uri: str) -> Path:
    fs, root = open_filesystem(uri)
    try:
        listing = sorted((p, d) for p, d in fs.find(root, detail=True).items() if p.endswith(_WANTED_SUFFIXES))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot list the model at {redact(uri)}: {redact(str(error))}") from error
    if not listing:
        raise ModelError(f"no model files at {redact(uri)}; expected config.json, tokenizer.json and *.safetensors")
    stamp = json.dumps(
        [[p, d.get("size"), str(d.get("ETag") or d.get("LastModified") or d.get("mtime"))] for p, d in listing]
    )
    target = cache_folder() / "store" / hashlib.sha256((uri + stamp).encode()).hexdigest()[:24]
    with exclusive(target):
        if not target.is_dir():
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            for path, _ in listing:
                local = partial / os.path.relpath(path, root)
                local.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(path, str(local))
            partial.rename(target)
    return target


def _read_config(folder: Path, source: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{source} has no config.json; expected a transformers model folder") from error
    except ValueError as error:
        raise ModelError(f"config.json of {source} is not valid JSON: {error}") from error
    sequence_file = folder / "sentence_bert_config.json"
    if sequence_file.is_file():
        config["max_seq_length"] = json.loads(sequence_file.read_text(encoding="utf-8")).get("max_seq_length")
    return config


def _check_safe(folder: Path, config: dict[str, Any], source: str, *, allow_remote_code: bool) -> None:
    if not any(folder.glob("*.safetensors")):
        found = ", ".join(sorted(p.name for p in folder.glob("*.bin"))) or "no weight file"
        raise ModelError(
            f"{source} has {found}, but only safetensors are loaded (a pickle can run code); convert it with "
            "save_pretrained"
        )
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{source} has no tokenizer.json; save it once with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    if config.get("auto_map") and not allow_remote_code:
        raise ModelError(
            f"{source} brings Python code of its own, which is not run; pass --allow-remote-code if you trust it"
        )


def _kind(config: dict[str, Any], folder: Path, source: str) -> Kind:
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"{source} is an encoder-decoder model; expected a decoder (causal) model or an encoder with mean pooling"
        )
    if config.get("model_type") in _ENCODER_TYPES:
        pooling = folder / "1_Pooling" / "config.json"
        if pooling.is_file() and not json.loads(pooling.read_text(encoding="utf-8")).get("pooling_mode_mean_tokens"):
            raise ModelError(
                f"{source} pools otherwise than by the mean, which is the only pooling for encoder-only models here"
            )
        return "encoder"
    if "hidden_size" not in config:
        raise ModelError(
            f"{source} is a {config.get('model_type', 'model without a type')} whose config names no hidden_size; "
            "expected a decoder of transformers"
        )
    return "decoder"
