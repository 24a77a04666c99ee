"""A person's filter to Lance's: columns as they are called, metadata fields as `metadata.NAME`.

`metadata.year >= 2020 and metadata.source = 'web'` becomes calls of Lance's JSON functions, each typed by the literal
it is compared with.
"""

from __future__ import annotations

import re

_FIELD = re.compile(
    r"metadata\.(?:(?P<name>[A-Za-z_]\w*)|\"(?P<quoted>[^\"]+)\")"
    r"(?P<gap>\s*)(?P<op>>=|<=|<>|!=|=|<|>|\bnot\s+in\b|\bin\b|\bnot\s+like\b|\blike\b|\bis\b)?(?P<tail>\s*\(?\s*)"
    r"(?P<literal>-?\d+(?:\.\d+)?\b|true\b|false\b|')?",
    re.IGNORECASE,
)
_STRING = re.compile(r"'(?:[^']|'')*'")


def to_lance(where: str) -> str:
    """The filter as Lance takes it; text inside quotes is left alone."""
    strings = [m.span() for m in _STRING.finditer(where)]

    def replace(match: re.Match[str]) -> str:
        if any(begin < match.start() < end for begin, end in strings):
            return match.group(0)
        name = match.group("name") or match.group("quoted")
        literal = match.group("literal") or "'"
        getter = "json_get_string"
        if literal[0] in "-0123456789":
            getter = "json_get_float"
        elif literal.lower() in {"true", "false"}:
            getter = "json_get_bool"
        escaped = name.replace("'", "''")
        rest = f"{match.group('gap')}{match.group('op') or ''}{match.group('tail')}{match.group('literal') or ''}"
        return f"{getter}(metadata, '{escaped}'){rest}"

    return _FIELD.sub(replace, where)
