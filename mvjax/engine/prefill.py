"""Which tokens of which prompts the next call prefills: rows of equal length, of one prompt or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mvjax.engine.request import Request

ROW = 32
"""Tokens of a row where streams are contiguous; in pages it is one page, so that no two rows write to the same."""


class PrefillRow(NamedTuple):
    """Tokens of a prompt that are prefilled in one row of a call."""

    request_index: int
    request: Request
    offset: int
    """Of the first of them."""
    length: int


class CallSize(NamedTuple):
    """Static size of a call."""

    rows: int
    tokens: int
    """Of a row."""


def call_sizes(chunks: Sequence[int], page_size: int | None) -> list[CallSize]:
    """Sizes of the calls for `EngineConfig.prefill_chunks`, the smallest first."""
    row = page_size or ROW
    return sorted({CallSize(max(chunk // row, 1), row) for chunk in chunks})


def next_rows(waiting: Sequence[tuple[int, Request]], size: CallSize) -> list[PrefillRow]:
    """What a call of this size prefills: the first requests that wait (with their indices), as far as there are rows.

    Those whose prompts have a layout go one at a time: the hidden intervals of a call are those of one prompt.
    """
    rows: list[PrefillRow] = []
    for request_index, request in waiting:
        if rows and (request.prompt.laid_out or rows[0].request.prompt.laid_out):
            break
        offset = request.prefilled
        while offset < request.fed:
            if len(rows) == size.rows:
                return rows
            # To the end of a page at most, so that no two rows write to the same. What fills a row up is written too:
            # behind one that begins within a page, the next has to wait.
            skipped = offset % size.tokens
            length = min(size.tokens - skipped, request.fed - offset)
            rows.append(PrefillRow(request_index, request, offset, length))
            offset += length
            if skipped:
                break
    return rows
