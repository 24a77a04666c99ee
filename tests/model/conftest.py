"""Models that several tests encode with: a small random one, and the two that come from the package index.

Nothing heavy is imported before a fixture runs: a conftest can be read before the environment is sealed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pipeline.model.bundle import ModelBundle
    from pipeline.model.decoder import DecoderEncoder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of four layers: two query heads for each key head, and norms on queries and keys."""
    from infra.bench.random_model import make_random_model

    return Path(make_random_model(tmp_path_factory.mktemp("tiny") / "model", shape="tiny", device="cpu"))


@pytest.fixture(scope="session")
def tiny_encoder(tiny: Path) -> DecoderEncoder:
    from tests.model.models import load_decoder

    return load_decoder(tiny)


@pytest.fixture(scope="session")
def tiny_reference(tiny: Path) -> Any:
    from tests.model.models import open_small, reference_model

    return reference_model(open_small(tiny))


@pytest.fixture(scope="session")
def default_bundle() -> ModelBundle:
    from tests.model.models import open_small

    return open_small("default")


@pytest.fixture(scope="session")
def default_encoder(default_bundle: ModelBundle) -> DecoderEncoder:
    from tests.model.models import load_decoder

    return load_decoder("default")


@pytest.fixture(scope="session")
def default_reference(default_bundle: ModelBundle) -> Any:
    from tests.model.models import reference_model

    return reference_model(default_bundle)
