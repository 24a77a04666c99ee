import pytest

from tests.evaluation.browser import BrowserMissing, start_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One page of a real browser; the tests of a module share it."""
    try:
        with start_browser(tmp_path_factory.mktemp("browser")) as page:
            yield page
    except BrowserMissing as missing:
        pytest.skip(str(missing))
