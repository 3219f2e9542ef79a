"""What the driver's thread has for one client: from its thread to the event loop, in order, and bounded."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import NamedTuple

from mvjax.engine import Result, TokenUpdate


class Item(NamedTuple):
    """What has happened to one of a client's answers."""

    choice: int
    """Which answer."""
    news: list[TokenUpdate] | Result | Exception
    """New tokens; or its end, with a result or because the engine died."""

    @property
    def size(self) -> int:
        """Tokens."""
        return sum(len(update.tokens) for update in self.news) if isinstance(self.news, list) else 0


class Mailbox:
    """A queue with one writer, the driver's thread, and one reader, a task of the event loop that made it.

    Args:
        most_unread: tokens that may wait; None: any number.

    Attributes:
        overflowed: more came than that. What came then is lost.
        on_overflow: called on the loop when that happens.
    """

    def __init__(self, most_unread: int | None):
        self.overflowed = False
        self.on_overflow: Callable[[], object] = lambda: None
        self._most, self._unread = most_unread, 0
        self._loop = asyncio.get_running_loop()
        self._items: collections.deque[Item] = collections.deque()
        self._arrived = asyncio.Event()

    def listener(self, choice: int) -> ChoiceListener:
        """Who listens to the driver for one answer."""
        return ChoiceListener(self, choice)

    def post(self, item: Item) -> None:
        """Put an item in, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._put, item)
        except RuntimeError:  # The loop has ended, and with it the client.
            return

    def _put(self, item: Item) -> None:
        if self.overflowed:
            return
        self._unread += item.size
        if self._most is not None and self._unread > self._most:
            self.overflowed = True
            self._items.clear()
            self.on_overflow()
            return
        self._items.append(item)
        self._arrived.set()

    async def get(self, seconds: float | None = None) -> Item | None:
        """The next item; None where none comes within this time."""
        while not self._items:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), seconds)
            except TimeoutError:
                return None
        item = self._items.popleft()
        self._unread -= item.size
        return item


class ChoiceListener:
    """The driver's `Listener` for one answer."""

    def __init__(self, mailbox: Mailbox, choice: int):
        self._mailbox, self._choice = mailbox, choice

    def tokens(self, updates: list[TokenUpdate]) -> None:
        self._mailbox.post(Item(self._choice, updates))

    def ended(self, result: Result) -> None:
        self._mailbox.post(Item(self._choice, result))

    def failed(self, error: Exception) -> None:
        self._mailbox.post(Item(self._choice, error))
