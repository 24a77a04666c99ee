import os

import pytest

from tests.evaluation.browser import BrowserMissing, start_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One page of a real browser; the tests of a module share it."""
    try:
        with start_browser(tmp_path_factory.mktemp("browser")) as page:
            yield page
    except BrowserMissing as missing:
        do_without(str(missing))


def do_without(why):
    """Skips where somebody has no browser; fails where a change is judged, or nothing would look at the report."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{why}; CI=true asks for one")
    pytest.skip(why)
