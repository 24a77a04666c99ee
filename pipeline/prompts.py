"""The only place that spells instruction + text + `<emb_token>`.

A prompt is a constant prefix, a body that varies, and a constant suffix that ends in `<emb_token>`. Prefix and suffix
are tokenised once and joined to the body's token ids, so the prefix can be computed once for a whole corpus, and no
text can change how the frame around it is tokenised. Documents and queries share one encoder and differ only here.

Knows nothing of models; `model.tokenizer` renders a chat template into the frame and `flows` hands bodies in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import ModelError, SettingsError

EMB_TOKEN = "<emb_token>"

# From the reasoning prompt of BRIGHT (arXiv 2407.12883): name the problem, reason about what would be relevant, draft
# an answer. Ours: that it be short, as LREM found that length hurts and a cut trajectory is worth nothing.
DEFAULT_REASONING = (
    "Identify the essential problem in the {post}. Think step by step about what information would be relevant to it, "
    "and draft a short answer. Write one paragraph of at most 80 words."
)
_STACKEXCHANGE = (
    "biology", "earth_science", "economics", "psychology", "robotics", "stackoverflow", "sustainable_living",
)  # fmt: skip
# What BRIGHT calls a query of each task.
TASK_NOUNS = {task: f"{task.replace('_', ' ')} post" for task in _STACKEXCHANGE} | {
    "leetcode": "coding problem, and name the algorithms and data structures that solve it",
    "pony": "question about the Pony programming language, and name the language features that it needs",
    "aops": "math problem, and name the techniques and similar problems that lead to its solution",
    "theoremqa_questions": "math problem, and name the techniques and similar problems that lead to its solution",
    "theoremqa_theorems": "math problem, and name the theorems that lead to its solution",
}

# What BRIGHT's reference code calls a problem and what it asks for.
_BRIGHT_PROBLEMS = {
    "leetcode": ("coding", "examples"),
    "aops": ("Math", "examples"),
    "theoremqa_questions": ("Math", "examples"),
    "theoremqa_theorems": ("Math", "theorems"),
}

# Where `<emb_token>` starts in a checkpoint that was not trained with it: the mean embedding of these tokens.
EMB_START = ":"

# Characters that no template changes and no text contains (private use area), to find where the body goes.
_BODY = "\ue000\ue001\ue000"

Render = Callable[[Sequence[Mapping[str, str]]], str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What stands before and after a body; the suffix ends in `<emb_token>`."""

    prefix: str
    suffix: str

    def spell(self, body: str) -> str:
        """The whole text as a person would read it."""
        return f"{self.prefix}{body}{self.suffix}"


def chat_prompt(instruction: str, opening: str, *, render: Render) -> Prompt:
    """A chat turn with the instruction and the body, the assistant's opening words, then `<emb_token>`.

    Args:
        instruction: What the model is to do with the body; the system turn.
        opening: The assistant's first words; its next word would name what the body is about.
        render: Turns chat messages into the model's own chat format, assistant's turn opened.

    Raises:
        ModelError: the format has no place for the body.
    """
    rendered = render([{"role": "system", "content": instruction}, {"role": "user", "content": _BODY}])
    prefix, body, suffix = rendered.partition(_BODY)
    if not body:
        raise ModelError("the model's chat template leaves out what the user says; it cannot be used")
    return Prompt(prefix=prefix, suffix=f"{suffix}{opening}{EMB_TOKEN}")


def plain_prompt(instruction: str, opening: str) -> Prompt:
    """The same for a model without a chat format."""
    lead = f"{instruction}\n\n" if instruction else ""
    return Prompt(prefix=lead, suffix=f"\n{opening}{EMB_TOKEN}")


def document_body(title: str, text: str) -> str:
    """What stands for a document between prefix and suffix."""
    return f"{title}\n{text}" if title else text


def known_task(name: str, *, own: Mapping[str, str] = {}) -> str:
    """The task that somebody names, as it is spelled here.

    Args:
        name: As a person writes it, such as "earth-science".
        own: Tasks with instructions of somebody's own.

    Raises:
        SettingsError: there is none of this name; any other wording would be used in silence.
    """
    for spelled in (name, name.lower().replace("-", "_")):
        if spelled in own or spelled in TASK_NOUNS:
            return spelled
    raise SettingsError(
        f"there is no task {name!r}; write one of {', '.join(sorted({*TASK_NOUNS, *own}))}, or leave it out"
    )


def reasoning_instruction(task: str = "", *, own: Mapping[str, str] | None = None) -> str:
    """What the model is told to do with a query before it is embedded.

    Args:
        task: A key of `TASK_NOUNS` or of `own`, which may have "-" for "_"; any other gets the default wording.
        own: Instructions by task that come before the built-in ones.
    """
    spelled = task.replace("-", "_")
    for name, instruction in (own or {}).items():
        if name.replace("-", "_") == spelled:
            return instruction
    return DEFAULT_REASONING.format(post=TASK_NOUNS.get(spelled, "question"))


def bright_query_instruction(task: str) -> str:
    """What BRIGHT's reference code tells an instructed encoder about the queries of a task; "" for any other task.

    Source: arXiv 2407.12883 and its code.
    """
    if task in _STACKEXCHANGE:
        return f"Given a {task} post, retrieve relevant passages that help answer the post"
    if task == "pony":
        return f"Given a {task} question, retrieve relevant passages that help answer the question"
    problem, wanted = _BRIGHT_PROBLEMS.get(task, ("", ""))
    return f"Given a {problem} problem, retrieve relevant {wanted} that help answer the problem" if problem else ""


def reasoning_prompt(instruction: str, *, render: Render | None) -> Prompt:
    """A chat turn with the instruction and the query, the assistant's turn opened; what it writes is the trajectory.

    Args:
        instruction: From `reasoning_instruction`.
        render: As in `chat_prompt`; None for a model without a chat format.

    Raises:
        ModelError: the format has no place for the query.
    """
    if render is None:
        return Prompt(prefix=f"{instruction}\n\n", suffix="\n\n")
    whole = chat_prompt(instruction, "", render=render)
    return Prompt(whole.prefix, whole.suffix.removesuffix(EMB_TOKEN))


def reasoned_suffix(opening: str) -> str:
    """What follows a trajectory: a line of its own with the assistant's opening words, and `<emb_token>`."""
    return f"\n\n{opening}{EMB_TOKEN}"
