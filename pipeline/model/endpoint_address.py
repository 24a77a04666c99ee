"""What may be said of an endpoint: a base URL without secrets, and a key that is in the environment only.

Knows nothing of HTTP. Called by `reasoning`, before settings are stored anywhere, and by `endpoint`.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from pipeline.errors import SettingsError

# The first is for whoever has a key of OpenAI's in the environment and another one for this endpoint.
KEY_NAMES = ("T1_REASONER_API_KEY", "OPENAI_API_KEY")


def checked_base(url: str) -> str:
    """The base URL without a slash at its end.

    Raises:
        SettingsError: not http(s), or with a part that may hold a secret: settings are stored with each run. The
            message never repeats what was given.
    """
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise SettingsError("--endpoint is not a URL; write one such as http://host:8000/v1") from error
    if "@" in parts.netloc:
        raise SettingsError(
            f"--endpoint holds a user or password before {host}; leave it out and put the key into {KEY_NAMES[0]}"
        )
    if parts.query or parts.fragment:
        raise SettingsError(f"--endpoint on {host} has a query or fragment; write the base URL alone, up to /v1")
    if parts.scheme not in ("http", "https") or not host:
        raise SettingsError("--endpoint is not an http:// or https:// URL; write one such as http://host:8000/v1")
    return url.strip().rstrip("/")


def read_key() -> str:
    """The key of the first of `KEY_NAMES` that is set; "" for none.

    Raises:
        SettingsError: it cannot be a header's value, for which a client would quote it.
    """
    for name in KEY_NAMES:
        key = os.environ.get(name, "").strip()
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise SettingsError(f"{name} holds a character that no key has, such as a line break; set it anew")
        if key:
            return key
    return ""
