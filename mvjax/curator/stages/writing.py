"""Writing the blocks of a draft: stage 5, the checks of its texts, and the judge, inner blocks first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mvjax.curator.checks import content, independence
from mvjax.curator.production import Finding, Problem
from mvjax.curator.settings import Settings
from mvjax.curator.stages import judge, paths, refill
from mvjax.curator.stages.asking import Asking, GivenUp, Talk, plainly, together
from mvjax.curator.stages.draft import DraftBlock, Written
from mvjax.curator.stages.paths import Branch, Paths
from mvjax.curator.stages.replies import Faulty
from mvjax.curator.text.transcript import Block

GAP = "\n[...]\n"
"""Marks where a text is shortened."""


class Writer:
    """Writes the blocks of one problem."""

    def __init__(self, asking: Asking, problem: Problem, sentences: Sequence[str], settings: Settings):
        self.asking, self.problem, self.sentences, self.settings = asking, problem, sentences, settings

    def blocks(self, blocks: Sequence[DraftBlock]) -> Talk:
        """Write blocks and those inside them, side by side where they do not enclose each other.

        Returns:
          them by number, inner ones before the one they are in; None for each that stays sequential.
        """
        written: dict[str, Block | None] = {}
        for found in (yield from together([self.block(block) for block in blocks])):
            written |= found
        return written

    def block(self, block: DraftBlock) -> Talk:
        """Write a block and those inside it."""
        written = yield from self.blocks(block.nested)
        prefix = refill.joined(block.before, self.sentences).strip()
        shown = shortened(prefix, self.settings.max_prefix)
        branches = paths.branches_of(block, written, self.sentences)
        followed: set[tuple[str, str]] = set()

        def accept(text: str) -> Talk:
            made = paths.read(text, block.number, branches)
            whole = made.block(written)
            findings = list(self.findings(block.number, made, whole, branches, prefix, written))
            if findings:
                raise Faulty(findings)
            if self.settings.judge:
                yield from self.judged(block.number, whole, shown, followed)
            return made, whole

        log = self.asking.log
        try:
            made, whole = yield from self.asking.until(
                paths.ask(self.asking, self.problem, block, shown, branches), accept
            )
        except Faulty as error:
            log.less(error.findings[0], block.number)
            return {**written, block.number: None}
        log.stages.setdefault("paths", {})[block.number] = paths.to_json(made)
        return {**written, block.number: whole}

    def findings(
        self, number: str, made: Paths, block: Block, branches: Sequence[Branch], prefix: str, written: Written
    ) -> Iterator[Finding]:
        """What is wrong with the texts of a block."""
        given = content.words(self.problem.question) | content.values(prefix)
        nested = [written[number] for branch in branches for number in branch.nested]
        inner = given.union(*(content.values(paths.plain(made)) for made in nested if made is not None))
        for place, branch in enumerate(branches):
            where, own = f"path {number}.{place + 1}", made.own(place)
            yield from content.check_path(branch.original, own, inner, self.settings.path_distance, where)
            yield from content.check_goal(made.goals[place], own, given, where)
        yield from content.check_conclusion(made.conclusion, made.paths, inner, f"block {number}")
        known = f"{self.problem.question}\n{prefix}"
        dependent = independence.check_block(block, known=known)
        if not dependent and self.settings.likelihood is not None:
            dependent = self.settings.likelihood.check(block, known)
        for finding in dependent:
            place = finding.where.removeprefix("path ")
            where = f"block {number}" if place == finding.where else f"path {number}.{place}"
            yield replace(finding, where=where)

    def judged(self, number: str, block: Block, prefix: str, followed: set[tuple[str, str]]) -> Talk:
        """Have the paths judged that are not in `followed`, goal and text.

        Raises:
          Faulty: a path cannot be followed.
          GivenUp: the judge gives no verdict.
        """
        told = {f"path {number}.{k}": (path.goal, paths.text(path)) for k, path in enumerate(block.paths, 1)}
        open_ones = [where for where in told if told[where] not in followed]
        talks = [self.verdict(where, prefix, *told[where]) for where in open_ones]
        missing = dict(zip(open_ones, (yield from together(talks))))
        followed.update(told[where] for where in open_ones if not missing[where])
        findings = [
            Finding("judge", where, f"read alone, it cannot be followed: {lacks}")
            for where, lacks in missing.items()
            if lacks
        ]
        if findings:
            raise Faulty(findings)

    def verdict(self, where: str, prefix: str, goal: str, text: str) -> Talk:
        """What a path lacks; "" where it can be followed."""
        call = judge.ask(self.asking, self.problem, where, prefix, goal, text)
        try:
            return (yield from self.asking.until(call, plainly(judge.read)))
        except Faulty as error:
            raise GivenUp(error.findings) from error


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: its beginning, and more of its end."""
    if len(text) <= most:
        return text
    return text[: most // 4].rstrip() + GAP + text[-(most - most // 4 - len(GAP)) :].lstrip()
