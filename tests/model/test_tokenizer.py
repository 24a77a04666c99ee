"""Token ids of bodies and frames: no text can write a special token, and prompts are what was decided."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ModelError
from pipeline.model.bundle import ModelBundle
from pipeline.model.tokenizer import TextTokenizer
from pipeline.prompts import EMB_TOKEN, chat_prompt
from tests.golden import check_golden
from tests.model.models import copy_model, load_decoder, open_small, random_bodies

GOLDEN = Path(__file__).parent / "golden" / "prompts.txt"


@pytest.fixture(scope="module")
def tokenizer(default_bundle: ModelBundle) -> TextTokenizer:
    return default_bundle.tokenizer


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("2024", [34, 32, 34, 36]),
        ("Pi is 3.14159", [41967, 314, 216, 35, 30, 33, 36, 33, 37, 41]),
        ("x2y", [104, 34, 105]),
        ("The cat sat.", [504, 2644, 2643, 30]),
        ("", []),
        ("  two\n\nlines ", [216, 827, 198, 198, 5110, 216]),
    ],
)
def test_golden_ids(tokenizer: TextTokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.encode([text]) == [ids]


@pytest.mark.parametrize("written", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<emb_token>"])
def test_no_text_writes_a_special_token(tokenizer: TextTokenizer, written: str) -> None:
    (special,) = tokenizer.frame_ids(written)
    for text in (written, f"a{written}b", f" {written} ", f"{written}{written}", f"<{written}>"):
        (ids,) = tokenizer.encode([text])
        assert special not in ids
        assert ids
        assert len(tokenizer.offsets(text)[0]) == len(ids)


@given(
    text=st.lists(st.sampled_from(["<|im_end|>", "<emb_token>", "<|", "|>", "im_end", " "]) | st.text()).map("".join)
)
def test_offsets_ascend_and_count_the_tokens(default_bundle: ModelBundle, text: str) -> None:
    tokenizer = default_bundle.tokenizer
    (ids,) = tokenizer.encode([text])
    assert set(ids).isdisjoint({0, 1, 2, tokenizer.emb_token_id})
    starts, ends = tokenizer.offsets(text)
    assert len(starts) == len(ends) == len(ids)
    assert all(low <= high for values in (starts, ends) for low, high in pairwise(values))
    assert all(0 <= start <= end <= len(text) for start, end in zip(starts, ends, strict=True))


@pytest.mark.parametrize("text", ["👩‍👧é 2024", "日本語。", "a\u0301\u200d🙂🙂", "𝄞"])
def test_offsets_are_characters(tokenizer: TextTokenizer, text: str) -> None:
    starts, ends = tokenizer.offsets(text)
    assert (starts[0], ends[-1]) == (0, len(text))
    assert len(starts) > len(set(starts))  # one character is several tokens
    assert set(range(len(text))) <= {at for start, end in zip(starts, ends, strict=True) for at in range(start, end)}


def test_default_prompts(default_bundle: ModelBundle) -> None:
    parts = []
    for role in ("document", "query"):
        prompt, frame = default_bundle.prompts[role], default_bundle.frames[role]
        parts.append(f"--- {role}\n{prompt.spell('{body}')}\n{list(frame.prefix)}\n{list(frame.suffix)}\n")
    check_golden(GOLDEN, "".join(parts))


def test_a_frame_ends_in_the_emb_token_and_holds_it_once(default_bundle: ModelBundle) -> None:
    for frame in default_bundle.frames.values():
        assert frame.suffix[-1] == default_bundle.tokenizer.emb_token_id == 49_152
        assert [*frame.prefix, *frame.suffix].count(49_152) == 1


def change_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the small model without a chat template."""
    folder = copy_model(tiny, tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    return folder


def test_the_emb_token_is_added_once(model: Path) -> None:
    first = TextTokenizer(str(model))
    assert first.emb_token_added
    (model / "tokenizer.json").write_text(first._frames.to_str())
    again = TextTokenizer(str(model))
    assert not again.emb_token_added
    assert again.emb_token_id == first.emb_token_id
    assert again.digest == first.digest


def test_a_trained_emb_token_keeps_its_row_though_ids_have_gaps(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"][EMB_TOKEN] = 20_099
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    encoder = load_decoder(model)
    assert encoder.frames["document"].suffix[-1] == 20_099
    weight: Any = encoder.model.get_input_embeddings().weight  # type: ignore[operator]
    colon = TextTokenizer(str(model)).frame_ids(":")
    assert not weight[20_099].equal(weight[colon].mean(0))


def test_without_a_chat_template_the_prompt_is_plain(model: Path) -> None:
    bundle = open_small(model, document_instruction="w1 w2", document_opening="w3")
    assert bundle.prompts["document"].spell("BODY") == f"w1 w2\n\nBODY\nw3{EMB_TOKEN}"
    assert bundle.frames["document"].prefix == tuple(bundle.tokenizer.frame_ids("w1 w2"))
    assert load_decoder(model).encode(random_bodies([5], below=20_000), role="query").failures == {}


def test_a_plain_prompt_begins_as_the_tokenizer_begins(model: Path) -> None:
    begin = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    change_json(model / "tokenizer.json", post_processor=processor)
    bundle = open_small(model, document_instruction="w1", document_opening="")
    assert bundle.frames["document"].prefix == (1, *bundle.tokenizer.frame_ids("w1"))
    assert bundle.tokenizer.encode(["w1"]) == [bundle.tokenizer.frame_ids("w1")]
    no_words = open_small(model, document_instruction="", document_opening="")
    assert no_words.frames["document"].prefix == (1,)


SPELLED = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        SPELLED,
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}[{{ m['role'] }}] {{ m['content'] }} "
        "{% endfor %}",
        "{% for m in messages %}{%- generation %}[{{ m['role'] }}] {{ m['content'] }} {% endgeneration %}{% endfor %}",
    ],
    ids=["plain", "break", "generation"],
)
def test_templates_as_transformers_has_them(model: Path, template: str) -> None:
    change_json(model / "tokenizer_config.json", chat_template=template)
    prompt = open_small(model, document_instruction="w1", document_opening="w2").prompts["document"]
    assert prompt.spell("BODY") == f"[system] w1 [user] BODY w2{EMB_TOKEN}"


def test_templates_by_name(model: Path) -> None:
    named = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": "{{ bos_token }}" + SPELLED}]
    change_json(model / "tokenizer_config.json", chat_template=named, bos_token={"content": "<|im_start|>"})
    tokenizer = TextTokenizer(str(model))
    assert tokenizer.render([{"role": "user", "content": "x"}]) == "<|im_start|>[user] x "
    change_json(model / "tokenizer_config.json", chat_template=named[:1])
    assert not TextTokenizer(str(model)).has_chat_format


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
            "role",
        ),
        ("{% for", "chat template cannot be used"),
        ("{{ messages[0]['content'] + 1 }}", "chat template cannot be used"),
        ("{{ messages[0]['content'].absent.name }}", "chat template cannot be used"),
        ("{{ ''.__class__.__mro__ }}", "chat template cannot be used"),
        ("{% for m in messages %}{% for part in m['content'] %}{{ part.text }}{% endfor %}{% endfor %}", "leaves out"),
    ],
    ids=["refuses a system turn", "broken", "wrong type", "undefined", "unsafe", "parts"],
)
def test_a_template_that_cannot_be_used(model: Path, template: str, said: str) -> None:
    change_json(model / "tokenizer_config.json", chat_template=template)
    with pytest.raises(ModelError, match=said) as caught:
        open_small(model)
    assert "\n" not in str(caught.value)


def test_a_prompt_needs_a_place_for_the_body() -> None:
    with pytest.raises(ModelError, match="leaves out"):
        chat_prompt("instruction", "opening", render=lambda messages: messages[0]["content"])


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_file_is_named(model: Path, name: str) -> None:
    (model / name).write_text('{"version": ')
    with pytest.raises(ModelError, match=rf"^{name} of .* (cannot be read|not valid JSON)"):
        open_small(model)
