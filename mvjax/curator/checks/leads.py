"""How a path begins: mere words of reasoning that go on from something said elsewhere."""

from __future__ import annotations

import re
from collections.abc import Set

from mvjax.curator.checks.views import stem

_INTERJECTION = re.compile(
    r"(?:\W*(?:ok|okay|great|alright|all right|good|right|well|now|so|fine)\b\s*[,.!:])*\s*", re.IGNORECASE
)
_LEAD = re.compile(r"[^,:;.!?=]*(?=[,:;.!?]|$)")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_TOPIC = re.compile(
    r"^(?:and|what about|how about|on to|next|now|repeat|again|also|finally|lastly|then)\b(?! (?:we|i|let|note|"
    r"the result)\b)|\b(?:forget|left with|remains?|repeat for|is left|next|turn)\b",
    re.IGNORECASE,
)
"""What turns to a topic, where nothing else is said than the topic."""
PLACES = frozenset(
    """with on in at for during if when while from to of each every by after before until the a an""".split()  # noqa: SIM905
)
"""First words of phrases that say when, where or for whom."""
_POINTING = frozenset(
    """next second secondly third thirdly fourth another other others again too also above before previous previously
    earlier same similar similarly rest remaining remainder over settled finished finish complete completed yet
    more already further latter former accordingly usual continue continuing moving proceed proceeding then
    afterwards subsequently likewise last final finally lastly back instead alternatively otherwise besides
    moreover furthermore meanwhile done ready onward onwards resume resuming""".split()  # noqa: SIM905
)
"""Words that go on from something else."""
_REASONING = _POINTING | frozenset(
    """a an the this that these those it its it's we i us our ours you my me let let's and or but so as of in on at
    to for from with by is are was were be been being has have had having do does did doing will would can could
    may might must shall should need needs want now here there up out off not no one two ones only just still all
    both what which how why where when while since because if than like about way time step steps part parts item
    items task tasks piece thing things case cases question problem half calculation computation multiplication
    division addition subtraction argument reasoning method approach procedure process technique formula idea
    result results work job point stage round numbers number values data consequence conclusion look looking take
    taking get getting go going goes come comes coming see seen know knowing treat handle find finding compute
    computing consider considering forget first hard harder hardest easy easier simple simpler short quick
    straightforward direct new different ok okay alright great good well right sure very quite rather almost
    nearly exactly simply immediately briefly far move separately directly apply applying use using repeat
    repeating try replacing inserting changing adapting adjusting swapping start starting begin beginning pass
    turning turn switch switching return returning side hand note noting""".split()  # noqa: SIM905
)
"""Words that say nothing of the problem."""


def lead(text: str) -> str:
    """What a sentence begins with, up to a comma or the like; "" where that says something."""
    interjection = _INTERJECTION.match(text)
    found = _LEAD.search(text, interjection.end() if interjection else 0)
    return found[0] if found else ""


def goes_on(text: str, goal: Set[str]) -> bool:
    """Whether a lead goes on from something, or turns to a topic, and says nothing else.

    Args:
      goal: stems of the path's own goal.
    """
    words = [word.lower() for word in _WORD.findall(text)]
    foreign = [word for word in words if word not in _REASONING]
    if words == ["at", "the", "same", "time"]:
        return False
    if len(words) <= 8 and not foreign and not _POINTING.isdisjoint(words):
        return True
    return len(words) <= 10 and bool(_TOPIC.search(text)) and all(stem(word) in goal for word in foreign)


def first_word(text: str) -> str:
    """In small letters; "" where there is none."""
    found = _WORD.search(text)
    return found[0].lower() if found else ""
