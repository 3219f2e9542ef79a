"""Made-up traces with nested groups, and a scripted chat model that plays the Curator's stages on them.

The model is a pure function of a call's messages. It plays every stage rightly, or with a fault that is switched on.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reply_faults import FAULTS, TREES

from mvjax.curator import prompt_files
from mvjax.curator.production import Call, Outcome, Problem, Reply, advance

_SYLLABLES = ("ba", "del", "fo", "gim", "hul", "ka", "lor", "mi", "nav", "pel", "ro", "sut", "tam", "vi", "wen", "zo")


def problem(
    number: int, *, farms: int = 3, nested: int = 1, details: int = 0, attempt: bool = False, closing: bool = True
) -> Problem:
    """A made-up trace, equal for equal arguments.

    Args:
      farms: branches of the outer group.
      nested: so many of the farms have two fields, which are a group of their own.
      details: further sentences for each farm or field.
      attempt: whether the answer is told apart from the reasoning.
      closing: whether the farms are summed up in the end; if not, the answer stands in the last branch.
    """
    names = [_name(number * farms + k) for k in range(farms)]
    given = iter(_factors(number))
    lines = [f"This is about the trees of {farms} farms. Each farm is counted by itself."]
    asked, totals = [], []
    for k, name in enumerate(names):
        places = (
            [f"north field of the {name} farm", f"south field of the {name} farm"] if k < nested else [f"{name} farm"]
        )
        if k < nested:
            lines.append(f"The {name} farm has a north field and a south field.")
        products = []
        for place in places:
            rows, trees = next(given)
            asked.append(f"The {place} has {rows} rows of {trees} trees.")
            lines.append(f"The {place} has {rows} rows of {trees} trees.")
            lines += [f"Nothing but trees of kind {_name(d)} grows on the {place}." for d in range(details)]
            lines.append(f"That makes {rows} * {trees} = {rows * trees} trees on the {place}.")
            products.append(rows * trees)
        if k < nested:
            lines.append(
                f"The fields of the {name} farm have {products[0]} + {products[1]} = {sum(products)} trees in all."
            )
        totals.append(sum(products))
    answer = sum(totals) if closing else totals[-1]
    if closing:
        lines.append(
            f"All farms together have {' + '.join(map(str, totals))} = {answer} trees. The answer is {answer}."
        )
    else:
        lines.append(f"For the {names[-1]} farm the answer is {answer}.")
    wanted = "are there in all" if closing else f"has the {names[-1]} farm"
    return Problem(
        id=f"farms-{number}",
        question=f"{' '.join(asked)} How many trees {wanted}?",
        reasoning="\n".join(lines),
        answer=str(answer),
        attempt=f"There are \\boxed{{{answer}}} trees." if attempt else "",
        source="made up",
        meta={"farms": farms},
    )


@dataclass(frozen=True)
class Model:
    """Answers calls of the Curator."""

    faults: Mapping[str, "str | Callable[[dict], Any]"] = field(default_factory=dict)
    """By stage: a name out of `FAULTS`, such as "malformed", or "malformed once" for the first try only; or a function
    from the right reply, as JSON values, to another one or to text."""

    def reply(self, call: Call | Sequence[Mapping[str, str]]) -> str:
        """The text of the reply to a call, or to its messages."""
        return self.answer(call).text

    def answer(self, call: Call | Sequence[Mapping[str, str]]) -> Reply:
        """The reply to a call, or to its messages: refused and cut ones are marked so."""
        messages = call.messages if isinstance(call, Call) else call
        place, stage = next(
            (place, _HEADINGS[line])
            for place in range(len(messages) - 1, -1, -1)
            if messages[place]["role"] == "user" and (line := messages[place]["content"].split("\n")[0]) in _HEADINGS
        )
        tries = (len(messages) - 1 - place) // 2
        right = PLAYED[stage](messages[: place + 1])
        fault = self.faults.get(stage)
        finish = "stop"
        if isinstance(fault, str):
            name, once = fault.removesuffix(" once"), fault.endswith(" once")
            fault = None if once and tries else FAULTS[name]
            finish = {"refusal": "refused", "cut": "length"}.get(name, "stop") if fault else "stop"
        value = fault(right) if fault else right
        text = value if isinstance(value, str) else json.dumps(value)
        words = sum(len(message["content"].split()) for message in messages)
        return Reply(text, finish, words, len(text.split()), 0.01)


def reply(messages: Sequence[Mapping[str, str]], body: Mapping[str, Any] | None = None) -> str:
    """What a model without faults replies, for a scripted endpoint."""
    return Model().reply(messages)


def drive(production, answer: Callable[[Call], Reply]):
    """Run a production to its end: the outcome, and all calls with their replies in order."""
    made, replies = [], None
    while not isinstance(calls := advance(production, replies), Outcome):
        replies = tuple(map(answer, calls))
        made += zip(calls, replies)
    return calls, made


def _name(number: int) -> str:
    first, second = divmod(number, len(_SYLLABLES))
    return (
        _SYLLABLES[first % len(_SYLLABLES)] + _SYLLABLES[second] + ("n" if first >= len(_SYLLABLES) else "")
    ).title()


def _factors(number: int):
    """Pairs of factors such that no factor, product or sum of a trace is another one's."""
    used: set[int] = set()
    for k in range(10_000):
        rows, trees = 11 + (number * 7 + k * 5) % 83, 101 + (number * 13 + k * 17) % 97
        if not used & {rows, trees, rows * trees}:
            used |= {rows, trees, rows * trees}
            yield rows, trees


# What the model reads out of a text, sentence by sentence.


def _place(sentence: str) -> tuple[str, str]:
    """Farm and part of it that a sentence is about; no farm: the beginning or the end."""
    if found := re.search(r"(\w+) field of the (\w+) farm", sentence):
        return found[2], found[1]
    if found := re.search(r"[Tt]he (\w+) farm has a north field", sentence):
        return found[1], "opening"
    if found := re.search(r"fields of the (\w+) farm", sentence):
        return found[1], "sum"
    if found := re.search(r"[Tt]he (\w+) farm", sentence):
        return found[1], "answer" if "answer" in sentence else ""
    return "", "end" if re.search(r"All farms|The answer", sentence) else "beginning"


def _farms(sentences: Sequence[str]) -> dict[str, list[str]]:
    """Farms in order, each with its parts."""
    farms: dict[str, list[str]] = {}
    for sentence in sentences:
        farm, part = _place(sentence)
        if farm and part not in ("", "opening", "answer") and part not in farms.setdefault(farm, []):
            farms[farm].append(part)
        elif farm:
            farms.setdefault(farm, [])
    return farms


def _labels(sentences: Sequence[str]) -> dict[tuple[str, str], str]:
    """Labels of steps by what they are about."""
    labels = {("", "beginning"): "S1"}
    farms = _farms(sentences)
    for number, (farm, parts) in enumerate(farms.items(), 2):
        labels[farm, "opening"] = labels[farm, ""] = f"S{number}"
        labels |= {(farm, part): f"S{number}.{k}" for k, part in enumerate(parts, 1)}
        labels[farm, "answer"] = f"S{number}.{len(parts)}" if parts else f"S{number}"
    if any(_place(sentence) == ("", "end") for sentence in sentences):
        labels["", "end"] = f"S{len(farms) + 2}"
    return labels


def _sentences(text: str, tag: str) -> list[str]:
    inside = text.partition(f"<{tag}>\n")[2].rpartition(f"\n</{tag}>")[0]
    if tag == "sentences":
        return re.findall(r"^\[\d+\] (.*)$", inside, re.MULTILINE)
    return re.findall(r"[^.\n]+\.", inside)


def _of_conversation(messages) -> list[str]:
    return next(
        _sentences(message["content"], "reasoning") for message in messages if "<reasoning>" in message["content"]
    )


# The stages.


def _tree(messages) -> dict:
    sentences = _of_conversation(messages)
    labels, steps = _labels(sentences), [{"label": "S1", "summary": "What it is about.", "steps": []}]
    for farm, parts in _farms(sentences).items():
        inner = [{"label": labels[farm, part], "summary": f"The {part} of {farm}."} for part in parts]
        steps.append({"label": labels[farm, ""], "summary": f"The {farm} farm.", "steps": inner})
    if ("", "end") in labels:
        steps.append({"label": labels["", "end"], "summary": "All farms.", "steps": []})
    return {"steps": steps}


def _groups(messages) -> dict:
    sentences = _of_conversation(messages)
    labels, farms = _labels(sentences), _farms(sentences)
    needs: dict[str, list[str]] = {label: [] for label in labels.values()}
    groups = []
    outer = [[labels[farm, ""]] for farm in farms]
    if len(outer) > 1:
        groups.append({"branches": outer, "kind": "collective", "case": "case study", "reason": "Farm by farm."})
    for farm, parts in farms.items():
        fields = [labels[farm, part] for part in parts if part != "sum"]
        if fields:
            needs[labels[farm, "sum"]] = fields
            group = {"branches": [[label] for label in fields], "kind": "collective", "case": "sub-task"}
            groups.append({**group, "reason": "Field by field."})
    if ("", "end") in labels:
        needs[labels["", "end"]] = [label for (label,) in outer]
    return {"needs": needs, "groups": groups}


def _structure(messages) -> dict:
    tree = json.loads(messages[-4]["content"])["steps"]
    known = [group["branches"] for group in json.loads(messages[-2]["content"])["groups"]]

    def arranged(steps):
        entries, place = [], 0
        labels = [step["label"] for step in steps]
        nodes = [{"step": step["label"], "inside": arranged(step.get("steps", []))} for step in steps]
        while place < len(steps):
            group = next((branches for branches in known if branches[0][0] == labels[place]), None)
            if group is None:
                entries.append(nodes[place])
                place += 1
                continue
            branches = []
            for branch in group:
                branches.append(nodes[place : place + len(branch)])
                place += len(branch)
            entries.append({"parallel": branches, "reason": "They do not need each other."})
        return entries

    return {"structure": arranged(tree)}


def _refill(messages) -> dict:
    sentences = _sentences(messages[-1]["content"], "sentences")
    labels = _labels(sentences)
    numbers: dict[str, list[int]] = {label: [] for label in labels.values()}
    for number, sentence in enumerate(sentences, 1):
        farm, part = _place(sentence)
        numbers[labels.get((farm, part), labels.get(("", "end"), "S1"))].append(number)
    return {"refill": {label: ", ".join(map(str, own)) for label, own in numbers.items()}}


def _paths(messages) -> dict:
    branches = re.findall(r'<branch number="\d+">\n(.*?)\n</branch>', messages[-1]["content"], re.DOTALL)
    goals, found = [], []
    for branch in branches:
        farm, part = _place(branch.split("\n")[0])
        place = f"{part} field of the {farm} farm" if part in ("north", "south") else f"{farm} farm"
        goals.append(f"Find the number of trees on the {place}.")
        found.append(f"{(TREES.findall(branch) or ['no'])[-1]} trees on the {place}")
    return {"goals": goals, "paths": branches, "conclusion": f"There are {', '.join(found)}."}


def _judge(messages) -> dict:
    return {"followable": True, "missing": ""}


PLAYED: dict[str, Callable] = {
    "tree": _tree,
    "groups": _groups,
    "structure": _structure,
    "refill": _refill,
    "paths": _paths,
    "judge": _judge,
    "labels": lambda messages: {"blocks": []},
}
"""By stage: from messages to the right reply."""

_HEADINGS = {prompt_files.load().files[stage].text.split("\n")[0]: stage for stage in PLAYED}
"""What a stage's question begins with."""
