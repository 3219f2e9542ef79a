"""The Curator with a chat model: five stages from sequential reasoning to Map / Process / Reduce (arXiv 2506.09991,
section 5.1), then a judge.

    tree       an outline of the reasoning
    groups     what each step needs, and which neighbouring steps are independent
    structure  the outline with its parallel parts
    refill     every original sentence under its step, by number
    paths      for each block, inner ones first: goals, paths that stand alone, a conclusion
    judge      for each path, alone: can it be followed?

What is wrong with a reply goes back to its stage, `retries` times. Then a block falls back to its original sentences,
and a record to its original reasoning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mvjax.curator.checks import content
from mvjax.curator.checks import record as records
from mvjax.curator.production import Finding, Outcome, Problem, Production
from mvjax.curator.settings import Settings
from mvjax.curator.stages import draft as drafts
from mvjax.curator.stages import groups, refill, structure, tree
from mvjax.curator.stages.asking import Asking, EndpointFailed, Log, Talk, plainly
from mvjax.curator.stages.draft import Draft, Written
from mvjax.curator.stages.replies import Faulty, faulty
from mvjax.curator.stages.writing import Writer
from mvjax.curator.text import sentences
from mvjax.curator.text.transcript import multiverse
from mvjax.data.records import Record

BLOCKS, PATHS, SHARE = 3, 7, 0.5
"""What an estimate takes a trace to have: blocks, paths in all (arXiv 2506.09991, Table 1: 7.0), share of the text."""


def curate(problem: Problem, settings: Settings) -> Production:
    """Make a record of a problem; the outcome's stages are in the form of the replies, by stage and block.

    Raises:
      UserError: rapidfuzz is not installed.
    """
    log = Log()
    unusable = records.check_problem(problem, settings.max_characters)
    if unusable:
        log.findings += unusable
        return _rejected(unusable[0], log)
    content.distance("", "")  # a missing package is reported before anything is spent
    asking = Asking(settings.prompts, settings.retries, settings.max_tokens, log)
    pieces = sentences.split(problem.reasoning)
    try:
        parts = yield from _planned(asking, problem, pieces, settings)
        written = yield from Writer(asking, problem, pieces, settings).blocks(drafts.blocks(parts))
    except Faulty as error:
        return _sequential(problem, settings, error.findings[0], log)
    except EndpointFailed as error:
        log.findings.append(Finding("endpoint", "", str(error)))
        return _rejected(log.findings[-1], log)
    return _finished(problem, settings, parts, written, pieces, log)


def estimate(problem: Problem, settings: Settings, count_tokens: Callable[[str], int]) -> tuple[int, int, int]:
    """Calls, prompt tokens and completion tokens that a problem will take, none of its replies being faulty.

    How many blocks and paths a trace has is not known before: `BLOCKS` and `PATHS` are taken. What a model thinks
    before its replies is not counted.
    """
    if records.check_problem(problem, settings.max_characters):
        return 0, 0, 0
    own = {name: count_tokens(prompt.text) for name, prompt in settings.prompts.files.items()}
    question, reasoning = count_tokens(problem.question), count_tokens(problem.reasoning)
    n_sentences = len(sentences.split(problem.reasoning))
    steps = 3 + n_sentences // 5
    outline, graph, placed, filled = 30 * steps, 15 * steps + 120, 25 * steps, 12 * steps
    opened = own["system"] + question
    conversation = opened + own["tree"] + reasoning
    prompts = [conversation, conversation + outline + own["groups"]]
    prompts.append(prompts[1] + graph + own["structure"])
    prompts.append(opened + own["refill"] + reasoning + 4 * n_sentences + outline)
    in_branches = round(reasoning * SHARE)
    before = min(round(reasoning * (1 - SHARE)), round(settings.max_prefix * reasoning / len(problem.reasoning)))
    prompts += [opened + own["paths"] + before + in_branches // BLOCKS] * BLOCKS
    replies = outline + graph + placed + filled + in_branches + 60 * BLOCKS
    if settings.judge:
        prompts += [opened + own["judge"] + before + in_branches // PATHS] * PATHS
        replies += 15 * PATHS
    return len(prompts), sum(prompts), replies


def _planned(asking: Asking, problem: Problem, pieces: list[str], settings: Settings) -> Talk:
    """Stages 1 to 4: returns a draft with at least one block; raises Faulty where there is to be none."""
    stages = asking.log.stages
    outlining = tree.ask(asking, problem)
    outline = yield from asking.until(outlining, plainly(tree.read))
    stages["tree"] = tree.to_json(outline)
    grouping = groups.ask(asking, outlining, outline)
    try:
        grouped = yield from asking.until(grouping, plainly(lambda text: groups.read(text, outline)))
    except Faulty as error:
        if error.rest is None or not error.rest.groups:
            raise
        grouped = error.rest  # the groups that nothing was wrong with
        asking.log.less(error.findings[0])
    stages["groups"] = groups.to_json(grouped)
    if not grouped.groups:
        raise faulty("nothing parallel", "no steps are independent")
    placing = structure.ask(asking, grouping, outline, grouped)
    placed = yield from asking.until(placing, plainly(lambda text: structure.read(text, outline, grouped)))
    stages["structure"] = structure.to_json(placed)
    if not any(structure.forks(placed)):
        raise faulty("nothing parallel", "no group is worth working on in parallel")
    filling = refill.ask(asking, problem, outline, placed, pieces)
    filled = yield from asking.until(
        filling, plainly(lambda text: refill.read(text, placed, pieces, settings.distance))
    )
    asking.log.findings += filled.put_back
    stages["refill"] = refill.to_json(filled)
    return drafts.draft(placed, filled)


def _finished(
    problem: Problem, settings: Settings, parts: Draft, written: Written, pieces: list[str], log: Log
) -> Outcome:
    """The record with as many blocks as its checks let pass; the last ones are left out first, outer before inner."""
    kept = dict(written)
    for number in [number for number in reversed(list(written)) if written[number] is not None]:
        made = _record(problem, parts, kept, pieces)
        found = records.check(made)
        if not found:
            return _accepted(made, log.cause, log)
        log.findings += found
        log.less(found[0], number)
        kept[number] = None
    assert log.cause is not None  # it has no block: each one left out has its reason
    return _sequential(problem, settings, log.cause, log)


def _record(problem: Problem, parts: Draft, written: Written, pieces: list[str]) -> Record:
    body = drafts.body(parts, written, pieces)
    kinds = [f"{block.group.kind}, {block.group.case}" for block in drafts.kept(parts, written)]
    return _as_record(problem, multiverse(body), {"parallel": True, "blocks": len(kinds), "kinds": kinds})


def _sequential(problem: Problem, settings: Settings, cause: Finding, log: Log) -> Outcome:
    """The original reasoning as it is, or a rejection where settings do not want it."""
    made = _as_record(problem, problem.reasoning.strip(), {"parallel": False, "blocks": 0, "kinds": []})
    found = records.check(made)
    if found or settings.fallback == "reject":
        log.findings += found
        return _rejected((*found, cause)[0], log)
    return _accepted(made, cause, log)


def _accepted(made: Record, cause: Finding | None, log: Log) -> Outcome:
    why = (cause.check, str(cause)) if cause else ("", "")
    return Outcome(made, *why, tuple(log.findings), log.stages)


def _rejected(cause: Finding, log: Log) -> Outcome:
    return Outcome(None, cause.check, str(cause), tuple(log.findings), log.stages)


def thought(reasoning: str, attempt: str) -> str:
    """A response whose answer follows its reasoning, as the released code writes it, "Answer: " put in front of an
    answer that has none; the reasoning alone where there is no answer."""
    answer = attempt if "Answer:" in attempt else f"Answer: {attempt}"
    return f"<Think>\n{reasoning}\n</Think>\n\n{answer}" if attempt else reasoning


def _as_record(problem: Problem, body: str, meta: dict[str, Any]) -> Record:
    reasoning, attempt = problem.reasoning.strip(), problem.attempt.strip()
    return Record(
        id=problem.id,
        messages=({"role": "user", "content": problem.question.strip()},),
        response=thought(body, attempt),
        autoregressive=thought(reasoning, attempt),
        answer=problem.answer,
        source=problem.source,
        meta={**problem.meta, **meta},
    )
