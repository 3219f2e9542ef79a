"""Who hears of requests: the one who waits for an answer, and those who watch them all."""

from __future__ import annotations

import time
from typing import Any, Protocol

from mvjax.engine import EngineStats, Result, TokenUpdate


class Listener(Protocol):
    """Who waits for an answer. Called on the driver's thread; must return at once."""

    def tokens(self, updates: list[TokenUpdate]) -> None:
        """New tokens of this request."""
        ...

    def ended(self, result: Result) -> None:
        """The request has ended, for whatever reason `Result` knows. Once, last."""
        ...

    def failed(self, error: Exception) -> None:
        """The engine died under it. Once, last, in place of `ended`."""
        ...


class Observer(Protocol):
    """Who watches all requests. Called on the driver's thread; must return at once."""

    def submitted(self, ticket: int, request_id: str, prompt_tokens: int) -> None:
        """A request has come; told before anything else of it."""
        ...

    def tokens(self, ticket: int, updates: list[TokenUpdate]) -> None:
        """New tokens of a request."""
        ...

    def ended(self, ticket: int, result: Result | None, error: Exception | None) -> None:
        """A request has ended with a result, or because the engine died."""
        ...

    def stay(self, stats: EngineStats, seconds: float) -> None:
        """The engine has taken a step, which took this long."""
        ...


class Job:
    """A request from `submit` to its end."""

    def __init__(self, ticket: int, request_id: str, prompt_tokens: int, arguments: dict[str, Any], listener: Listener):
        self.ticket, self.request_id, self.prompt_tokens = ticket, request_id, prompt_tokens
        self.arguments, self.listener = arguments, listener
        self.submitted = time.perf_counter()
        self.number: int | None = None
        """The engine's, once it has it."""
        self.cancelled = self.dropped = self.stopped = False
        self.announced = self.deaf = False
        """Observers know of it; its listener has failed and hears no more."""
