"""A transcript on the terminal while it grows: text above, the paths of an open block side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from mvjax.language import tags

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
        outlines, in_conclusion, after_goal = 0, False, 0

        def flush(style: str = "") -> None:
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
            flush("bold" if in_conclusion else "dim" if outlines and not in_conclusion else "")
            if tag == tags.PARALLEL_OPEN:
                outlines = 0
                parts.append(Rule("Map", style="dim", align="left"))
            elif tag == tags.OUTLINE_CLOSE:
                outlines += 1
            elif tag == tags.GOAL_CLOSE:
                after_goal = 2
            elif tag == tags.CONCLUSION_OPEN:
                in_conclusion = True
                parts.append(Rule("Reduce", style="dim", align="left"))
            elif tag == tags.PARALLEL_CLOSE:
                in_conclusion, outlines = False, 0
                parts.append(Rule(style="dim"))
        if waiting and after_goal:
            parts.append(self.paths(tokens, waiting, width))
        flush("bold" if in_conclusion else "dim" if outlines else "")
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
