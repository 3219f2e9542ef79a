"""Producers and a client made up for tests of what drives them: replies are a function of what is asked."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from mvjax.curator.production import Call, Finding, Outcome, Problem, Reply
from mvjax.data.records import Record

MULTIVERSE = (
    "Let's think in parallel.\n<Parallel>\n<Goal>\n<Outline>\n1: Find a.\n</Outline>\n<Outline>\n2: Find b.\n"
    "</Outline>\n</Goal>\n<Path>\n1: a is one.\n</Path>\n<Path>\n2: b is two.\n</Path>\n<Conclusion>\nBoth.\n"
    "</Conclusion>\n</Parallel>\n"
)


def problem(number: int, **fields) -> Problem:
    """Problem number so-and-so."""
    given = {"id": f"p{number}", "question": f"What is {number}+1?", "reasoning": f"It is {number + 1}. Done."}
    return Problem(**{**given, "answer": str(number + 1), **fields})


def record(problem: Problem, parallel: bool = True) -> Record:
    """A record of a problem."""
    text = f"The answer is {problem.answer}."
    return Record(
        id=problem.id,
        messages=({"role": "user", "content": problem.question},),
        response=MULTIVERSE + text if parallel else text,
        autoregressive=problem.reasoning,
        answer=problem.answer,
        source=problem.source,
        meta={"parallel": parallel},
    )


def call(problem: Problem, stage: str, where: str = "", wording: str = "") -> Call:
    """A call whose text names what it is about."""
    content = f"{wording}{problem.id} {stage} {where}".rstrip()
    return Call(stage, where, ({"role": "user", "content": content},))


def produce(problem: Problem, wording: str = ""):
    """One call, then two at once, then a judge; what the replies say decides how it ends."""
    (first,) = yield (call(problem, "tree", wording=wording),)
    if first.finish == "failed":
        return Outcome(None, "endpoint", first.text)
    paths = yield tuple(call(problem, "paths", f"path {k}", wording) for k in (1, 2))
    (judged,) = yield (call(problem, "judge", wording=wording),)
    texts = [reply.text for reply in (first, *paths, judged)]
    if "reject" in first.text:
        return Outcome(None, "answer", "the answer is lost", (Finding("answer", "", "it is lost"),))
    return Outcome(record(problem, "sequential" not in first.text), stages={"texts": texts})


def ready(problem: Problem):
    """A producer that asks for nothing."""
    return Outcome(record(problem))
    yield


@dataclass
class Client:
    """Answers with what was asked; says how often each thing was asked, and how much was in flight at once."""

    answers: dict[str, Reply | BaseException] = field(default_factory=dict)
    """Other answers, by what is asked; an exception is raised."""
    asked: Counter = field(default_factory=Counter)
    """What was asked how often."""
    most: int = 0
    """Most calls in flight at once."""
    closed: bool = False
    hangs_on: str = ""
    """Calls whose text ends with this are never answered."""
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once such a call has come."""
    _now: int = 0

    async def preflight(self) -> None:
        """Nothing is wrong."""

    async def complete(self, call: Call) -> Reply:
        """The answer."""
        text = call.messages[-1]["content"]
        self.asked[text] += 1
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await asyncio.sleep(0)
            if self.hangs_on and text.endswith(self.hangs_on):
                self.hanging.set()
                await asyncio.Event().wait()
        finally:
            self._now -= 1
        answer = self.answers.get(text, Reply(f"re: {text}", prompt_tokens=10, completion_tokens=2))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def close(self) -> None:
        """Closed."""
        self.closed = True
