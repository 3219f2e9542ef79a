"""How a record is made: a producer asks for calls, gets replies, and ends with an outcome.

A producer is a generator: it yields calls, is sent their replies, and returns an outcome. It is a pure function of the
problem, its settings and the replies, so whoever drives it (`mvjax.curator.run`) can stop anywhere and start it again
with the replies that are in the store. Producers without an LLM yield nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from mvjax.data.records import Record


@dataclass(frozen=True)
class Problem:
    """What goes into the curator."""

    id: str
    """Name, unique in a store."""
    question: str
    """What was asked. Never scanned for control tags."""
    reasoning: str
    """The sequential reasoning that is to become parallel."""
    answer: str = ""
    """The final answer as graded; "" where there is none to check."""
    attempt: str = ""
    """What the model answered its user after its reasoning; "" where reasoning and answer are one text."""
    source: str = "llm"
    """Where the problem comes from."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the source knows; goes into the record."""


@dataclass(frozen=True)
class Call:
    """One request to a chat model."""

    stage: str
    """Stage that asks: tree, groups, structure, refill, paths, judge, labels."""
    where: str
    """What it asks about, such as `block 1` or `path 1.2`; "" for the whole record."""
    messages: tuple[Mapping[str, str], ...]
    """{"role", "content"} each."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the reply, for endpoints that can hold a model to one."""
    max_tokens: int = 4096
    """Most tokens of the reply."""
    why: str = ""
    """Reason that the reply before this one was not accepted; "" for a first try."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what is asked: a stored reply belongs to this call and no other."""
        asked = json.dumps([self.stage, self.where, list(map(dict, self.messages))], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Reply:
    """What came back."""

    text: str
    """The message; where it failed for good, what the endpoint said."""
    finish: str = "stop"
    """stop: a whole message; length: cut; refused: the model or endpoint will not answer; failed: no tries left."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """From the request to the reply, waiting for the endpoint's limits not counted."""
    estimated: bool = False
    """Whether the tokens are an estimate, as the endpoint did not count them."""


@dataclass(frozen=True)
class Finding:
    """A check that something did not pass."""

    check: str
    """Class of reason, the same words each time: reasons are counted by it."""
    where: str
    """The part that it is about: `step S3`, `path 1.2`, `block 1`, `` for the whole record."""
    reason: str
    """What is wrong, in one line, worded so that a model can mend it."""
    stage: str = ""
    """Stage whose reply it was found in; "" for a check of a finished record."""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


@dataclass(frozen=True)
class Outcome:
    """How a problem ended: accepted with a record, or rejected with a reason."""

    record: Record | None
    """None: rejected. `meta["parallel"]` says whether anything in it is parallel."""
    check: str = ""
    """Class of reason of a rejection, or of why an accepted record is sequential or less parallel than proposed; "" if
    all went through."""
    reason: str = ""
    """The reason, in one line."""
    findings: tuple[Finding, ...] = ()
    """Everything that was found wrong on the way, in order, mended or not."""
    stages: Mapping[str, Any] = field(default_factory=dict)
    """Accepted result of each stage as JSON values, for `show` and `analyze`."""

    @property
    def state(self) -> str:
        """parallel, sequential or rejected."""
        if self.record is None:
            return "rejected"
        return "parallel" if self.record.meta.get("parallel") else "sequential"

    def to_json(self) -> str:
        """As one line of JSON; `from_json` gives the outcome back."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Outcome:
        """The outcome that `to_json` wrote."""
        fields = json.loads(text)
        if fields["record"] is not None:
            fields["record"]["messages"] = tuple(fields["record"]["messages"])
            fields["record"] = Record(**fields["record"])
        fields["findings"] = tuple(Finding(**finding) for finding in fields["findings"])
        return cls(**fields)


Production = Generator[tuple[Call, ...], tuple[Reply, ...], Outcome]
"""A producer at work. Calls of one yield may run at the same time; replies come back in their order."""


def no_calls() -> Generator[tuple[Call, ...], Any, None]:
    """For a producer that asks nothing: `yield from no_calls()` makes it a generator all the same."""
    yield from ()


def advance(production: Production, replies: tuple[Reply, ...] | None) -> tuple[Call, ...] | Outcome:
    """The next calls of a producer, or its outcome; replies to the calls before, None at the start."""
    try:
        return next(production) if replies is None else production.send(replies)
    except StopIteration as end:
        return end.value
