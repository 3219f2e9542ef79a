"""What every finished record must pass, whoever made it; and what every problem must before anything is asked."""

from __future__ import annotations

import re

from mvjax.curator.checks.answer import reached
from mvjax.curator.production import Finding, Problem
from mvjax.data.records import Record
from mvjax.grading import KINDS
from mvjax.language import TAGS, TranscriptError, parse_text

UNUSABLE = "unusable input"
_TAG = re.compile("|".join(map(re.escape, TAGS)))
_THINK = re.compile(r"<Think>\n(?P<body>.*)\n</Think>(?P<attempt>.*)", re.DOTALL)


def check_problem(problem: Problem, max_characters: int) -> list[Finding]:
    """What makes a problem unusable: an empty or too long text, control tags, an answer that is not reached."""
    findings = []
    for name in ("question", "reasoning"):
        if not getattr(problem, name).strip():
            findings.append(Finding(UNUSABLE, "", f"the {name} is empty"))
    for name in ("question", "reasoning", "attempt", "answer"):
        text = getattr(problem, name)
        if len(text) > max_characters:
            findings.append(
                Finding(UNUSABLE, "", f"the {name} has {len(text):,} characters; at most {max_characters:,}")
            )
        if half := _half(text):
            findings.append(Finding(UNUSABLE, "", f"the {name} is no text: half a character at {half}"))
    for name in ("reasoning", "attempt"):
        for match in _TAG.finditer(getattr(problem, name)):
            reason = f"the {name} contains the control tag {match[0]} as text at character {match.start() + 1}"
            findings.append(Finding("control tag", "", reason))
            break
    if not findings and reached(_whole(problem), problem.answer) is False:
        findings.append(Finding("answer", "", f"the original does not reach the answer {_short(problem.answer)}"))
    return findings


def check(record: Record) -> list[Finding]:
    """What is wrong with a finished record: its grammar, tags in its sequential form, an answer that is not reached."""
    if not record.response.strip() or not record.autoregressive.strip():
        return [Finding("grammar", "", "the response or its sequential form is empty")]
    findings = []
    try:
        blocks = parse_text(record.response, complete=True).blocks
    except TranscriptError as error:
        return [Finding("grammar", "", str(error))]
    if any(len(block.paths) < 2 for block in blocks):
        findings.append(Finding("grammar", "", "a block has one path only"))
    if record.meta.get("parallel", bool(blocks)) != bool(blocks):
        findings.append(Finding("grammar", "", 'meta["parallel"] does not say whether there is a block'))
    if match := _TAG.search(_without_thinking(record.autoregressive)):
        findings.append(Finding("control tag", "", f"the sequential form contains {match[0]} as text"))
    for name, text in _answers(record):
        if reached(text, record.answer, _kind(record)) is False:
            findings.append(Finding("answer", "", f"the {name} does not reach the answer {_short(record.answer)}"))
    return findings


def _answers(record: Record):
    """The texts that must reach the answer, each with its name."""
    yield "sequential form", _without_thinking(record.autoregressive)
    yield "response", _TAG.sub("", record.response)
    think, plain = (_THINK.fullmatch(text) for text in (record.response, record.autoregressive))
    if think is None:
        return
    thought = plain["body"] if plain else _before(record.autoregressive, think["attempt"])
    if reached(thought, record.answer, _kind(record)):
        yield "thinking", _TAG.sub("", think["body"])


def _kind(record: Record) -> str | None:
    """The kind of its answer, where the record says it."""
    kind = record.meta.get("kind")
    return kind if kind in KINDS else None


def _before(text: str, attempt: str) -> str:
    """What of sequential text stands before the attempt that ends it; empty where it ends otherwise."""
    return text.removesuffix(attempt.strip()) if text.endswith(attempt.strip()) else ""


def _without_thinking(text: str) -> str:
    """Sequential text without the tags around its reasoning."""
    think = _THINK.fullmatch(text)
    return text if think is None else think["body"] + think["attempt"]


def _whole(problem: Problem) -> str:
    return f"{problem.reasoning.strip()}\n\n{problem.attempt.strip()}".strip()


def _half(text: str) -> int:
    """Place of the first half of a surrogate pair, which no file can hold; 0 where there is none."""
    match = re.search("[\ud800-\udfff]", text)
    return match.start() + 1 if match else 0


def _short(answer: str) -> str:
    line = " ".join(answer.split())
    return line if len(line) <= 40 else f"{line[:37]}..."
