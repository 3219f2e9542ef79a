"""Whether a response's final answer is right: one grader for evaluation, curation and rewards.

`extraction` finds the answer, `normal` writes it in one way, `shapes` reads lists, tuples and intervals out of it,
`compare` compares them, `expressions` asks math-verify about what is left, in a process of its own (`worker`, `child`).
"""

from mvjax.grading.grader import Verdict, grade, grade_all
from mvjax.grading.kinds import KINDS, Kind, kind_of

RULES = 1
"""Rises when a verdict may change, so that outcomes of other rules are not mixed with new ones."""

__all__ = ["KINDS", "RULES", "Kind", "Verdict", "grade", "grade_all", "kind_of"]
