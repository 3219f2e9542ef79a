"""Labels: which sentences of a raw trace are parallel branches, and of what kind; for `mvjax curate analyze`.

This is no stage of the curation. It is one call for a trace, and its result is an analysis, not a transcript.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mvjax.curator.production import Finding, Outcome, Problem, Production
from mvjax.curator.settings import Settings
from mvjax.curator.stages.asking import Asking, EndpointFailed, Log, plainly
from mvjax.curator.stages.groups import CASES
from mvjax.curator.stages.replies import Faulty, faulty, get, read_object, tags_in, texts, typed
from mvjax.curator.stages.schema import TEXT, array, one_of, table
from mvjax.curator.text import sentences
from mvjax.data.records import Record

STAGE = "labels"
SCHEMA = table(
    {
        "blocks": array(
            table(
                {
                    "kind": one_of(list(CASES)),
                    "case": one_of(list(dict.fromkeys(case for cases in CASES.values() for case in cases))),
                    "branches": array(TEXT),
                    "reason": TEXT,
                }
            )
        )
    }
)
_RANGE = re.compile(r"\s*(\d{1,9})(?:\s*[-–]\s*(\d{1,9}))?\s*")


def label(problem: Problem, settings: Settings) -> Production:
    """Label a trace. The outcome's record is the trace as it is; its stage `labels` holds what `read` returns."""
    pieces = sentences.split(problem.reasoning)
    if not pieces:
        return Outcome(None, "empty reasoning", "there is no reasoning to label")
    if spelt := tags_in(problem.reasoning):
        return Outcome(None, "control tag", f"the reasoning spells {spelt[0][1]} as text")
    asking = Asking(settings.prompts, settings.retries, settings.max_tokens, log := Log())
    numbered = "\n".join(f"{number}. {' '.join(piece.split())}" for number, piece in enumerate(pieces, 1))
    text = settings.prompts.fill(STAGE, question=problem.question, sentences=numbered)
    try:
        call = asking.first(STAGE, "", text, SCHEMA)
        blocks = yield from asking.until(call, plainly(lambda reply: read(reply, len(pieces))))
    except EndpointFailed as error:
        return Outcome(None, "endpoint", str(error), tuple(log.findings))
    except Faulty as error:
        return Outcome(None, error.findings[0].check, str(error.findings[0]), tuple(log.findings))
    return Outcome(_record(problem), findings=tuple(log.findings), stages={STAGE: {"blocks": blocks}})


def read(text: str, count: int) -> list[dict[str, Any]]:
    """The blocks of a reply about this number of sentences: {"kind", "case", "branches": [[first, last], ...]} each.

    Outer blocks come before those within.

    Raises:
        Faulty: it is not of the form asked for, or the blocks break its rules.
    """
    blocks, findings = [], []
    for number, entry in enumerate(get(read_object(text), "blocks", list), 1):
        where = f"block {number}"
        try:
            blocks.append(_block(typed(entry, dict, where), count, where))
        except Faulty as error:
            findings.extend(error.findings)
    findings.extend(_overlaps(blocks) if not findings else ())
    if findings:
        raise Faulty(findings)
    return sorted(blocks, key=lambda block: (block["branches"][0][0], -block["branches"][-1][1]))


def _block(entry: Mapping[str, Any], count: int, where: str) -> dict[str, Any]:
    kind, case = get(entry, "kind", str, where), get(entry, "case", str, where)
    if case not in CASES.get(kind, ()):
        listed = "; ".join(f"{kind}: {', '.join(cases)}" for kind, cases in CASES.items())
        raise faulty("unknown kind", f"there is no {kind}, {case}; the kinds and their cases are {listed}", where)
    spans = [_span(text, count, where) for text in texts(get(entry, "branches", list, where), "branches")]
    if len(spans) < 2:
        raise faulty("path count", "a block has two branches or more", where)
    for before, after in pairwise(spans):
        if after[0] != before[1] + 1:
            told = (
                f"branch {before[0]}-{before[1]} is followed by {after[0]}-{after[1]}; there may be no gap, no overlap"
            )
            raise faulty("not contiguous", told, where)
    return {"kind": kind, "case": case, "branches": spans}


def _span(text: str, count: int, where: str) -> list[int]:
    match = _RANGE.fullmatch(text)
    if not match:
        raise faulty("wrong type", f'a branch is written as "4-9" or "4", not {text[:40]!r}', where)
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= count:
        raise faulty("invented sentence", f"{text.strip()} is no range of the sentences 1-{count}", where)
    return [first, last]


def _overlaps(blocks: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Blocks that share sentences without one lying in a branch of the other."""
    findings = []
    for number, block in enumerate(blocks):
        for other in range(number):
            first, second = (block["branches"], blocks[other]["branches"])
            apart = first[-1][1] < second[0][0] or second[-1][1] < first[0][0]
            if not (apart or _within(first, second) or _within(second, first)):
                reason = f"overlaps block {other + 1}; it must lie apart, or as a whole within one branch of it"
                findings.append(Finding("overlapping blocks", f"block {number + 1}", reason))
    return findings


def _within(inner: Sequence[Sequence[int]], outer: Sequence[Sequence[int]]) -> bool:
    return any(first <= inner[0][0] and inner[-1][1] <= last for first, last in outer)


def _record(problem: Problem) -> Record:
    text = f"{problem.reasoning}\n\n{problem.attempt}" if problem.attempt else problem.reasoning
    return Record(
        id=problem.id,
        messages=({"role": "user", "content": problem.question},),
        response=text,
        autoregressive=text,
        answer=problem.answer,
        source=problem.source,
        meta={**problem.meta, "parallel": False},
    )
