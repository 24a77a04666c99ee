"""What is said and stored of a URI holds nothing that opens it."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.storage import redact

# Whatever a person types between "://" and the host, encoded or not; white space ends a URI in a sentence.
typed = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters='/"'), max_size=12)
secrets = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=4, max_size=20).map(
    lambda s: quote(s, safe="")
)


@given(typed, typed)
@example("user", "p@ss")
@example("user", "@@")
@example("me", "token=hunter2")
@example("me", "p#a?s:s")
def test_nothing_is_left_of_a_user_and_a_password(user: str, password: str) -> None:
    uri = f"ftp://{user}:{password}@host/folder/c.jsonl"
    assert redact(uri) == "ftp://***@host/folder/c.jsonl"
    assert redact(f"cannot read {uri}; see https://host/a") == (
        "cannot read ftp://***@host/folder/c.jsonl; see https://host/a"
    )


@given(typed, typed)
def test_settings_stay_json_without_their_passwords(user: str, password: str) -> None:
    settings = {"db": "https://host", "uris": [f"ftp://{user}:{password}@host/c", "a@b"], "keep_versions": 3}
    # a password with a quote is cut where the string seems to end, which is the one thing that is not promised
    if '"' not in password + user and "\\" not in password + user:
        text = redact(json.dumps(settings, ensure_ascii=False))
        assert json.loads(text) == settings | {"uris": ["ftp://***@host/c", "a@b"]}


@given(
    st.sampled_from(
        [
            "sig", "X-Amz-Signature", "X-Amz-Security-Token", "X-Amz-Credential", "AccountKey", "account_key",
            "aws_secret_access_key", "AWS_ACCESS_KEY_ID", "password", "SharedAccessSignature", "X-Goog-Signature",
        ]
    ),
    secrets,
)  # fmt: skip
def test_nothing_is_left_of_a_value_that_is_named_a_secret(name: str, value: str) -> None:
    name = name.removesuffix("_ID")
    for text in (
        f"https://host/c.jsonl?sv=2024&{name}={value}&x=1", f"DefaultEndpointsProtocol=https;{name}={value}",
        f"{name}: {value}", json.dumps({name: value}),
    ):  # fmt: skip
        assert value not in redact(text).replace(name, "")


@given(st.text(max_size=60))
def test_what_is_redacted_stays_as_it_is(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/folder/a@b.jsonl", "http://host:9000/a@b", "hf://ORG/NAME@abcdef", "https://host/?design=1&config=2",
        '{"chunk_tokens":512,"overlap_tokens":64,"batch_tokens":null}', "a folder/of me@home", "",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_password_with_a_slash_makes_no_uri_and_is_not_said() -> None:
    assert (
        redact("nothing at ftp://user:pa/ss@host/c@d.jsonl; expected")
        == "nothing at ftp://***@host/c@d.jsonl; expected"
    )
