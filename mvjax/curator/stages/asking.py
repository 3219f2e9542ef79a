"""Asking until a reply can be used, and several such talks side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from mvjax.curator.production import Call, Finding, Reply, no_calls
from mvjax.curator.prompt_files import Prompts
from mvjax.curator.stages.replies import Faulty, faulty

Talk = Generator[tuple[Call, ...], tuple[Reply, ...], Any]
"""Yields calls, is sent their replies, returns a result."""
MOST_FINDINGS = 12
"""The most findings that are sent back."""
CUT_LIMIT = 2000
"""Characters of a cut reply that are shown to the model again."""


class EndpointFailed(Exception):
    """A reply that will not come; the message is what the endpoint said."""


class GivenUp(Faulty):
    """What it was about fails, and asking again would not help."""


@dataclass
class Log:
    """What happens on the way."""

    findings: list[Finding] = field(default_factory=list)
    """Everything that was found wrong, in order."""
    stages: dict[str, Any] = field(default_factory=dict)
    """Accepted results, as JSON values."""
    cause: Finding | None = None
    """The first thing for which the record is less parallel than was proposed."""

    def less(self, cause: Finding, block: str = "") -> None:
        """The record becomes less parallel; a block of it, by its number, stays sequential text."""
        self.cause = self.cause or cause
        if block:
            told = self.stages.setdefault("paths", {})
            told[block] = {**told.get(block, {}), "sequential": str(cause), "check": cause.check}


@dataclass(frozen=True)
class Asking:
    """How to ask."""

    prompts: Prompts
    retries: int
    """How often a call is made again, with what was wrong."""
    max_tokens: int
    """Most tokens of a reply."""
    log: Log

    def first(self, stage: str, where: str, text: str, schema: dict[str, Any]) -> Call:
        """The call that opens a conversation."""
        messages = ({"role": "system", "content": self.prompts.fill("system")}, {"role": "user", "content": text})
        return Call(stage, where, messages, schema, self.max_tokens)

    def next(self, before: Call, accepted: Any, stage: str, text: str, schema: dict[str, Any]) -> Call:
        """The call that goes on with a conversation; what was accepted takes the place of the replies before it."""
        reply = {"role": "assistant", "content": json.dumps(accepted, ensure_ascii=False)}
        messages = (*before.messages, reply, {"role": "user", "content": text})
        return Call(stage, before.where, messages, schema, self.max_tokens)

    def until(self, call: Call, accept: Callable[[str], Talk]) -> Talk:
        """Ask until a reply is accepted, each time with what was wrong with the one before.

        Args:
          accept: reads a reply's text, may ask other calls on the way, and returns the result or raises Faulty.
        Returns:
          the result.
        Raises:
          Faulty: the last one, where no reply was accepted.
          GivenUp: as `accept` raised it.
          EndpointFailed: a reply failed for good.
        """
        for left in range(self.retries, -1, -1):
            (reply,) = yield (call,)
            try:
                return (yield from accept(text_of(reply)))
            except GivenUp:
                raise
            except Faulty as error:
                found = tuple(
                    replace(finding, stage=finding.stage or call.stage, where=finding.where or call.where)
                    for finding in error.findings
                )
                self.log.findings += found
                if not left:
                    raise Faulty(found, error.rest) from error
                call = self._again(call, reply, found)
        raise AssertionError("unreachable")

    def _again(self, call: Call, reply: Reply, findings: Sequence[Finding]) -> Call:
        problems = "\n".join(f"- {finding}" for finding in findings[:MOST_FINDINGS])
        text = reply.text.strip() or "(no reply)"
        if reply.finish == "length" and len(text) > CUT_LIMIT:
            text = f"{text[:CUT_LIMIT]} [...]"
        more = (
            {"role": "assistant", "content": text},
            {"role": "user", "content": self.prompts.fill("again", problems=problems)},
        )
        return replace(call, messages=(*call.messages, *more), why=str(findings[0]))


def plainly(read: Callable[[str], Any]) -> Callable[[str], Talk]:
    """A reader that asks nothing, in the form that `until` wants."""

    def accept(text: str) -> Talk:
        yield from no_calls()
        return read(text)

    return accept


def together(talks: Sequence[Talk]) -> Talk:
    """Talks side by side: the calls that all of them wait for go out together. Returns their results in order."""
    results: list[Any] = [None] * len(talks)
    waiting: dict[int, tuple[Call, ...]] = {}

    def advance(place: int, replies: tuple[Reply, ...] | None) -> None:
        try:
            waiting[place] = next(talks[place]) if replies is None else talks[place].send(replies)
        except StopIteration as end:
            results[place] = end.value
            waiting.pop(place, None)

    for place in range(len(talks)):
        advance(place, None)
    while waiting:
        replies = iter((yield tuple(call for calls in waiting.values() for call in calls)))
        for place, calls in list(waiting.items()):
            advance(place, tuple(islice(replies, len(calls))))
    return results


def text_of(reply: Reply) -> str:
    """The text of a whole reply.

    Raises:
      Faulty: it is cut or refused.
      EndpointFailed: it failed for good.
    """
    if reply.finish == "failed":
        raise EndpointFailed(" ".join(reply.text.split()) or "no reply")
    if reply.finish == "refused":
        raise faulty("refused", "the task was refused; it is to be done as asked")
    if reply.finish == "length":
        raise faulty("cut reply", "the reply was cut because it was too long; be as short as the task allows")
    return reply.text
