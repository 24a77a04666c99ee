"""What can be wrong with a model is said in one sentence before any weights load; remote models are fetched once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, RobertaConfig

from pipeline.errors import ModelError, SettingsError, UserError
from pipeline.model.bundle import open_bundle
from pipeline.model.checkpoint import resolve
from pipeline.settings import ModelSettings
from tests.model.models import copy_model, load_decoder, open_small, random_bodies


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: bool((folder / name).write_text(text)) and None


def configure(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))

    return change


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "t1_head.safetensors").write_text("not the model's own weights")


def pool(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        configure(model_type="bert")(folder)
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shutil.rmtree, "no model folder at"),
        (remove("config.json"), "has no config.json"),
        (remove("tokenizer.json"), "has no tokenizer.json"),
        (remove("model.safetensors"), "has no weight file, but only safetensors"),
        (only_pickles, "has pytorch_model.bin, but only safetensors"),
        (write("config.json", "{"), "config.json of .* is not valid JSON"),
        (write("config.json", "[]"), "config.json of .* holds a list"),
        (write("sentence_bert_config.json", "{"), "sentence_bert_config.json of .* is not valid JSON"),
        (configure(auto_map={"AutoModel": "own.Model"}), "pass --allow-remote-code if you trust it"),
        (configure(is_encoder_decoder=True, model_type="t5"), "is an encoder-decoder model"),
        (configure(hidden_size=None), "names no hidden_size"),
        (pool(pooling_mode_cls_token=True, pooling_mode_mean_tokens=False), "pools otherwise than by the mean"),
        (pool(pooling_mode="cls"), "pools otherwise than by the mean"),
        (pool(pooling_mode=["cls", "mean"]), "pools otherwise than by the mean"),
    ],
)
def test_what_is_wrong_with_a_folder(tiny: Path, tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError, match=said) as caught:
        open_small(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": True}, {"pooling_mode": ["mean"]}]
)
def test_the_mean_by_any_name(tiny: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    pool(**settings)(folder)
    assert open_small(folder).checkpoint.kind == "encoder"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "hashing://abc"}, "write hashing://DIM with DIM from 8 to 8192"),
        ({"model": "hashing://²"}, "write hashing://DIM"),
        ({"model": "hashing://4"}, "write hashing://DIM"),
        ({"model": "hashing://"}, "write hashing://DIM"),
        ({"model": "hashing://64", "adapter": "somewhere"}, "no weights to adapt"),
        ({"model": "default", "revision": "main"}, "default is not an hf:// model"),
        ({"model": "hashing://64", "revision": "main"}, "is not an hf:// model"),
        ({"model": "hf://org/name"}, "cannot fetch org/name at main from the hub: .*offline"),
        ({"model": f"hf://org/name@{'0' * 40}"}, "cannot fetch org/name at 0000"),
        ({"model": "org/name"}, "hf://ORG/NAME"),
        ({"model": "hashing://64", "dim": 128}, "--dim 128 is more than the model's 64 components"),
    ],
)
def test_what_is_wrong_with_a_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_bundle(ModelSettings(**settings), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    library_error: Any = HfHubHTTPError.__mro__[1]  # the HTTP library's own, which is no OSError
    assert not issubclass(library_error, OSError)

    def unreachable(*args: Any, **options: Any) -> None:
        raise library_error("[Errno 111] Connection refused")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(ModelError, match=r"cannot fetch org/name at main from the hub: .*Connection refused; check"):
        open_small("hf://org/name")


def test_what_is_wrong_with_the_settings(tiny: Path) -> None:
    with pytest.raises(ModelError, match="is not an hf:// model; leave it out"):
        open_small(tiny, revision="main")
    with pytest.raises(SettingsError, match="--dim 256 is more than the model's 128"):
        open_small(tiny, dim=256)
    with pytest.raises(SettingsError, match=r"the instruction leaves .* of 4096 tokens"):
        open_small(tiny, document_instruction="w1 " * 4_090)


def test_remote_code_is_allowed_only_by_name(tiny: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    configure(auto_map={"AutoModel": "own.Model"})(folder)
    assert open_small(folder, allow_remote_code=True).checkpoint.kind == "decoder"


def damage(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000])


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damage, "transformers cannot load"),
        (configure(hidden_size=64), "transformers cannot load"),
        (configure(model_type="unheard_of"), "transformers cannot load"),
        (drop_a_tensor, r"lack 1 of the model's tensors, such as .*layers\.2\.mlp\.up_proj"),
    ],
    ids=["cut off", "another shape", "another type", "a tensor is missing"],
)
def test_weights_that_do_not_load(tiny: Path, tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError, match=said) as caught:
        load_decoder(folder)
    assert "\n" not in str(caught.value)


def test_sharded_weights(tiny: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(tiny).save_pretrained(folder, max_shard_size="4MB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    bodies = random_bodies([9, 40], below=20_000)
    got, expected = (load_decoder(model).encode(bodies, role="document").vectors for model in (folder, tiny))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    shards[-1].unlink()
    with pytest.raises(ModelError, match="transformers cannot load"):
        load_decoder(folder)


def test_roberta_numbers_positions_behind_its_padding(tiny: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny, tmp_path / "model")
    (folder / "config.json").write_text(
        RobertaConfig(vocab_size=20_100, hidden_size=32, max_position_embeddings=514, pad_token_id=1).to_json_string()
    )
    assert open_small(folder).checkpoint.max_positions == 512
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128}')
    assert open_small(folder).checkpoint.max_positions == 128


@pytest.fixture
def remote(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """A model in an object store, an empty cache, and the files that are fetched."""
    monkeypatch.setenv("T1_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    fs = fsspec.filesystem("memory")
    fs.put(str(tiny), "/bucket/model", recursive=True)
    fs.pipe("/bucket/model/pytorch_model.bin", b"never fetched")
    fetched: list[str] = []
    get_file = MemoryFileSystem.get_file

    def counted(self: Any, path: str, local: str, **options: Any) -> None:
        fetched.append(Path(path).name)
        get_file(self, path, local, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", counted)
    return "memory://bucket/model", fetched


def test_a_remote_model_is_fetched_once(tiny: Path, remote: tuple[str, list[str]]) -> None:
    uri, fetched = remote
    first = open_small(uri)
    files = {path.name for path in tiny.iterdir()}
    assert set(fetched) == files
    assert len(fetched) == len(files)
    again = open_small(uri)
    assert len(fetched) == len(files)
    assert again.checkpoint.folder == first.checkpoint.folder
    assert first.checkpoint.source == uri
    assert first.identity == open_small(tiny).identity


def test_a_remote_model_that_changed_is_fetched_again(remote: tuple[str, list[str]]) -> None:
    uri, fetched = remote
    first = open_small(uri).identity
    num_files = len(fetched)
    fs = fsspec.filesystem("memory")
    weights = bytearray(fs.cat("/bucket/model/model.safetensors"))
    weights[-1] ^= 1
    fs.pipe("/bucket/model/model.safetensors", bytes(weights))  # of the same size
    second = open_small(uri).identity
    assert len(fetched) == 2 * num_files
    assert second.weights != first.weights
    assert second.tokenizer == first.tokenizer


def test_a_fetch_that_was_cut_off_leaves_nothing_half(
    remote: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, fetched = remote
    get_file = MemoryFileSystem.get_file

    def cut_off(self: Any, path: str, local: str, **options: Any) -> None:
        if path.endswith("tokenizer.json"):
            raise ConnectionResetError("connection reset by peer")
        get_file(self, path, local, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", cut_off)
        with pytest.raises(ModelError, match=r"cannot fetch .*memory://bucket/model.*reset by peer"):
            open_small(uri)
    fetched.clear()
    assert open_small(uri).checkpoint.kind == "decoder"
    assert "tokenizer.json" in fetched


def test_an_empty_place_in_a_store(remote: tuple[str, list[str]]) -> None:
    uri, _ = remote
    with pytest.raises(ModelError, match="no model files at memory://bucket/absent"):
        open_small(uri.replace("model", "absent"))


def test_a_file_uri_is_a_folder(tiny: Path) -> None:
    checkpoint = resolve(f"file://{tiny}", revision=None, adapter=None, allow_remote_code=False)
    assert checkpoint.folder == str(tiny)
