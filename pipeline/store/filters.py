"""A person's filter to Lance's: columns as they are called, metadata fields as `metadata.NAME`.

`metadata.year >= 2020 and metadata.source = 'web'` becomes calls of Lance's JSON functions, each typed by the literal
it is compared with. Metadata is what people wrote: where a field holds something else than the others hold (a word
among years, a list), that document does not match, and the search goes on. `json_get_float` and its kin would end it.
"""

from __future__ import annotations

import re

_NUMBER = r"[-+]?\s*(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])"
_COMPARISON = r">=|<=|<>|!=|=|<|>"
_WORDS = r"\b(?:not\s+)?(?:in|i?like|between)\b|\bis(?:\s+not)?\b"
_NAME = r"[^\W\d]\w*"
_FIELD = re.compile(
    rf"(?P<lead>(?<![\w.])(?P<first>{_NUMBER}|true\b|false\b)\s*(?:{_COMPARISON})\s*)?"
    rf"(?P<field>(?<![\w.\"])metadata(?P<path>(?:\.(?:{_NAME}|\"[^\"]+\"))+))"
    rf"(?=(?:\s*(?:{_COMPARISON}|{_WORDS})\s*\(?\s*(?P<second>{_NUMBER}|true\b|false\b))?)",
    re.IGNORECASE,
)
_STEP = re.compile(rf"\.(?:({_NAME})|\"([^\"]+)\")")
_STRING = re.compile(r"'(?:[^']|'')*'")


def to_lance(where: str) -> str:
    """The filter as Lance takes it; text inside quotes is left alone."""
    strings = [m.span() for m in _STRING.finditer(where)]

    def replace(match: re.Match[str]) -> str:
        if any(begin < match.start("field") < end for begin, end in strings):
            return match.group(0)
        literal = match.group("first") or match.group("second") or "'"
        return f"{match.group('lead') or ''}{_value(match.group('path'), literal.lower())}"

    return _FIELD.sub(replace, where)


def _value(path: str, literal: str) -> str:
    """SQL for what is at a path of the metadata: a number or a truth value like the literal, else text."""
    names = ["".join(step) for step in _STEP.findall(path)]
    steps = "".join('."' + name.replace("\\", "\\\\").replace("'", "''") + '"' for name in names)
    json = f"json_extract(metadata, '${steps}')"
    if literal != "'":
        return f"try_cast(btrim({json}, '\"') as {'boolean' if literal in {'true', 'false'} else 'double'})"
    # JSON's text to plain text: no quotes round it, none escaped within
    bare = f"regexp_replace(nullif({json}, 'null'), '^\"|\"$', '', 'g')"
    return f"replace(replace({bare}, '\\\"', '\"'), '\\\\', '\\')"
