"""Pages of the KV streams: taken as a stream grows, given back at one point, shared where streams begin alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

WASTE = 0
"""Page that nobody holds: unused entries of the table name it, and what is written there does not matter."""


class PagePool:
    """Which requests hold which pages.

    A page is held by the requests in whose streams it stands. One that nobody holds is free, or it is kept for what it
    holds (`keep`), until pages are wanted: then the one that was let go first becomes free.

    Attributes:
        pages: pages in all, the wasted one included.
        page_size: slots of a page.
        table_RM: page of each stretch of each request's stream; the array is changed in place.
        forget: called with a page that was kept and is so no more.
    """

    def __init__(self, pages: int, page_size: int, requests: int, width: int):
        self.pages, self.page_size = pages, page_size
        self.table_RM: Int32[np.ndarray, "R M"] = np.full((requests, width), WASTE, np.int32)
        self.forget: Callable[[int], None] = lambda page: None
        self._free = list(range(pages - 1, WASTE, -1))
        self._held_P = np.zeros(pages, np.int32)
        self._count_R = np.zeros(requests, np.int32)
        self._keep_P = np.zeros(pages, bool)
        self._idle: dict[int, None] = {}
        """Pages that are kept and that nobody holds, in the order in which they were let go."""

    @property
    def free(self) -> int:
        """Pages that can be taken: nobody holds them."""
        return len(self._free) + len(self._idle)

    def count_for(self, slots: int) -> int:
        """Pages that this number of slots needs."""
        return -(-slots // self.page_size)

    def room(self, request_index: int) -> int:
        """Slots that a request has pages for."""
        return int(self._count_R[request_index]) * self.page_size

    def room_R(self) -> Int32[np.ndarray, "R"]:
        """The same of all requests."""
        return self._count_R * np.int32(self.page_size)

    def reserve(self, request_index: int, slots: int) -> bool:
        """Give a request pages for this number of slots, or as many as are free; whether there were enough."""
        wanted = min(self.count_for(slots), self.table_RM.shape[1])
        while (count := int(self._count_R[request_index])) < wanted:
            page = self._take()
            if page == WASTE:
                return False
            self._put(request_index, count, page)
        return slots <= self.room(request_index)

    def share(self, request_index: int, pages: Sequence[int], first: int = 0) -> None:
        """Pages that are kept or held by others, from a place of a request's stream on, instead of those it has there,
        if any."""
        for place, page in enumerate(pages, first):
            self._put(request_index, place, page)

    def own(self, request_index: int, place: int) -> int:
        """A page of its own for a request instead of a shared one, which is returned; `WASTE`: there is none."""
        shared, page = int(self.table_RM[request_index, place]), self._take()
        if page == WASTE:
            return WASTE
        self._put(request_index, place, page)
        return shared

    def owned(self, request_index: int) -> Int32[np.ndarray, " M"]:
        """The pages of a request, in order."""
        return self.table_RM[request_index, : self._count_R[request_index]].copy()

    def release(self, request_index: int) -> None:
        """A request lets all its pages go."""
        pages = self.owned(request_index).tolist()
        self.table_RM[request_index] = WASTE
        self._count_R[request_index] = 0
        for page in reversed(pages):  # The end of a stream is of less use to others than its beginning.
            self._let_go(page)

    def keep(self, page: int) -> None:
        """From now on a page that a request holds is kept where nobody holds it."""
        self._keep_P[page] = True

    def _put(self, request_index: int, place: int, page: int) -> None:
        """A page at a place of a request's stream, instead of the one there, if any."""
        self._idle.pop(page, None)
        self._held_P[page] += 1
        before = int(self.table_RM[request_index, place])
        self.table_RM[request_index, place] = page
        if before == WASTE:
            self._count_R[request_index] = place + 1
        else:
            self._let_go(before)

    def _let_go(self, page: int) -> None:
        self._held_P[page] -= 1
        if not self._held_P[page]:
            if self._keep_P[page]:
                self._idle[page] = None
            else:
                self._free.append(page)

    def _take(self) -> int:
        """A page that nobody holds; `WASTE`: there is none."""
        if self._free:
            return self._free.pop()
        page = next(iter(self._idle), WASTE)
        if page != WASTE:
            del self._idle[page]
            self._keep_P[page] = False
            self.forget(page)
        return page
