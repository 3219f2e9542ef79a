"""An answer that is written down beforehand, played as an engine would make it: every running branch a token a step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

from plain_vocabulary import PlainVocabulary

from mvjax.engine.request import TokenUpdate
from mvjax.language.tags import TAGS

TOKEN = re.compile(r"\n|:|\.| ?[^\s:.]+| ")


@dataclass
class Block:
    """Outlines, paths (as many, or none: the block is abandoned) and a conclusion."""

    outlines: list[str]
    paths: list[list[str | Block]]
    conclusion: str = ""


@dataclass
class Answer:
    """A body, and how it ends."""

    body: list[str | Block]
    reason: str = "stop"
    cuts: dict[int, str] = field(default_factory=dict)
    """By number in the transcript."""


def words(text: str) -> list[str]:
    return TOKEN.findall(text)


def program(body: list[str | Block], inside: str = "") -> list[str | Block]:
    """The tokens of a segment, with its blocks where they fork."""
    made: list[str | Block] = []
    for item in body:
        if isinstance(item, str):
            made += words(item)
            continue
        made += ["<Parallel>", "\n", "<Goal>", "\n"]
        for number, outline in enumerate(item.outlines, start=1):
            made += ["<Outline>", "\n", *words(f"{inside}{number}: {outline}"), "\n", "</Outline>", "\n"]
        made += ["</Goal>", "\n"]
        if item.paths:
            made += [item, "<Conclusion>", "\n", *words(item.conclusion), "\n", "</Conclusion>", "\n"]
        made += ["</Parallel>", "\n"]
    return made


def vocabulary(*answers: Answer) -> PlainVocabulary:
    """All pieces of some answers."""
    pieces = {"\n": None, ":": None, ".": None}
    for answer in answers:
        for step in play(answer, 1, None):
            pieces |= {token: None for _, _, token in step}
    return PlainVocabulary([piece.encode() for piece in pieces if piece not in TAGS])


def play(answer: Answer, rows: int, most: int | None = None) -> Iterator[list[tuple[int, int, str]]]:
    """Steps: (number of the segment, its parent, token) of each branch that runs, `rows` of them at most."""
    programs = {0: program(answer.body)}
    parents, labels, at, waits, count = {0: -1}, {0: ""}, {0: 0}, {}, 1
    while any(at[number] < len(programs[number]) for number in programs):
        step = []
        for number in sorted(programs):
            if len(step) == rows or at[number] == len(programs[number]):
                continue
            if number in waits:
                if any(at[child] < len(programs[child]) for child in waits[number]):
                    continue
                del waits[number]
            token = programs[number][at[number]]
            at[number] += 1
            assert isinstance(token, str)
            step.append((number, parents[number], token))
            following = programs[number][at[number] :]
            if following and isinstance(following[0], Block):
                at[number] += 1
                waits[number] = range(count, count + len(following[0].paths))
                for path, child in enumerate(waits[number], start=1):
                    label = f"{labels[number]}{path}"
                    body = program(following[0].paths[path - 1], f"{label}.")
                    programs[child] = ["<Path>", "\n", *words(label), ":", *body, "\n", "</Path>", "\n"]
                    parents[child], labels[child], at[child] = number, f"{label}.", 0
                count += len(waits[number])
        yield step


def steps_until(answer: Answer, rows: int, segments: int) -> int:
    """Steps after which this number of branches has begun, the root included."""
    begun: set[int] = set()
    for number, step in enumerate(play(answer, rows), start=1):
        begun |= {segment for segment, _, _ in step}
        if len(begun) >= segments:
            return number
    raise AssertionError(f"there are {len(begun)} segments only")


def updates(answer: Answer, tokenizer: PlainVocabulary, rows: int = 16) -> Iterator[list[TokenUpdate]]:
    """The same as the engine tells it."""
    for step in play(answer, rows):
        yield [TokenUpdate(0, number, parent, [tokenizer.id_of(token.encode())]) for number, parent, token in step]


def result(answer: Answer, **more) -> SimpleNamespace:
    """What observers read of a result."""
    steps = list(play(answer, 64))
    timings = SimpleNamespace(queued=0.25, prefill=0.5, decode=2.0)
    tokens, path = sum(map(len, steps)), len(steps)
    made = {"reason": answer.reason, "cuts": answer.cuts, "new_tokens": tokens, "critical_path": path}
    made |= {"degree": tokens / path, "found": 3, "barred": 2, "abandoned": 0, "error": None, "timings": timings}
    return SimpleNamespace(**made | more)
