"""A transcript on the terminal while it grows: text above, the paths of an open block side by side."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from mvjax.files import atomic_path
from mvjax.language import tags

if TYPE_CHECKING:
    from mvjax.engine import Result

ROOT = 0
PATH_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


@dataclass
class SegmentTokens:
    """Tokens of one request by segment, in the order in which they came."""

    by_segment: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    children: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, segment: int, parent: int, token_ids: Iterable[int]) -> None:
        if segment not in self.by_segment and segment != ROOT:
            self.children[parent].append(segment)
            self.children[parent].sort()
        self.by_segment[segment].extend(token_ids)

    @classmethod
    def of_result(cls, result: Result) -> SegmentTokens:
        """All tokens of a finished request."""
        made = cls()
        for segment, parent in enumerate(result.parent.tolist()):
            made.add(segment, parent, result.tokens[result.segment == segment].tolist())
        return made


@dataclass
class LiveTree:
    """Turns the tokens made so far into something rich can draw.

    Attributes:
        decode: token ids -> text, tags as their names.
        tag_of: token id -> tag ordinal, or None for text.
        width: columns of the terminal.
    """

    decode: Callable[[list[int]], str]
    tag_of: Callable[[int], int | None]
    width: int

    def render(self, tokens: SegmentTokens, segment: int = ROOT, width: int | None = None) -> RenderableType:
        """Everything of one segment: text, blocks with their paths side by side, conclusions."""
        width = width or self.width
        parts: list[RenderableType] = []
        run: list[int] = []
        waiting = list(tokens.children[segment])
        outlines, after_goal, style = 0, 0, ""

        def flush() -> None:
            text = self.decode(run).strip("\n")
            if text.strip():
                parts.append(Text(text, style=style))
            run.clear()

        for token in tokens.by_segment[segment]:
            tag = self.tag_of(token)
            if after_goal:
                after_goal -= 1
                if tag == tags.PARALLEL_CLOSE:
                    after_goal = 0
                elif after_goal == 0:
                    parts.append(self.paths(tokens, waiting[:outlines], width))
                    del waiting[:outlines]
            if tag is None:
                run.append(token)
                continue
            flush()
            if tag == tags.PARALLEL_OPEN:
                outlines, style = 0, "dim"
                parts.append(Rule("Map", style="dim", align="left"))
            elif tag == tags.OUTLINE_CLOSE:
                outlines += 1
            elif tag == tags.GOAL_CLOSE:
                after_goal = 2
            elif tag == tags.CONCLUSION_OPEN:
                style = "bold"
                parts.append(Rule("Reduce", style="dim", align="left"))
            elif tag == tags.PARALLEL_CLOSE:
                outlines, style = 0, ""
                parts.append(Rule(style="dim"))
        if waiting and after_goal:
            parts.append(self.paths(tokens, waiting, width))
        flush()
        return Group(*parts)

    def paths(self, tokens: SegmentTokens, segments: list[int], width: int) -> RenderableType:
        """The paths of one block, as many side by side as fit."""
        if not segments:
            return Text("")
        side_by_side = max(1, min(len(segments), width // 26))
        column = width // side_by_side - 1
        panels = [
            Panel(
                self.render(tokens, segment, column - 4),
                title=f"path {number}",
                title_align="left",
                width=column,
                border_style=PATH_COLOURS[(number - 1) % len(PATH_COLOURS)],
            )
            for number, segment in enumerate(segments, start=1)
        ]
        return Group(Rule("Process", style="dim", align="left"), Columns(panels, padding=(0, 0)))


def write_svg(path: Path, picture: RenderableType, title: str, width: int) -> None:
    """A picture of what a terminal `width` columns wide would show; it needs no font from elsewhere."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(picture)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL)
    with atomic_path(path) as temporary:
        temporary.write_text(svg, encoding="utf-8")
