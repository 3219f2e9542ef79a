"""The answers to one call, from their submission to the driver to their ends."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

from mvjax.engine import Limits, Mode, Prompt, Result, SamplingParams
from mvjax.serving.answer_text import AnswerText, BranchEvent, Piece
from mvjax.serving.driver import Driver
from mvjax.serving.errors import ENGINE_FAILED, SHUTS_DOWN, ApiError, as_api_error
from mvjax.serving.mailbox import Mailbox

logger = logging.getLogger("mvjax.serving")

LENGTH = ("tokens", "positions", "deadline")
"""Reasons of results for which clients read "length"."""


@dataclasses.dataclass(frozen=True)
class Question:
    """What one answer is asked for with."""

    prompt: Prompt
    limits: Limits
    sampling: SamplingParams
    mode: Mode


@dataclasses.dataclass
class Choice:
    """One answer."""

    index: int
    question: Question
    text: AnswerText
    ticket: int
    """The driver's."""
    made: int = 0
    """New tokens so far, of all branches."""
    content: str = ""
    reasoning: str = ""
    logprobs: list[Any] = dataclasses.field(default_factory=list)
    """Of the tokens of the content, as far as the call asked for them."""
    result: Result | None = None
    """When it has ended."""

    @property
    def finish_reason(self) -> str | None:
        """As clients read it; None: it goes on."""
        if self.result is None:
            return None
        return "length" if self.text.stopped is None and self.result.reason in LENGTH else "stop"

    def take(self, pieces: Sequence[Piece]) -> None:
        """Keep what became final."""
        for piece in pieces:
            if piece.kind == "content":
                self.content += piece.text
                self.logprobs += piece.logprobs or ()
            else:
                self.reasoning += piece.text


class Change(NamedTuple):
    """What is new of one answer."""

    choice: Choice
    pieces: list[Piece]
    """Text that is final."""
    events: list[BranchEvent]


class Generation:
    """Answers that are generated for one client.

    Args:
        questions: one for each answer.
        stop, branches: as for `AnswerText`.
        most_unread: tokens that may wait for the client; None: any number.
        deadline: seconds after which answers are wound up.

    Raises:
        UserError: a question that the engine cannot take, a full queue, a server that shuts down. Nothing runs then.
    """

    def __init__(
        self,
        driver: Driver,
        questions: Sequence[Question],
        *,
        request_id: str,
        stop: Sequence[str] = (),
        branches: Any = "apart",
        most_unread: int | None = None,
        deadline: float | None = None,
        text_options: dict[str, Any] | None = None,
    ):
        self.driver, self.mailbox = driver, Mailbox(most_unread)
        self.choices: list[Choice] = []
        try:
            for index, its in enumerate(questions):
                text = AnswerText(
                    driver.tokenizer,
                    its.prompt.last_position,
                    stop=stop,
                    branches=branches,
                    **(text_options or {}),
                )
                ticket = driver.submit(
                    its.prompt,
                    limits=its.limits,
                    sampling=its.sampling,
                    mode=its.mode,
                    deadline=deadline,
                    listener=self.mailbox.listener(index),
                    request_id=request_id,
                )
                self.choices.append(Choice(index, its, text, ticket))
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Nobody waits for the answers any more: what runs is dropped."""
        for choice in self.choices:
            if choice.result is None:
                self.driver.cancel(choice.ticket, drop=True)

    @property
    def ended(self) -> bool:
        """Whether all answers have."""
        return all(choice.result is not None for choice in self.choices)

    async def changes(self, seconds: float | None = None) -> AsyncIterator[Change | None]:
        """What happens, until all answers have ended; None where nothing did for this number of seconds.

        Raises:
            ApiError: an answer failed. The others are wound up.
        """
        try:
            while not self.ended:
                item = await self.mailbox.get(seconds)
                if item is None:
                    yield None
                    continue
                choice = self.choices[item.choice]
                if isinstance(item.news, Exception):
                    logger.error("answer %d of a call failed: %s", choice.index, item.news)
                    raise failure(item.news)
                if isinstance(item.news, Result):
                    check(item.news, choice)
                    pieces, events = choice.text.finish(item.news)
                    choice.result = item.news
                else:
                    choice.made += item.size
                    pieces, events = choice.text.add(item.news)
                    if choice.text.stopped is not None:
                        self.driver.cancel(choice.ticket, stopped=True)
                choice.take(pieces)
                yield Change(choice, pieces, events)
        finally:
            self.cancel()


def check(result: Result, choice: Choice) -> None:
    """Raise an ApiError where a result is no answer."""
    if result.reason == "failed" or result.error is not None:
        logger.error("an answer failed: %s", result.error)
        raise failure(result.error)
    if result.reason == "not finite":
        raise ApiError(500, "the model's logits are not finite numbers; the answer was given up", code="not_finite")
    if result.reason == "cancelled" and choice.text.stopped is None:
        raise ApiError(503, SHUTS_DOWN, code="shutting_down", Retry_After="1")


def failure(error: Exception | None) -> ApiError:
    """What a client is told of an answer that failed."""
    told = ApiError(500, ENGINE_FAILED, code="engine_failed") if error is None else as_api_error(error)
    return told if told.status_code != 500 else ApiError(500, ENGINE_FAILED, code="engine_failed")
