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
from pipeline.model.identity import weight_files
from pipeline.storage import is_local, local_path, open_filesystem, redact

Kind = Literal["decoder", "encoder", "hashing"]

# What is fetched of a remote model: weights as safetensors, configuration and tokenizer; never pickles.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt")
_WANTED_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")
# Encoder-only families by model_type; they pool over all tokens instead of reading one state.
_ENCODER_TYPES = {
    "bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "modernbert", "electra", "nomic_bert", "camembert",
}  # fmt: skip
# Of these, positions begin behind the padding token's number: two fewer tokens fit than there are positions.
_OFFSET_TYPES = {"roberta", "xlm-roberta", "camembert"}
# What fsspec's file systems call that which changes when a file does.
_VERSIONS = ("ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "created")
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
        positions = int(self.config.get("max_position_embeddings") or 1 << 30)
        if self.config.get("model_type") in _OFFSET_TYPES:
            positions -= int(self.config.get("pad_token_id") or 0) + 1
        return min(positions, int(self.config.get("max_seq_length") or positions))


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
    if revision is not None and not model.startswith("hf://"):
        raise ModelError(f"--revision {revision} was given, but {model} is not an hf:// model; leave it out")
    if model.startswith(HASHING_SCHEME):
        return _hashing(model, adapter)
    source, folder = _locate(model, revision)
    config = _read_config(folder, source)
    _check_safe(folder, config, source, allow_remote_code=allow_remote_code)
    kind = _kind(config, folder, source)
    return Checkpoint(source, kind, str(folder), _adapter(adapter, beside=folder), config)


def _adapter(adapter: str | None, *, beside: Path) -> str | None:
    if adapter is None:
        return str(beside) if (beside / "adapter_config.json").is_file() else None
    folder = Path(local_path(adapter)) if is_local(adapter) else _locate(adapter, None)[1]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"--adapter {adapter} has no {name}; expected a folder that peft's save_pretrained wrote")
    return str(folder)


def _hashing(model: str, adapter: str | None) -> Checkpoint:
    if adapter is not None:
        raise ModelError(f"--adapter {adapter} was given, but {model} has no weights to adapt; leave it out")
    dim = model.removeprefix(HASHING_SCHEME)
    if not dim.isdecimal() or not 8 <= int(dim) <= 8192:
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

    repo, _, inline = model.removeprefix("hf://").partition("@")
    wanted = revision or inline or "main"
    try:
        commit = wanted if _is_commit(wanted) else HfApi().model_info(repo, revision=wanted).sha
        folder = snapshot_download(
            repo, revision=commit, allow_patterns=[*_WANTED, "*.py"], cache_dir=cache_folder() / "hub"
        )
    except Exception as error:  # which HTTP library's errors pass through depends on the hub's release
        found = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(
            f"cannot fetch {repo} at {wanted} from the hub: {redact(found)}; check the name, "
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
    stamp = json.dumps([[p, d.get("size"), [str(d[key]) for key in _VERSIONS if d.get(key)]] for p, d in listing])
    target = cache_folder() / "store" / hashlib.sha256((uri + stamp).encode()).hexdigest()[:24]
    with exclusive(target):
        if not target.is_dir():
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                for path, _ in listing:
                    local = partial / os.path.relpath(path, root)
                    local.parent.mkdir(parents=True, exist_ok=True)
                    fs.get_file(path, str(local))
            except (OSError, ValueError) as error:
                raise ModelError(f"cannot fetch the model at {redact(uri)}: {redact(str(error))}") from error
            partial.rename(target)
    return target


def _read_config(folder: Path, source: str) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{source} has no config.json; expected a transformers model folder")
    config = _read_json(folder / "config.json", source)
    sequence_file = folder / "sentence_bert_config.json"
    if sequence_file.is_file():
        config["max_seq_length"] = _read_json(sequence_file, source).get("max_seq_length")
    return config


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path.name} of {source} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path.name} of {source} holds a {type(content).__name__}; expected a JSON object")
    return content


def _check_safe(folder: Path, config: dict[str, Any], source: str, *, allow_remote_code: bool) -> None:
    if not weight_files(folder):
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
        if pooling.is_file() and not _is_mean(_read_json(pooling, source)):
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


def _is_mean(pooling: dict[str, Any]) -> bool:
    """Whether sentence-transformers' settings ask for the mean; they had one flag a mode before they named it."""
    mode = pooling.get("pooling_mode", "mean" if pooling.get("pooling_mode_mean_tokens") else None)
    return mode in ("mean", ["mean"])
