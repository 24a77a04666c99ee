"""URIs, file systems and object-store credentials: the one place that turns a URI into something that opens.

Credentials come from the environment or the machine's role and are never stored, logged or passed through Ray.
Knows fsspec; knows nothing of what is in the files. Called by corpus, model, store and flows.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from pipeline.errors import StorageError

_SECRET = re.compile(
    # "sig" and "AccountKey" are Azure's; "sig" only as a whole word, for it ends and begins others
    r"(?i)(secret|token|password|credential|(?:access|account)_?key|signature|(?<![a-z0-9])sig)"
    r"([\"']?\s*[=:]\s*[\"']?)[^\s&\"',]+"
)
# Up to the last @ before a slash, for a password may hold one. A password with a slash makes no URI that opens, but the
# sentence that says so has it; what looks like a port is none. A quote that ends a JSON string ends the URI.
_INSIDE = r"[^\s\"/]|\"(?![,:\]}])"
_USERINFO = re.compile(rf"://(?:(?:{_INSIDE})*@|[^\s\"/:@]*:(?!\d+[/?#])(?:{_INSIDE}|/)*?@)")

# A store that says nothing is given up after these, an attempt at a time; `retry` then decides about the whole.
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20  # s3fs: without a byte
REQUEST_TIMEOUT_S = 30  # Lance: for a whole request, which moves a few megabytes
# Lance repeats listings six times over, so a silent store costs up to six times this before it is called silent.
_LANCE_RETRY_S = 30
_LANCE_RETRIES = 5


def redact(text: str) -> str:
    """The same text with anything that looks like a credential replaced by `***`."""
    # user and password first: what looks like a name and value may be a part of them
    return _SECRET.sub(r"\1\2***", _USERINFO.sub("://***@", text))


def is_local(uri: str) -> bool:
    """True for a plain path or file:// URI."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """The absolute path behind a plain path or file:// URI."""
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))


def normalise(uri: str) -> str:
    """One spelling a place: absolute local paths, no trailing slash, s3:// for s3a:// (Lance knows no other)."""
    if is_local(uri):
        return local_path(uri)
    return _as_s3(uri).rstrip("/")


def _as_s3(uri: str) -> str:
    return "s3://" + uri.removeprefix("s3a://") if uri.startswith("s3a://") else uri


def join(uri: str, *parts: str) -> str:
    """`uri` with path parts appended."""
    return "/".join([uri.rstrip("/"), *parts])


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system of a URI, and the path within it.

    Raises:
        StorageError: the scheme is unknown or its package is absent.
    """
    try:
        fs, path = url_to_fs(normalise(uri), **_fsspec_options(uri))
    except (ValueError, ImportError) as error:
        raise StorageError(
            f"cannot open {redact(uri)}: {redact(str(error))}; "
            "use a local path or a URI that fsspec knows, such as s3://bucket/folder"
        ) from error
    return fs, str(path)


def replace_file(uri: str, data: bytes) -> None:
    """Writes a whole file, and the folders it lies in; whoever reads it meanwhile finds the old one or the new one.

    Raises:
        StorageError: as `open_filesystem`.
        OSError: it cannot be written.
    """
    fs, path = open_filesystem(uri)
    if not is_local(uri):
        fs.pipe_file(path, data)  # stores show an object when it is complete
        return
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.unfinished")  # others may write it, too
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        unfinished.write_bytes(data)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_file(uri: str) -> None:
    """Removes a file; that it is gone already, by another's hand or an attempt whose answer was lost, is no error.

    Raises:
        StorageError: as `open_filesystem`.
        OSError: it cannot be removed.
    """
    fs, path = open_filesystem(uri)
    with suppress(FileNotFoundError):
        fs.rm_file(path)


def _fsspec_options(uri: str) -> dict[str, Any]:
    if not uri.startswith(("s3://", "s3a://")):
        return {}
    endpoint = _s3_endpoint()
    # use_listings_cache: a run that lists, waits and lists again must see what is there now.
    # total_max_attempts: s3fs makes five attempts round botocore's five, which makes 25 of every one.
    timeouts = {"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S}
    return {
        "use_listings_cache": False,
        "config_kwargs": {**timeouts, "retries": {"total_max_attempts": 1}},
        **({"client_kwargs": {"endpoint_url": endpoint}} if endpoint else {}),
    }


def _s3_endpoint() -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((value for name in names if (value := os.environ.get(name))), "")


def lance_options(uri: str) -> dict[str, str]:
    """Storage options for Lance: only what is not secret; Lance reads credentials from the environment itself."""
    if not uri.startswith(("s3://", "s3a://")):
        return {}
    options = {
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        "timeout": f"{REQUEST_TIMEOUT_S}s",
        "client_max_retries": str(_LANCE_RETRIES),
        "client_retry_timeout": str(_LANCE_RETRY_S),  # Lance takes this one without a unit
    }
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = _s3_endpoint()
    if endpoint:
        options["aws_endpoint"] = endpoint
        options["allow_http"] = str(endpoint.startswith("http://")).lower()
        region = region or "us-east-1"  # what servers that have no regions are signed for
    if region:  # else Lance asks AWS where the bucket is
        options["aws_region"] = region
    return options
