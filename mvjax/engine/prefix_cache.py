"""Pages that later prompts may begin with: full pages of prompts, and the streams of finished answers.

A page of a prompt is known by all tokens up to its end, their positions and hidden intervals. A finished answer's
stream is known by prompt and answer in transcript order: its slots stand in another order, but whoever comes after them
sees them all, and keys carry their positions. The pages that were let go first are forgotten first (`PagePool`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from mvjax.engine.page_pool import PagePool
from mvjax.engine.prompt import Prompt


class Stream(NamedTuple):
    """What is kept of a finished answer."""

    pages: tuple[int, ...]
    """In order; the last of them may hold less than a page."""
    slots: int


class Found(NamedTuple):
    """The beginning of a prompt, found in pages."""

    pages: Sequence[int]
    """Full ones."""
    tail: int | None
    """A page whose first slots it begins with after those; None: no more."""
    slots: int
    """Tokens found."""


NOTHING = Found((), None, 0)


class PrefixCache:
    """Finds the beginnings of prompts in the pages of a pool."""

    def __init__(self, pool: PagePool, levels: int):
        """levels: interval levels of a prompt at most."""
        self.pool, self.levels = pool, levels
        self._page_of: dict[bytes, int] = {}
        self._stream_of: dict[bytes, Stream] = {}
        self._keys_of: dict[int, set[bytes]] = {}
        """Under which keys a page is known, by itself or as part of a stream."""
        self._lengths: dict[int, int] = {}
        """Of the streams, and how many have each."""
        pool.forget = self._forget

    def page_keys(self, prompt: Prompt, tokens: int) -> list[bytes]:
        """Keys of the full pages that the first so many tokens of a prompt fill."""
        columns_TC, size, keys = self.columns(prompt), self.pool.page_size, [b""]
        for start in range(0, tokens - size + 1, size):
            keys.append(digest(keys[-1] + columns_TC[start : start + size].tobytes()))
        return keys[1:]

    def find(self, prompt: Prompt, keys: Sequence[bytes], most: int) -> Found:
        """The longest known beginning of a prompt, of at most so many tokens.

        Args:
            keys: of its pages (`page_keys`).
        """
        pages = []
        for key in keys:
            if key not in self._page_of:
                break
            pages.append(self._page_of[key])
        size = self.pool.page_size
        found = Found(pages, None, size * len(pages))
        lengths = sorted(length for length in self._lengths if found.slots < length <= most)
        if not lengths:
            return found
        columns_TC, hashed, start = self.columns(prompt), stream_hash(), 0
        for length in lengths:  # One pass over the prompt, whatever the number of lengths.
            hashed.update(columns_TC[start:length].tobytes())
            start = length
            if (stream := self._stream_of.get(hashed.digest())) is not None:
                full, rest = divmod(length, size)
                found = Found(stream.pages[:full], stream.pages[full] if rest else None, length)
        return found

    def page(self, key: bytes) -> int | None:
        """The page known under a key."""
        return self._page_of.get(key)

    def add_page(self, key: bytes, page: int) -> None:
        """Know a page of a prompt, which its holder will not change any more."""
        if key not in self._page_of:
            self._page_of[key] = page
            self._know(page, key)

    def add_stream(self, transcript: Prompt, pages: Sequence[int]) -> None:
        """Know the stream of a finished answer, given prompt and answer in transcript order with their layout."""
        slots = len(transcript.tokens)
        hashed = stream_hash()
        hashed.update(self.columns(transcript).tobytes())
        key = hashed.digest()
        if slots and key not in self._stream_of:
            self._stream_of[key] = Stream(tuple(pages[: self.pool.count_for(slots)]), slots)
            self._lengths[slots] = self._lengths.get(slots, 0) + 1
            for page in self._stream_of[key].pages:
                self._know(page, key)

    def columns(self, prompt: Prompt) -> Int32[np.ndarray, "T C"]:
        """Token, position and hidden intervals of each token, alike however empty intervals are written."""
        start_ET, end_ET = np.zeros((2, self.levels, len(prompt.tokens)), np.int32)
        if prompt.hide_start is not None and prompt.hide_end is not None:
            depth = len(prompt.hide_start)
            start_ET[:depth], end_ET[:depth] = prompt.hide_start, prompt.hide_end
            start_ET, end_ET = (np.where(start_ET < end_ET, each_ET, 0) for each_ET in (start_ET, end_ET))
        tokens_T = np.asarray(prompt.tokens, np.int32)
        return np.ascontiguousarray(np.stack([tokens_T, prompt.position_array(), *start_ET, *end_ET], axis=1))

    def _know(self, page: int, key: bytes) -> None:
        self._keys_of.setdefault(page, set()).add(key)
        self.pool.keep(page)

    def _forget(self, page: int) -> None:
        """A page is taken for something else: what it is part of is known no more."""
        for key in self._keys_of.pop(page, ()):
            self._page_of.pop(key, None)
            stream = self._stream_of.pop(key, None)
            if stream is not None:
                self._lengths[stream.slots] -= 1
                if not self._lengths[stream.slots]:
                    del self._lengths[stream.slots]


def stream_hash() -> Any:
    """Of a stream's columns, which are to be added: no page of a prompt has the same key."""
    return hashlib.blake2b(b"stream", digest_size=16)


def digest(content: bytes) -> bytes:
    """A key that no two contents share."""
    return hashlib.blake2b(content, digest_size=16).digest()
