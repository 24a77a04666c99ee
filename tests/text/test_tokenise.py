"""Documents to chunks: nothing of a text is lost, no chunk is longer than it may be, and it always ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.prompts import document_body
from pipeline.text import tokenise
from pipeline.text.tokenise import ChunkTokens, chunk_documents


class Words:
    """One token a word or mark, as a tokenizer that skips blanks has them."""

    pattern = re.compile(r"\w+|[^\w\s]")

    def pieces(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in self.pattern.finditer(text)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[sum(map(ord, text[start:end])) % 50_000 for start, end in self.pieces(text)] for text in texts]

    def offsets(self, text: str) -> tuple[list[int], list[int]]:
        pieces = self.pieces(text)
        return [start for start, _ in pieces], [end for _, end in pieces]


class BlankWords(Words):
    """A word and the blank before it are one token, as in byte-level BPE; other blanks are tokens of their own."""

    pattern = re.compile(r" ?\w{1,8}| ?[^\w\s]|\s")


class Bytes(Words):
    """One token a byte: all bytes of one character share its offsets."""

    def pieces(self, text: str) -> list[tuple[int, int]]:
        return [(i, i + 1) for i, char in enumerate(text) for _ in char.encode()]


TOKENIZERS = [Words(), BlankWords(), Bytes()]
TOKENIZER_NAMES = [type(tokenizer).__name__ for tokenizer in TOKENIZERS]
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=TOKENIZER_NAMES)


def cut(
    text: str, tokenizer: Words, *, title: str = "", max_tokens: int = 32, overlap_tokens: int = 0
) -> list[ChunkTokens]:
    (chunks,) = chunk_documents([title], [text], tokenizer, max_tokens=max_tokens, overlap_tokens=overlap_tokens)
    return chunks


def packed(text: str) -> str:
    return "".join(text.split())


def numbered(num_words: int, per_sentence: int = 10, per_paragraph: int = 1_000) -> str:
    words = [f"w{i}" for i in range(num_words)]
    ends = {per_paragraph - 1: ".\n\n", per_sentence - 1: ". "}
    return "".join(
        word + next((end for every, end in ends.items() if i % (every + 1) == every), " ")
        for i, word in enumerate(words)
    ).strip()


@every_tokenizer
def test_a_short_document_is_one_chunk_unchanged(tokenizer: Words) -> None:
    text = "# A heading\n\nTwo  blanks,\n\n# Another\n"
    (chunk,) = cut(text, tokenizer, title="Title", max_tokens=64)
    assert chunk.text == text
    assert chunk.token_ids.dtype == np.int32
    assert chunk.token_ids.tolist() == tokenizer.encode([f"Title\n{text}"])[0]


def test_a_document_that_just_fits_is_one_chunk() -> None:
    assert len(cut(numbered(31, 1_000), Words(), title="one")) == 1
    assert len(cut(numbered(32, 1_000), Words(), title="one")) == 2


def test_documents_keep_their_order_and_their_number() -> None:
    texts = ["short", numbered(100), "also short"]
    documents = chunk_documents(["a", "b", "c"], texts, Words(), max_tokens=32, overlap_tokens=0)
    assert [len(chunks) > 1 for chunks in documents] == [False, True, False]
    for title, text, chunks in zip("abc", texts, documents, strict=True):
        alone = cut(text, Words(), title=title)
        assert [(c.text, c.token_ids.tolist()) for c in alone] == [(c.text, c.token_ids.tolist()) for c in chunks]
    assert chunk_documents([], [], Words(), max_tokens=32, overlap_tokens=0) == []


def test_every_chunk_carries_the_title() -> None:
    chunks = cut(numbered(100), Words(), title="The title")
    assert len(chunks) > 3
    for chunk in chunks:
        assert chunk.token_ids.tolist() == Words().encode([f"The title\n{chunk.text}"])[0]
        assert "title" not in chunk.text


@every_tokenizer
def test_a_long_title_is_shortened(tokenizer: Words) -> None:
    title = " ".join(f"t{i}" for i in range(200))
    chunks = cut(numbered(100), tokenizer, title=title)
    assert packed("".join(chunk.text for chunk in chunks)) == packed(numbered(100))
    room = 8
    lead = title[: tokenizer.offsets(title)[1][room - 1]].rstrip()
    for chunk in chunks:
        assert len(chunk.token_ids) <= 32
        assert chunk.token_ids.tolist() == tokenizer.encode([document_body(lead, chunk.text)])[0]


def test_a_long_title_on_a_short_text_is_one_chunk() -> None:
    (chunk,) = cut("short text", Words(), title=numbered(200))
    assert chunk.text == "short text"
    assert len(chunk.token_ids) <= 32


def test_chunks_begin_at_headings() -> None:
    section = numbered(20, 7)
    text = f"{section}\n\n# One\n{section}\n\n## Two\n{section}\n\n###### Three\n{section}"
    chunks = cut(text, Words())
    assert [chunk.text.split("\n")[0] for chunk in chunks][1:] == ["# One", "## Two", "###### Three"]


def test_a_comment_in_a_block_of_code_is_no_heading() -> None:
    lead = numbered(20, 1_000)
    block = "# comment\n" + numbered(5, 1_000)
    for fence in ("```", "~~~", "```python"):
        closing = fence[:3]
        text = f"{lead}\n\n{fence}\n{block}\n{closing}\n\n{numbered(20)}"
        assert not any(chunk.text.startswith("# comment") for chunk in cut(text, Words()))
    assert any(chunk.text.startswith("# comment") for chunk in cut(f"{lead}\n\n{block}\n\n{numbered(20)}", Words()))


def test_a_fence_ends_only_at_its_own_kind() -> None:
    text = f"```\n~~~\n```\n{numbered(16, 1_000)}\n# Heading\n{numbered(20, 1_000)}"
    assert [chunk.text.startswith("# Heading") for chunk in cut(text, Words())] == [False, True]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        (f"{numbered(20, 3)}\n\nparagraph {numbered(20, 3)}", "paragraph"),
        (f"{numbered(20, 3)}\r\n\r\nparagraph {numbered(10, 3)}\r\nline {numbered(20, 3)}", "paragraph"),
        (f"{numbered(20, 3)}\nline {numbered(20, 3)}", "line"),
        (f"{numbered(20, 1_000)}. Sentence {numbered(20, 1_000)}", "Sentence"),
        (f"{numbered(20, 1_000)}。句子 {numbered(20, 1_000)}", "句子"),
    ],
    ids=["paragraph", "paragraph with CRLF", "line", "sentence", "sentence without a blank"],
)
def test_better_places_to_cut_come_first(text: str, starts: str) -> None:
    assert cut(text, Words())[1].text.startswith(starts)


def test_without_a_better_place_a_chunk_is_full() -> None:
    chunks = cut(numbered(320, 1_000), Words())
    assert [len(chunk.token_ids) for chunk in chunks] == [32] * 10


def test_chunks_are_not_much_shorter_than_they_may_be() -> None:
    chunks = cut(numbered(1_000, 5, 17), Words())
    assert min(len(chunk.token_ids) for chunk in chunks[:-1]) > 16


@pytest.mark.parametrize(("per_sentence", "per_paragraph"), [(1_000, 1_000), (4, 1_000), (1_000, 25), (30, 30)])
def test_the_next_chunk_repeats_the_end_of_the_last(per_sentence: int, per_paragraph: int) -> None:
    text = numbered(300, per_sentence, per_paragraph)
    chunks = cut(text, Words(), overlap_tokens=8)
    for before, after in pairwise(chunks):
        shared = [word for word in re.findall(r"w\d+", after.text) if word in re.findall(r"w\d+", before.text)]
        assert 1 <= len(shared) <= 8
    assert " ".join(dict.fromkeys(re.findall(r"w\d+", " ".join(chunk.text for chunk in chunks)))) == " ".join(
        re.findall(r"w\d+", text)
    )


def test_nothing_is_repeated_across_a_heading() -> None:
    section = numbered(25, 1_000)
    first, second = cut(f"{section}\n# Heading\n{section}", Words(), overlap_tokens=16)
    assert (first.text, second.text) == (section, f"# Heading\n{section}")
    chunks = cut(f"{section}\n# Heading\n{numbered(60, 1_000)}", Words(), overlap_tokens=16)
    assert all("# Heading" not in chunk.text for chunk in chunks[2:])
    assert all(chunk.text.startswith("# Heading") for chunk in chunks[1:2])


@every_tokenizer
def test_a_text_longer_than_a_segment(tokenizer: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "SEGMENT_CHARS", 500)
    for text in (numbered(400, 10, 60), numbered(400, 1_000), "x" * 3_000, "a\n" * 1_500, "é" * 1_200):
        chunks = cut(text.strip(), tokenizer, title="Title")
        assert packed("".join(chunk.text for chunk in chunks)) == packed(text)
        assert max(len(chunk.token_ids) for chunk in chunks) <= 32


def test_blanks_at_the_end_of_a_segment_make_no_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "SEGMENT_CHARS", 100)
    text = f"{'one ' * 18}{' ' * 22}\n\n{'two ' * 20}"
    chunks = cut(text, BlankWords(), overlap_tokens=16)
    assert ["two" in chunk.text for chunk in chunks] == [False, True]


@every_tokenizer
@pytest.mark.parametrize("overlap_tokens", [0, 16])
@pytest.mark.parametrize(
    "text",
    [
        "x" * 5_000,
        "word" + "\n" * 5_000 + "word",
        "word" + " " * 5_000 + "word",
        "\n".join(["a"] * 2_000),
        "𝄞" * 1_000,
        "👩‍👩‍👧‍👦" * 300,
        "。" * 2_000,
        ". " * 2_000 + ".",
        "# \n" * 500 + "#",
        "# a\n" * 500 + "#",
        "```\n# a\n" * 300 + "b",
        "a" + "\u3000" * 300 + "b" * 300,
        "-" * 3_000,
        "a\x00b\x85c\u2028" * 300 + "d",
    ],
    ids=lambda text: repr(text)[1:9],
)
def test_it_ends_whatever_the_text(tokenizer: Words, text: str, overlap_tokens: int) -> None:
    chunks = cut(text, tokenizer, title="A title", overlap_tokens=overlap_tokens)
    check_chunks(text, chunks, overlap_tokens=overlap_tokens)
    assert all(0 < len(chunk.token_ids) <= 32 for chunk in chunks)
    least = 4 if overlap_tokens else 8
    assert len(chunks) <= 2 + len(tokenizer.offsets(text)[0]) / least


def check_chunks(text: str, chunks: list[ChunkTokens], *, overlap_tokens: int) -> None:
    """Every chunk stands in the text, in order, and what no chunk holds is blank."""
    assert all(chunk.text.strip() for chunk in chunks)
    if not overlap_tokens:
        assert packed("".join(chunk.text for chunk in chunks)) == packed(text)
        return
    covered = 0
    for chunk in chunks:
        # The last place that leaves no gap: in a text that repeats itself, the same words stand in several.
        reach = len(text) - len(text[covered:].lstrip())
        begin = text.rfind(chunk.text, 0, reach + len(chunk.text))
        assert begin >= 0
        covered = max(covered, begin + len(chunk.text))
    assert not text[covered:].strip()


words = st.sampled_from(["a", "bb", "w" * 40, "é", "👩‍👧", "日本語。", "x.", "y!", "(z)", "#", "##", "```", "~~~"])
blanks = st.sampled_from([" ", "  ", "\n", "\n\n", "\r\n", "\n \n", "\n# ", "\t", ""])
texts = (
    st.lists(st.tuples(words, blanks), min_size=1, max_size=150)
    .map(lambda pairs: "".join(map("".join, pairs)).strip())
    .filter(bool)
) | st.text(min_size=1, max_size=300).filter(lambda text: bool(text.strip()))


@every_tokenizer
@given(text=texts, title=st.text(max_size=60).map(str.strip), overlap_tokens=st.sampled_from([0, 0, 1, 8, 16]))
@example(text="a " * 200, title="", overlap_tokens=16)
@example(text=numbered(200), title="", overlap_tokens=16)
def test_nothing_is_lost_and_no_chunk_is_too_long(tokenizer: Words, text: str, title: str, overlap_tokens: int) -> None:
    chunks = cut(text, tokenizer, title=title, overlap_tokens=overlap_tokens)
    check_chunks(text, chunks, overlap_tokens=overlap_tokens)
    assert all(len(chunk.token_ids) <= 32 for chunk in chunks)
    if not title:
        assert [chunk.token_ids.tolist() for chunk in chunks] == tokenizer.encode([chunk.text for chunk in chunks])
    again = cut(text, tokenizer, title=title, overlap_tokens=overlap_tokens)
    assert [chunk.text for chunk in again] == [chunk.text for chunk in chunks]
    if len(tokenizer.encode([document_body(title, text)])[0]) <= 32:
        assert [chunk.text for chunk in chunks] == [text]
