"""How fast an endpoint may be asked: requests and tokens per minute, and pauses that it asks for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

WINDOW = 60.0
"""Seconds that the limits are for."""


@dataclass
class Ticket:
    """A request that was let through."""

    time: float
    """When it was."""
    tokens: int
    """What it is counted as."""
    counted: bool = True
    """Whether the window still holds it."""


class Limiter:
    """Lets requests through, first come first served, never more than the limits in any window.

    Args:
      requests_per_minute, tokens_per_minute: 0 for no limit.
      clock, sleep: of the event loop; others for tests.
    """

    def __init__(
        self,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self.requests, self.tokens = requests_per_minute, tokens_per_minute
        self._clock, self._sleep = clock, sleep
        self._passed: deque[Ticket] = deque()
        self._used = 0
        self._turn, self._room = asyncio.Lock(), asyncio.Event()
        self._not_before = clock()

    async def wait(self, tokens: int) -> Ticket:
        """Wait for a turn. A request of more tokens than the limit goes alone in its window.

        Args:
          tokens: what the request may take at most; `correct` tells later what it took.
        """
        async with self._turn:
            while (delay := self._delay(tokens)) > 0:
                await self._nap(delay)
            ticket = Ticket(self._clock(), tokens)
            if self.requests or self.tokens:
                self._passed.append(ticket)
                self._used += tokens
            return ticket

    def correct(self, ticket: Ticket, tokens: int) -> None:
        """Count a request as what it took in truth, 0 where it came to nothing; whoever waits for that may go."""
        if ticket.counted:
            self._used += tokens - ticket.tokens
            ticket.tokens = tokens
            self._room.set()

    def pause(self, seconds: float) -> None:
        """Let nothing through for so long: the endpoint is asked too much."""
        self._not_before = max(self._not_before, self._clock() + seconds)

    def _delay(self, tokens: int) -> float:
        """Seconds until a request of this number of tokens may go; 0: now."""
        now = self._clock()
        while self._passed and self._passed[0].time + WINDOW <= now:
            oldest = self._passed.popleft()
            oldest.counted = False
            self._used -= oldest.tokens
        wait = self._not_before - now
        over = len(self._passed) + 1 - self.requests if self.requests else 0
        beyond = self._used + tokens - max(self.tokens, tokens) if self.tokens else 0
        for ticket in self._passed:
            if over <= 0 and beyond <= 0:
                break
            wait = max(wait, ticket.time + WINDOW - now)
            over, beyond = over - 1, beyond - ticket.tokens
        return wait

    async def _nap(self, seconds: float) -> None:
        """Sleep, but no longer than until there is more room."""
        self._room.clear()
        ends = [asyncio.ensure_future(end) for end in (self._sleep(seconds), self._room.wait())]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
