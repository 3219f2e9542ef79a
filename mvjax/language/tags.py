"""The twelve control tags of the Multiverse language (arXiv 2506.09991, section 4) and their ordinals."""

from __future__ import annotations

TAGS: tuple[str, ...] = (
    "<Think>",
    "</Think>",
    "<Parallel>",
    "</Parallel>",
    "<Goal>",
    "</Goal>",
    "<Outline>",
    "</Outline>",
    "<Path>",
    "</Path>",
    "<Conclusion>",
    "</Conclusion>",
)
"""The tags as text. A tag's place here is its ordinal, and the order in which a vocabulary gets them."""

(
    THINK_OPEN,
    THINK_CLOSE,
    PARALLEL_OPEN,
    PARALLEL_CLOSE,
    GOAL_OPEN,
    GOAL_CLOSE,
    OUTLINE_OPEN,
    OUTLINE_CLOSE,
    PATH_OPEN,
    PATH_CLOSE,
    CONCLUSION_OPEN,
    CONCLUSION_CLOSE,
) = range(len(TAGS))

TEXT = -1
"""The code of a token that is no tag."""

SEPARATOR = "\n"
"""What stands after a tag: each tag has a line of its own."""

LABEL_LIMIT = 16
"""The most tokens that the label of an outline or path may have."""
