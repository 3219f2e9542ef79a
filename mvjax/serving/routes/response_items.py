"""The output of a response, item by item: reasoning items for branches, a message for the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mvjax.serving.answer_text import Piece

Event = tuple[str, dict[str, Any]]
"""Type of an event, and what it holds beside that."""


class Items:
    """Takes text that is final, gives the events of a stream, and holds the items as they are.

    Args:
        name: of the response; items are named after it.
    """

    def __init__(self, name: str):
        self._name, self._ended = name, False
        self.items: list[dict[str, Any]] = []
        self._places: dict[str | None, int] = {}
        """Place of the open item of each branch by its address; None: of the message."""

    def take(self, piece: Piece) -> Iterator[Event]:
        """Text that is final."""
        if not piece.text:
            return
        address = None if piece.kind == "content" else piece.address
        yield from self._close_paths(address)
        if address not in self._places:
            yield from self._open(address)
        place = self._places[address]
        part = self.items[place]["content"][0]
        part["text"] += piece.text
        where = self._where(place)
        if address is None:
            yield "response.output_text.delta", {**where, "delta": piece.text, "logprobs": []}
        else:
            yield "response.reasoning_text.delta", {**where, "delta": piece.text}

    def end(self, complete: bool) -> Iterator[Event]:
        """No more text comes. There is a message, be it empty. A second call does nothing."""
        if self._ended:
            return
        self._ended = True
        if None not in self._places:
            yield from self._open(None)
        for address in list(self._places):
            yield from self._close(address, complete)

    def _close_paths(self, address: str | None) -> Iterator[Event]:
        """A path has ended where text of another branch comes, unless that is one of its own."""
        for other in list(self._places):
            if other and other != address and not (address or "").startswith(f"{other}/"):
                yield from self._close(other, True)

    def _open(self, address: str | None) -> Iterator[Event]:
        place = self._places[address] = len(self.items)
        if address is None:
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item = {"type": "message", "id": f"msg_{self._name}", "role": "assistant", "status": "in_progress"}
        else:
            part = {"type": "reasoning_text", "text": ""}
            its = {"summary": [], "address": address}
            item = {"type": "reasoning", "id": f"rs_{self._name}_{place}", "status": "in_progress", **its}
        self.items.append({**item, "content": [part]})
        yield "response.output_item.added", {"output_index": place, "item": {**item, "content": []}}
        yield "response.content_part.added", {**self._where(place), "part": dict(part)}

    def _close(self, address: str | None, complete: bool) -> Iterator[Event]:
        place = self._places.pop(address)
        item = self.items[place]
        item["status"] = "completed" if complete else "incomplete"
        part, where = item["content"][0], self._where(place)
        if address is None:
            yield "response.output_text.done", {**where, "text": part["text"], "logprobs": []}
        else:
            yield "response.reasoning_text.done", {**where, "text": part["text"]}
        yield "response.content_part.done", {**where, "part": dict(part)}
        yield "response.output_item.done", {"output_index": place, "item": {**item, "content": [dict(part)]}}

    def _where(self, place: int) -> dict[str, Any]:
        return {"item_id": self.items[place]["id"], "output_index": place, "content_index": 0}
