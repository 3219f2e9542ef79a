"""Benchmark problems: curated records or plain question/answer lines, brought to one form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvjax.errors import UserError
from mvjax.grading import KINDS, kind_of


@dataclass(frozen=True)
class Problem:
    """One item of a benchmark."""

    id: str
    messages: list[dict[str, str]]
    """The conversation that ends with the question, without the prompt suffix."""
    answer: str
    """The reference answer in its short form."""
    paths: Sequence[int] | None = None
    """Paths of each block of the reference transcript in the order of their opening (outermost only); None without a
    reference, empty if the reference is sequential."""
    meta: dict[str, Any] = field(default_factory=dict)
    kind: str | None = None
    """The answer's kind (`mvjax.grading.KINDS`); None: told from the answer."""


def read_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """Read a JSONL benchmark: mvjax records, GSM8K lines (question, answer ending in "#### n") or problem/answer lines.
    A line may state the `kind` of its answer; a record has it in `meta`.

    Raises:
        UserError: not UTF-8, not JSON, or a line with none of these forms; names the file and line.
    """
    problems = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); convert the file to UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(problems) >= limit:
            break
        if line.strip():
            problems.append(problem_of(line, f"{path.stem}-{number}", f"{path}:{number}"))
    if not problems:
        raise UserError(f"{path}: holds no problem")
    return problems


def problem_of(line: str, default_id: str, where: str) -> Problem:
    """One line of a benchmark file as a `Problem`; `where` names it in errors."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object")
    identity = str(row.get("id", default_id))
    kind, meta = row.get("kind"), row.get("meta", {})
    if kind is not None:
        kind = kind_of("", str(kind), f"{where}: field 'kind'")
    elif isinstance(meta, dict) and meta.get("kind") in KINDS:  # where records keep it
        kind = meta["kind"]
    if "messages" in row:
        return Problem(identity, row["messages"], str(row["answer"]), outer_paths(row.get("response")), meta, kind)
    question = row.get("question", row.get("problem"))
    if question is None or "answer" not in row:
        raise UserError(f"{where}: expected messages, or question and answer, or problem and answer")
    answer = str(row["answer"]).split("####")[-1].strip()
    return Problem(
        identity, [{"role": "user", "content": str(question)}], answer, meta={"solution": row["answer"]}, kind=kind
    )


def outer_paths(response: str | None) -> list[int] | None:
    """Number of paths of every outermost block of a transcript, in order."""
    if response is None:
        return None
    from mvjax.language.tags import TAGS

    counts, depth = [], 0
    opening, closing, path = TAGS[2], TAGS[3], TAGS[8]
    for word in response.split("\n"):
        if word == opening:
            depth += 1
            if depth == 1:
                counts.append(0)
        elif word == closing:
            depth -= 1
        elif word == path and depth == 1:
            counts[-1] += 1
    return counts
