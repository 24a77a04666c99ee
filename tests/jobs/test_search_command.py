"""`t1 search` that fuses, reasons and explains: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.flows.trajectory_cache import import_trajectories
from pipeline.flows.trajectory_import import ImportFields
from tests.flows.corpora import MODEL, document, publish_table, write_jsonl

TEXTS = {
    "bread": "yeast makes dough rise before it is baked into bread",
    "tides": "the moon pulls the sea and so tides rise and fall twice a day",
    "lamps": "a lamp turns current into light and heat",
}
QUESTION = "why does it rise?"
THOUGHT = "tides of the sea, the moon pulls the sea twice a day"
IMPORTED = ("--engine", "imported", "--reasoner", "elsewhere")


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    publish_table(folder / "db", [document(name, text) for name, text in TEXTS.items()])
    source = write_jsonl(folder / "thoughts.jsonl", [{"text": QUESTION, "trajectory": THOUGHT}])
    import_trajectories(str(folder / "db"), [str(source)], fields=ImportFields(source="elsewhere"), tokenizer=MODEL)
    return folder / "db"


def answers(done: Any) -> list[dict[str, Any]]:
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_search_that_reasons_and_explains_says_what_moved(t1: Any, db: Path) -> None:
    done = t1("search", "--db", db, "--reason", "cached", "--explain", *IMPORTED, QUESTION, "never asked before")
    first, second = answers(done)
    assert (first["reasoned"], first["trajectory"], first["note"]) == (True, THOUGHT, "")
    assert first["hits"][0]["id"] == "tides"
    (plain,) = answers(t1("search", "--db", db, QUESTION))
    ranks = {hit["id"]: rank for rank, hit in enumerate(plain["hits"], 1)}
    assert {hit["id"]: hit["plain_rank"] for hit in first["hits"]} == ranks
    assert ranks["tides"] > 1
    assert set(plain) == {"id", "query", "version", "hits"}
    assert (second["reasoned"], second["trajectory"]) == (False, "")
    assert second["note"] == "no trajectory of it is there"


def test_words_alone_and_fused(t1: Any, db: Path) -> None:
    (words,) = answers(t1("search", "--db", db, "--words", QUESTION))
    assert [hit["id"] for hit in words["hits"]] == ["bread", "tides"]
    (fused,) = answers(t1("search", "--db", db, "--hybrid", QUESTION))
    assert {hit["id"] for hit in fused["hits"]} == set(TEXTS)
    assert fused["hits"][0]["score"] == pytest.approx(1 / 61 + 1 / 61, abs=1e-3)


def test_a_load_that_is_not_waited_for_does_not_spoil_the_end(t1: Any, db: Path) -> None:
    code = (
        "import sys, threading; sys.path.insert(0, '.')\n"
        "from pipeline.flows import reasoned_search\n"
        "from jobs.cli import main\n"
        "import numpy, lance, torch\n"
        "def load(*_, **__):\n"
        "    while True: torch.ones(300, 300) @ torch.ones(300, 300)\n"
        "reasoned_search.load_reasoner = load\n"
        "main()\n"
    )
    done = t1(
        "search", "--db", db, "--reason", "auto", "--deadline", "0.5", "--reasoner", "default", QUESTION, code=code
    )
    (answer,) = answers(done)
    assert (answer["reasoned"], len(answer["hits"])) == (False, 3)


def test_a_search_can_ask_for_whatever_was_cached() -> None:
    from jobs.reason import FIELDS
    from jobs.search import _REASONING, search

    options = {parameter.name for parameter in search.params}
    shaping = {name for name, field in FIELDS.items() if ".pool." not in field} - {"batch_queries"}
    # what the reasoner is told has its place in the settings file: the option of that name is the encoder's
    assert shaping - {"instruction"} <= set(_REASONING) <= options


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--words", "--reason", "auto"], ["--words ranks by words alone"]),
        (["--words", "--hybrid"], ["--words ranks by words alone"]),
        (["--reason", "sometimes"], ["--reason", "sometimes"]),
        (["--deadline", "-1"], ["--deadline"]),
        (["--reason", "always"], ["hashing://64 cannot reason", "--reasoner"]),
        (["--reason", "cached", "--engine", "imported"], ["--reasoner SOURCE"]),
        (["--deadline", "nan"], ["--deadline", "not a finite number"]),
        (["--task", "alchemy"], ["no task 'alchemy'", "biology"]),
        (["--task", "pony", "--reason", "cached", *IMPORTED, "--samples", "2"], ["one trajectory a query"]),
    ],
)
def test_a_mistake_is_one_sentence(t1: Any, db: Path, arguments: list[str], parts: list[str]) -> None:
    done = t1("search", "--db", db, *arguments, QUESTION)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
