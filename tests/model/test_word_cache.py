"""Ids by the word are the library's own, for every kind of tokenizer that has a cache and any text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pydoc_data.topics import topics  # type: ignore[import-untyped]

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from pipeline.model import word_cache
from pipeline.model.bundle import ModelBundle
from pipeline.model.word_cache import WordCache

_LATER = word_cache._KNOWN_SPLITS
_PATTERNS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "qwen": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LATER[0]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
    "llama": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LATER[1]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}
# One or two of each class that a pattern knows, blanks and digits of other scripts, what NFC changes, an added token.
_PIECES = [
    "a", "B", "word", "s", "'", "'s", "'LL", "1", "23", ".", "!?", "<", " ", "  ", "\t", "\n", "\r\n", "\x0b", "\x0c",
    "\x1c", "\x00", "\x7f", "é", "e\u0301", "\u0301", "ß", "\u017f", "中", "文字", "\u00a0", "\u0085", "\u2009",
    "\u2028", "\u3000", "\u200b", "٣", "\uff15", "½", "Ⅷ", "\u2019", "“", "\u212a", "\u037e", "🙂", "👩🏽\u200d💻",
    "<think>", "\ufeff",
]  # fmt: skip
_TEXTS = st.lists(st.sampled_from(_PIECES) | st.characters(codec="utf-8")).map("".join)


@lru_cache
def tokenizer_of(name: str) -> Tokenizer:
    """A byte-level tokenizer that has learnt merges, also of blanks and marks, from Python's documentation."""
    tokenizer = Tokenizer(models.BPE())
    if name in ("qwen", "llama"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _PATTERNS[name]
    trainer = trainers.BpeTrainer(
        vocab_size=2_000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    marks = ["\n\n  \t ...!?\r\n\r\n' 's 'll 123 1999 " * 50]
    tokenizer.train_from_iterator([*topics.values(), *marks], trainer)
    tokenizer.add_special_tokens([AddedToken("<emb_token>", special=True)])
    tokenizer.add_tokens(
        [
            AddedToken("<think>", special=False, normalized=False),
            AddedToken("a 1", special=False, normalized=False),
            AddedToken("\u212a", special=False, normalized=True),
        ]
    )
    tokenizer.encode_special_tokens = True
    return tokenizer


def by_library(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def cache_of(tokenizer: Tokenizer) -> WordCache:
    cache = WordCache.of(tokenizer)
    assert cache is not None
    return cache


@pytest.mark.parametrize("name", _PATTERNS)
def test_every_three_ascii_characters(name: str) -> None:
    # each class twice, and every control character that some \s takes
    letters = [chr(c) for c in range(128)]
    classes = "aZs09'.<\t\n\x0b\x0c\r \x1c\x1f\x00"
    texts = ["".join(pair) for pair in itertools.product(letters, repeat=2)]
    texts += ["".join(four) for four in itertools.product(classes, repeat=4)]
    tokenizer = tokenizer_of(name)
    assert cache_of(tokenizer).encode(texts) == by_library(tokenizer, texts)


@pytest.mark.parametrize("name", _PATTERNS)
@given(texts=st.lists(_TEXTS, max_size=4))
@example(
    texts=["a  \uff15", "a \u2009 b", "x\u2009\n y", ".\n\n é", "a é\u0301 b", "<think>", "a<think> b", "'\u017f 'S"]
)
@settings(max_examples=400)
def test_any_text(name: str, texts: list[str]) -> None:
    tokenizer = tokenizer_of(name)
    cache = cache_of(tokenizer)
    expected = by_library(tokenizer, texts)
    assert cache.encode(texts) == expected
    assert cache.encode(texts) == expected  # from the table


@given(text=_TEXTS)
@settings(max_examples=200)
def test_the_default_model_has_one(default_bundle: ModelBundle, text: str) -> None:
    tokenizer = default_bundle.tokenizer
    assert tokenizer._words is not None
    assert tokenizer.encode([text, f"a {text} 12"]) == by_library(tokenizer._bodies, [text, f"a {text} 12"])


def test_tables_end_and_words_that_do_not_repeat_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_cache, "_MAX_CHARS", 60)
    monkeypatch.setattr(word_cache, "_JUDGED_CHARS", 300)
    monkeypatch.setattr(word_cache, "_REST_CHARS", 500)
    tokenizer = tokenizer_of("smollm")
    cache = cache_of(tokenizer)
    rested, largest = set(), 0
    for number in range(60):
        # first every word is new, then none is
        texts = [f"word{chr(97 + (number + i if number < 20 else i) % 26) * (i + 3)} the" for i in range(8)]
        assert cache.encode(texts) == by_library(tokenizer, texts)
        rested.add(cache._rest > 0)
        largest = max(largest, len(cache._ids))
    assert rested == {True, False}
    assert largest < 40


@given(texts=st.lists(st.text("ab ", max_size=40), max_size=12), most=st.integers(1, 60))
def test_texts_come_back_in_their_order_however_many_are_parted_at_once(texts: list[str], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_cache, "_PART_CHARS", most)
        parts = list(word_cache._parts(texts))
        assert [text for part in parts for text in part] == texts
        assert all(sum(map(len, part)) <= most or len(part) == 1 for part in parts)
        tokenizer = tokenizer_of("smollm")
        assert cache_of(tokenizer).encode(texts) == by_library(tokenizer, texts)


def test_threads_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_cache, "_MAX_CHARS", 50)
    tokenizer = tokenizer_of("gpt2")
    cache = cache_of(tokenizer)
    texts = [[f"{topic} line {i} of {len(topic)}" for topic in list(topics)[:40]] for i in range(60)]
    expected = [by_library(tokenizer, part) for part in texts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(cache.encode, texts)) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "model", models.BPE(dropout=0.1)),
        lambda t: setattr(t, "normalizer", normalizers.NFKC()),
        lambda t: setattr(t, "normalizer", normalizers.Lowercase()),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Split(Regex(_LATER[0]), "isolated")),
        lambda t: setattr(
            t,
            "pre_tokenizer",
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(r"\S+|\s+"), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            ),
        ),
    ],
)
def test_a_tokenizer_of_another_kind_has_none(change: Callable[[Tokenizer], None]) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert WordCache.of(tokenizer) is not None
    change(tokenizer)
    assert WordCache.of(tokenizer) is None
    assert WordCache.of(Tokenizer(models.BPE())) is None


def test_many_tokens_beside_the_words_are_left_to_the_library() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_tokens([f"name{number}" for number in range(64)])
    assert WordCache.of(tokenizer) is not None
    tokenizer.add_tokens(["one more"])
    assert WordCache.of(tokenizer) is None
