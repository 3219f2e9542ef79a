"""The grammar of a transcript (arXiv 2506.09991, section 4): which tags may stand where.

    response   := Think? body
    Think      := "<Think>" body "</Think>"
    body       := (text | Parallel)*
    Parallel   := "<Parallel>" Goal Path{n} Conclusion "</Parallel>"          n >= 1
    Goal       := "<Goal>" Outline{n} "</Goal>"
    Outline    := "<Outline>" label ":" text "</Outline>"
    Path       := "<Path>" label ":" body "</Path>"
    Conclusion := "<Conclusion>" text "</Conclusion>"

What an interpreter makes from free-running logits is a little wider (`engine_output`): a block may have no path (it was
abandoned), fewer paths than outlines (it was cancelled), outlines without a label, and text beside the elements of a
map or after a conclusion. Training data may contain none of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache

from mvjax.language import tags

NONE = -1
"""Index of what a cut transcript does not reach."""


class Stand(IntEnum):
    """Where a block stands between two tags."""

    BLOCK = 0
    GOAL = 1
    OUTLINE = 2
    MAPPED = 3
    PATH = 4
    BETWEEN = 5
    CONCLUSION = 6
    CONCLUDED = 7


WORDS = (
    "after <Parallel>",
    "in <Goal>",
    "in <Outline>",
    "after </Goal>",
    "in <Path>",
    "after </Path>",
    "in <Conclusion>",
    "after </Conclusion>",
)
"""The stands for error messages."""

TAGS_ONLY = frozenset((Stand.BLOCK, Stand.GOAL, Stand.MAPPED, Stand.BETWEEN, Stand.CONCLUDED))
"""Where nothing but separators may stand between two tags."""


@cache
def allowed_in_block(stand: Stand, has_outlines: bool, more_paths: bool, engine_output: bool) -> tuple[int, ...]:
    """The tags that may come next in a block; `more_paths`: it has more outlines than paths so far."""
    match stand:
        case Stand.BLOCK:
            return (tags.GOAL_OPEN, tags.PARALLEL_CLOSE) if engine_output else (tags.GOAL_OPEN,)
        case Stand.GOAL:
            return (tags.OUTLINE_OPEN, tags.GOAL_CLOSE) if has_outlines or engine_output else (tags.OUTLINE_OPEN,)
        case Stand.OUTLINE:
            return (tags.OUTLINE_CLOSE,)
        case Stand.MAPPED:
            return (tags.PATH_OPEN,) * (more_paths or not engine_output) + (tags.PARALLEL_CLOSE,) * engine_output
        case Stand.PATH:
            return (tags.PARALLEL_OPEN, tags.PATH_CLOSE)
        case Stand.BETWEEN:
            return (tags.PATH_OPEN,) * more_paths + (tags.CONCLUSION_OPEN,) * (engine_output or not more_paths)
        case Stand.CONCLUSION:
            return (tags.CONCLUSION_CLOSE,)
        case Stand.CONCLUDED:
            return (tags.PARALLEL_CLOSE,)


@dataclass(slots=True)
class Span:
    """An element from its opening to its closing tag, as token indices; -1 for what is not reached."""

    open: int
    """Index of the opening tag."""
    close: int = NONE
    """Index of the closing tag."""
    colon: int = NONE
    """Outlines and paths: index of the token that ends the label, the first that contains ":"."""


@dataclass(slots=True)
class Block:
    """One `<Parallel>` block, as token indices; -1 or None for what is not reached."""

    open: int
    """Index of `<Parallel>`."""
    level: int
    """How many paths enclose the block."""
    stand: Stand = Stand.BLOCK
    """Where the block stands at the end of the transcript; without meaning once it is closed."""
    goal: Span | None = None
    outlines: list[Span] = field(default_factory=list)
    paths: list[Span] = field(default_factory=list)
    conclusion: Span | None = None
    close: int = NONE
    """Index of `</Parallel>`."""

    def allowed(self, engine_output: bool = False) -> tuple[int, ...]:
        """The tags that may come next in this block."""
        n_outlines = len(self.outlines)
        return allowed_in_block(self.stand, n_outlines > 0, len(self.paths) < n_outlines, engine_output)

    def take(self, index: int, code: int) -> None:
        """Move on over the tag at `index`, one of this block's own (not `<Parallel>`)."""
        match code:
            case tags.GOAL_OPEN:
                self.goal, self.stand = Span(index), Stand.GOAL
            case tags.OUTLINE_OPEN:
                self.outlines.append(Span(index))
                self.stand = Stand.OUTLINE
            case tags.OUTLINE_CLOSE:
                self.outlines[-1].close, self.stand = index, Stand.GOAL
            case tags.GOAL_CLOSE:
                self.goal.close, self.stand = index, Stand.MAPPED
            case tags.PATH_OPEN:
                self.paths.append(Span(index))
                self.stand = Stand.PATH
            case tags.PATH_CLOSE:
                self.paths[-1].close, self.stand = index, Stand.BETWEEN
            case tags.CONCLUSION_OPEN:
                self.conclusion, self.stand = Span(index), Stand.CONCLUSION
            case tags.CONCLUSION_CLOSE:
                self.conclusion.close, self.stand = index, Stand.CONCLUDED
            case tags.PARALLEL_CLOSE:
                self.close = index


def describe_expected(allowed: tuple[int, ...], block: Block | None, text: bool) -> str:
    """What the grammar allows, for an error message: "text, <Parallel> or </Path>"."""
    words = ["text"] if text else []
    for code in allowed:
        word = tags.TAGS[code]
        if code == tags.PATH_OPEN and block is not None:
            word += f" ({len(block.paths) + 1} of {len(block.outlines)})"
        words.append(word)
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def describe_found(code: int, block: Block | None, think_open: bool) -> str:
    """The tag found where it may not stand, and what makes it wrong where the tag alone does not say."""
    word = tags.TAGS[code]
    if block is None:
        if code == tags.THINK_OPEN:
            return f"{word} inside {word}" if think_open else f"{word} that does not begin the response"
        if code == tags.THINK_CLOSE:
            return f"{word} without {tags.TAGS[tags.THINK_OPEN]}"
        return f"{word} outside a block"
    if code == tags.PARALLEL_CLOSE and not block.paths:
        return f"{word} of a block without a path"
    if code == tags.PATH_OPEN and block.stand is Stand.BETWEEN:
        return f"{word} beyond the block's {len(block.outlines)} outlines"
    return f"{word} {WORDS[block.stand]}"
