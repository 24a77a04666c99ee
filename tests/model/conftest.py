"""Models that several tests use: a small random one, the two that come from the package index, one behind an endpoint.

Nothing heavy is imported before a fixture runs: a conftest can be read before the environment is sealed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pipeline.model.bundle import ModelBundle
    from pipeline.model.decoder import DecoderEncoder
    from pipeline.model.endpoint import EndpointReasoner
    from pipeline.retry import Patience
    from tests.model.completion_server import CompletionServer
    from tests.model.endpoints import Open


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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompletionServer]:
    """An endpoint on loopback, and neither a key nor a proxy of the person who runs the tests."""
    from tests.model.completion_server import running_server

    for name in ("T1_REASONER_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as running:
        yield running


@pytest.fixture
def open_endpoint(server: CompletionServer) -> Iterator[Open]:
    """Makes reasoners on `server` that lose no time, and closes them."""
    from pipeline.model.endpoint import EndpointReasoner
    from tests.model.endpoints import QUICK, bundle_of

    opened = []

    def open_one(*, timeout_s: float = 30.0, patience: Patience = QUICK) -> EndpointReasoner:
        opened.append(EndpointReasoner(bundle_of(server.base), patience=patience, timeout_s=timeout_s))
        return opened[-1]

    yield open_one
    for reasoner in opened:
        reasoner.close()
