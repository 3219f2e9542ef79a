"""The judge: can a path be followed by somebody who is given it alone?"""

from __future__ import annotations

from mvjax.curator.production import Call, Problem
from mvjax.curator.stages.asking import Asking
from mvjax.curator.stages.replies import WRONG_TYPE, faulty, get, read_object
from mvjax.curator.stages.schema import FLAG, TEXT, table

STAGE = "judge"
SCHEMA = table({"followable": FLAG, "missing": TEXT})
"""JSON schema of the reply."""


def ask(asking: Asking, problem: Problem, where: str, prefix: str, outline: str, path: str) -> Call:
    """The call: question, text before the block, the path's outline and the path, nothing of its siblings."""
    text = asking.prompts.fill(
        STAGE, question=problem.question.strip(), prefix=prefix or "(nothing)", outline=outline, path=path
    )
    return asking.first(STAGE, where, text, SCHEMA)


def read(text: str) -> str:
    """What the path misses; "" where it can be followed.

    Raises:
      Faulty: the reply is not of the form, or says no and not why.
    """
    value = read_object(text)
    followable, missing = get(value, "followable", bool), " ".join(get(value, "missing", str).split())
    if followable:
        return ""
    if not missing:
        raise faulty(WRONG_TYPE, '"missing" is empty although "followable" is false; say what is missing')
    return missing
