"""Pages of the requests' streams: a page has one owner, is taken as a stream grows, is given back at one point."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32

WASTE = 0
"""Page that nobody owns: unused entries of the table name it, and what is written there does not matter."""


class PagePool:
    """Who owns which page.

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
        """Pages that so many slots need."""
        return -(-slots // self.page_size)

    def room(self, place: int) -> int:
        """Slots that the request at a place has pages for."""
        return len(self._owned.get(place, ())) * self.page_size

    def reserve(self, place: int, slots: int) -> bool:
        """Give a request pages for so many slots, or as many as there are; whether there were enough."""
        owned = self._owned.setdefault(place, [])
        while len(owned) < self.count_for(slots) and self._free:
            owned.append(self._free.pop())
        return len(owned) >= self.count_for(slots)

    def owned(self, place: int, width: int) -> Int32[np.ndarray, "M"]:
        """The pages of a request in order, `WASTE` behind them."""
        owned = self._owned.get(place, [])
        return np.array(owned + [WASTE] * (width - len(owned)), np.int32)

    def release(self, place: int) -> None:
        """Take all pages of a request back."""
        self._free += reversed(self._owned.pop(place, []))

    def table(self, requests: int, width: int) -> Int32[np.ndarray, "R M"]:
        """Page of each stretch of each request's stream."""
        return np.stack([self.owned(place, width) for place in range(requests)])
