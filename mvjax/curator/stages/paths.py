"""Stage 5: Map and Reduce of a block, and every path rewritten to stand alone (arXiv 2506.09991, section 5.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvjax.curator.production import Call, Finding, Problem
from mvjax.curator.stages.asking import Asking
from mvjax.curator.stages.draft import DraftBlock, Written, resolved
from mvjax.curator.stages.refill import joined
from mvjax.curator.stages.replies import Faulty, get, read_object, shown, tags_in, texts
from mvjax.curator.stages.schema import TEXT, array, table
from mvjax.curator.text.transcript import Block, Path

STAGE = "paths"
_MARKER = re.compile(r"\[\[block ([\d.]+)\]\]")
LONGEST_GOAL = 400
"""Characters of a goal at most."""


@dataclass(frozen=True)
class Branch:
    """What a path is written from."""

    text: str
    """The original, with a marker line for each nested block that is written already."""
    nested: tuple[str, ...]
    """The numbers of those blocks, in order."""

    @property
    def original(self) -> str:
        """The text without the markers."""
        return _MARKER.sub("", self.text)


@dataclass(frozen=True)
class Paths:
    """A reply: one goal and one path for each branch."""

    goals: tuple[str, ...]
    paths: tuple[str, ...]
    """With a marker line for each nested block."""
    conclusion: str

    def block(self, written: Written) -> Block:
        """The block, nested ones in their places."""
        return Block(
            tuple(Path(goal, _body(path, written)) for goal, path in zip(self.goals, self.paths)), self.conclusion
        )

    def own(self, place: int) -> str:
        """The text of a path without its nested blocks."""
        return _MARKER.sub("", self.paths[place])


def branches_of(block: DraftBlock, written: Written, sentences: Sequence[str]) -> tuple[Branch, ...]:
    """The originals of a block's branches."""
    return tuple(_branch(list(resolved(branch, written)), sentences) for branch in block.branches)


def ask(asking: Asking, problem: Problem, block: DraftBlock, prefix: str, branches: Sequence[Branch]) -> Call:
    """The call, a conversation of its own."""
    listed = "\n\n".join(
        f'<branch number="{number}">\n{branch.text}\n</branch>' for number, branch in enumerate(branches, 1)
    )
    text = asking.prompts.fill(
        STAGE,
        question=problem.question.strip(),
        prefix=prefix or "(nothing)",
        branches=listed,
        count=str(len(branches)),
    )
    return asking.first(STAGE, f"block {block.number}", text, SCHEMA)


def read(text: str, number: str, branches: Sequence[Branch]) -> Paths:
    """The goals, paths and conclusion of block `number`.

    Raises:
      Faulty: it is not of the form, the counts differ, a text is empty or holds a control tag, a goal has several
        lines, or the marker of a nested block is missing, changed or there twice.
    """
    value = read_object(text)
    goals = texts(get(value, "goals", list), '"goals"')
    paths = texts(get(value, "paths", list), '"paths"')
    conclusion = get(value, "conclusion", str).strip()
    findings: list[Finding] = []
    if not len(goals) == len(paths) == len(branches):
        reason = f"{len(goals)} goals and {len(paths)} paths for {len(branches)} branches; each needs one of both"
        raise Faulty([Finding("path count", "", reason)])
    findings += _faults(conclusion, "the conclusion", "")
    for place, (goal, path, branch) in enumerate(zip(goals, paths, branches), 1):
        where = f"path {number}.{place}"
        findings += _faults(goal, "its goal", where) + _faults(path, "its text", where, branch.nested)
        if "\n" in goal.strip() or len(goal) > LONGEST_GOAL:
            findings.append(Finding("goal", where, f"its goal must be one line of {LONGEST_GOAL} characters at most"))
        if goals.index(goal) + 1 < place:
            findings.append(Finding("goal", where, "its goal is that of another path; say what this one is about"))
    if findings:
        raise Faulty(findings)
    goals = [" ".join(goal.split()) for goal in goals]
    return Paths(tuple(goals), tuple(_on_lines(path) for path in paths), conclusion)


def to_json(paths: Paths) -> dict[str, Any]:
    """In the form of the reply."""
    return {"goals": list(paths.goals), "paths": list(paths.paths), "conclusion": paths.conclusion}


def plain(block: Block) -> str:
    """A block as text without tags: its paths, then its conclusion."""
    return "\n".join([*map(text, block.paths), block.conclusion])


def text(path: Path) -> str:
    """A path as text without tags."""
    return "\n".join(entry if isinstance(entry, str) else plain(entry) for entry in path.body)


def _branch(parts: Sequence[tuple[int, ...] | DraftBlock], sentences: Sequence[str]) -> Branch:
    lines = [_marker(p.number) if isinstance(p, DraftBlock) else joined(p, sentences).strip() for p in parts]
    return Branch("\n".join(lines), tuple(part.number for part in parts if isinstance(part, DraftBlock)))


def _marker(number: str) -> str:
    return f"[[block {number}]]"


def _faults(text: str, name: str, where: str, nested: Sequence[str] = ()) -> list[Finding]:
    findings = []
    if not _MARKER.sub("", text).strip() and not nested:
        findings.append(Finding("empty text", where, f"{name} is empty"))
    for _, tag in tags_in(text)[:1]:
        findings.append(Finding("control tag", where, f"{name} contains {tag}; write no tags"))
    markers = _MARKER.findall(text)
    if markers != list(nested):
        wanted = ", ".join(map(_marker, nested)) or "none"
        found = ", ".join(map(_marker, markers)) or "none"
        reason = f"{name} has these lines for finished parts: {found}; it must have: {wanted}"
        findings.append(Finding("nested block", where, reason))
    elif "[[block" in _MARKER.sub("", text):
        findings.append(Finding("nested block", where, f"{name} has a changed line for a finished part: {shown(text)}"))
    return findings


def _on_lines(path: str) -> str:
    """The path with each marker on a line of its own."""
    pieces = [piece.strip() for piece in re.split(r"(\[\[block [\d.]+\]\])", path)]
    return "\n".join(piece for piece in pieces if piece)


def _body(path: str, written: Mapping[str, Block | None]) -> tuple[str | Block, ...]:
    return tuple(_entry(line, written) for line in path.split("\n"))


def _entry(line: str, written: Mapping[str, Block | None]) -> str | Block:
    if not (line.startswith("[[") and _MARKER.fullmatch(line)):
        return line
    block = written[line[8:-2]]
    assert block is not None  # markers exist only for blocks that were written
    return block


SCHEMA = table({"goals": array(TEXT), "paths": array(TEXT), "conclusion": TEXT})
"""JSON schema of the reply."""
