"""Where a text is cut: spans advance, hold no more tokens than they may, and prefer the best place in reach."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.chunk import Cuts, Span, next_begin, next_span


def spans_of(text: str, starts: list[int], ends: list[int], *, max_tokens: int, overlap_tokens: int = 0) -> list[Span]:
    """Every span of a text; fails rather than go on for ever."""
    cuts, spans, begin = Cuts(text), [], 0
    while not spans or spans[-1].end < len(text):
        span = next_span(cuts, starts, ends, begin=begin, max_tokens=max_tokens, length=len(text))
        spans.append(span)
        begin = next_begin(cuts, starts, span=span, overlap_tokens=overlap_tokens)
        assert len(spans) <= len(text)
    return spans


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[str, list[int], list[int]]:
    """A text, and offsets as any tokenizer may give them: gaps between tokens, and several tokens on one character."""
    text = draw(st.text(alphabet="ab .\n#`~é\u3000", min_size=1, max_size=120).filter(lambda text: text.strip()))
    starts, ends, at = [], [], 0
    while at < len(text):
        start = at + draw(st.integers(0, 2))
        end = min(start + draw(st.integers(1, 4)), len(text))
        if start < end:
            repeats = draw(st.integers(1, 3))
            starts += [start] * repeats
            ends += [end] * repeats
        at = max(end, start)
    return text, starts, ends


@given(case=tokenised(), max_tokens=st.integers(1, 16), share=st.integers(0, 2))
def test_spans_advance_and_leave_no_gap(case: tuple[str, list[int], list[int]], max_tokens: int, share: int) -> None:
    text, starts, ends = case
    overlap_tokens = max_tokens * share // 4
    spans = spans_of(text, starts, ends, max_tokens=max_tokens, overlap_tokens=overlap_tokens)
    assert (spans[0].start, spans[-1].end) == (0, len(text))
    for span in spans:
        assert span.start < span.end
        inside = [start for start in starts if span.start <= start < span.end]
        # One character is never cut, however many tokens it has.
        assert len(inside) <= max_tokens or len(set(inside)) == 1
    for before, after in pairwise(spans):
        assert before.start < after.start <= before.end <= after.end
        # One character may fill a very short chunk; otherwise each chunk brings something new.
        assert before.end < after.end or max_tokens < 8
        assert overlap_tokens or after.start == before.end
        assert sum(after.start <= start < before.end for start in starts) <= overlap_tokens + 2


def characters(text: str) -> tuple[list[int], list[int]]:
    """Offsets of a tokenizer for which each character is a token."""
    return list(range(len(text))), list(range(1, len(text) + 1))


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("aaaa. b\nc\n\nd\n# e ffff gggg", "# e"),
        ("aaaaaaa. b\nc\n\nd e ffff gggg", "d e"),
        ("aaaaaaa. bbb\nc d e ffff gggg", "c d"),
        ("aaaaaaa. bbbb. d e ffff gggg", "d e"),
        ("aaaaaaa bbbbbb d e ffff gggg", "e f"),
        ("aaaaaaabbbbbbbbbbbbbffffgggg", "bbbffff"),
    ],
    ids=["heading", "paragraph", "line", "sentence", "word", "anywhere"],
)
def test_the_best_place_in_the_second_half_wins(text: str, end: str) -> None:
    starts, ends = characters(text)
    span = next_span(Cuts(text), starts, ends, begin=0, max_tokens=17, length=len(text))
    assert text[span.end :].startswith(end)
    assert 8 < span.end <= 17


def test_an_overlap_begins_at_a_whole_word() -> None:
    text = "alpha beta gamma delta epsilon"
    starts, _ = characters(text)
    begin = next_begin(Cuts(text), starts, span=Span(0, 17), overlap_tokens=8)
    assert text[begin:17] == "gamma "


def test_an_overlap_is_kept_where_a_paragraph_ends() -> None:
    text = "alpha beta gamma\n\ndelta epsilon"
    starts, _ = characters(text)
    begin = next_begin(Cuts(text), starts, span=Span(0, 18), overlap_tokens=9)
    assert text[begin:18] == "gamma\n\n"


def test_an_overlap_stays_behind_the_last_heading() -> None:
    text = "alpha\n# Head\nbeta gamma delta"
    starts, _ = characters(text)
    cuts = Cuts(text)
    assert next_begin(cuts, starts, span=Span(0, 6), overlap_tokens=3) == 6
    assert next_begin(cuts, starts, span=Span(0, 18), overlap_tokens=16) == text.index("beta")
    assert next_begin(cuts, starts, span=Span(0, 13), overlap_tokens=13) >= text.index("# Head")


@pytest.mark.parametrize(
    ("text", "headings"),
    [
        ("a\n# b\nc\n###### d\n", ["# b", "###### d"]),
        ("# first\n# b", ["# b"]),
        ("a\n#b\n####### c\n#\n# \n #d", []),
        ("a\n```\n# b\n```\n# c", ["# c"]),
        ("a\n```\n# never closed", []),
        ("a\n```\n~~~\n# b\n```\n# c", ["# c"]),
        ("a\n````\n```\n# b\n```\n````\n# c", ["# c"]),
        ("a\n  ~~~sh\n# b\n  ~~~\n# c", ["# c"]),
        ("a ``` inline\n# b", ["# b"]),
        ("a\r\n# b\r\nc", ["# b"]),
    ],
)
def test_headings(text: str, headings: list[str]) -> None:
    assert [text[at:].splitlines()[0] for at in Cuts(text).headings] == headings
