"""Pages of the KV streams: a page has one owner, is taken as a stream grows, and is given back at one point."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32

WASTE = 0
"""Page that nobody owns: unused entries of the table name it, and what is written there does not matter."""


class PagePool:
    """Which request owns which page.

    Attributes:
        pages: pages in all, the wasted one included.
        page_size: slots of a page.
    """

    def __init__(self, pages: int, page_size: int):
        self.pages, self.page_size = pages, page_size
        self._free = list(range(pages - 1, WASTE, -1))
        self._owned: dict[int, list[int]] = {}

    @property
    def free(self) -> int:
        """Pages that nobody owns."""
        return len(self._free)

    def count_for(self, slots: int) -> int:
        """Pages that this number of slots needs."""
        return -(-slots // self.page_size)

    def room(self, request_index: int) -> int:
        """Slots that a request has pages for."""
        return len(self._owned.get(request_index, ())) * self.page_size

    def reserve(self, request_index: int, slots: int) -> bool:
        """Give a request pages for this number of slots, or as many as are free; whether there were enough."""
        owned = self._owned.setdefault(request_index, [])
        while len(owned) < self.count_for(slots) and self._free:
            owned.append(self._free.pop())
        return len(owned) >= self.count_for(slots)

    def owned(self, request_index: int, width: int) -> Int32[np.ndarray, "M"]:
        """The pages of a request in order, `WASTE` behind them."""
        owned = self._owned.get(request_index, [])
        return np.array(owned + [WASTE] * (width - len(owned)), np.int32)

    def release(self, request_index: int) -> None:
        """Take all pages of a request back."""
        self._free += reversed(self._owned.pop(request_index, []))

    def table(self, requests: int, width: int) -> Int32[np.ndarray, "R M"]:
        """Page of each stretch of each request's stream."""
        return np.stack([self.owned(request_index, width) for request_index in range(requests)])
