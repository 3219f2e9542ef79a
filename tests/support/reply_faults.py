"""Faults of the scripted model: each makes a faulty reply out of the right one, as JSON values or text."""

import json
import re
from collections.abc import Callable
from typing import Any

TREES = re.compile(r"= (\d+) trees")
"""A result in a made-up trace."""


def _with(value: dict, **entries) -> dict:
    return {**value, **entries}


def _scattered(value: dict) -> dict:
    first, *rest = value["groups"]
    return _with(value, groups=[_with(first, branches=[["S1"], first["branches"][-1]]), *rest])


def _dependent(value: dict) -> dict:
    if "needs" in value:
        first, second, *_ = (branch[0] for branch in value["groups"][0]["branches"])
        return _with(value, needs={**value["needs"], second: [*value["needs"][second], first]})
    sibling = (TREES.findall(value["paths"][0]) or ["5"])[-1]
    return _with(
        value,
        paths=[value["paths"][0], f"As path 1 shows, it has {sibling} trees. {value['paths'][1]}", *value["paths"][2:]],
    )


def _missing(value: dict) -> dict:
    if "structure" in value:
        return _with(value, structure=value["structure"][:-1])
    return _with(value, refill={**value["refill"], list(value["refill"])[-1]: ""})


def _one_missing(value: dict) -> dict:
    fullest = max(value["refill"], key=lambda label: len(value["refill"][label]))
    kept = value["refill"][fullest].split(", ")
    return _with(value, refill={**value["refill"], fullest: ", ".join([kept[0], *kept[2:]])})


def _swapped(value: dict) -> dict:
    ends = next(iter(value["refill"])), list(value["refill"])[-1]
    return _with(
        value, refill={**value["refill"], ends[0]: value["refill"][ends[1]], ends[1]: value["refill"][ends[0]]}
    )


def _dropped_answer(value: dict) -> dict:
    wrong = (TREES.findall(value["paths"][0]) or ["0"])[-1]
    paths = [re.sub(r"\n?For the \w+ farm the answer is \d+\.", "", path) for path in value["paths"]]
    return _with(value, paths=paths, conclusion=f"{value['conclusion']} So the answer is {wrong}.")


FAULTS: dict[str, Callable[[dict], Any]] = {
    # Any stage.
    "malformed": lambda value: json.dumps(value)[:-2],
    "garbage": lambda value: "I am not sure what {you} mean.",
    "two objects": lambda value: json.dumps(value) * 2,
    "wrong type": lambda value: dict.fromkeys(value, 3),
    "empty": lambda value: "",
    "chatty": lambda value: f"<think>{{}}</think>Here it is:\n```json\n{json.dumps(value)}\n```\nDone.",  # no fault
    "refusal": lambda value: "I cannot help with that.",
    "cut": lambda value: json.dumps(value)[: len(json.dumps(value)) // 2],
    # tree
    "wrong label": lambda value: json.loads(json.dumps(value).replace('"S2"', '"S9"')),
    # groups
    "cycle": lambda value: _with(value, needs={**value["needs"], "S1": ["S2"], "S2": ["S1"]}),
    "later step": lambda value: _with(value, needs={**value["needs"], "S1": ["S2"]}),
    "unknown step": lambda value: _with(value, needs={**value["needs"], "S1": ["S99"]}),
    "forgotten step": lambda value: _with(value, needs={"S1": []}),
    "scattered": _scattered,
    "step twice": lambda value: _with(value, groups=[*value["groups"], value["groups"][0]]),
    "nothing": lambda value: _with(value, groups=[]),
    # groups, paths
    "dependent": _dependent,
    # structure, refill
    "missing": _missing,
    # structure
    "all sequential": lambda value: {"structure": _flat(value["structure"])},
    "unknown group": lambda value: {
        "structure": [{"parallel": [["S1"], ["S2"]], "reason": ""}, *value["structure"][2:]]
    },
    # refill
    "one missing": _one_missing,
    "invented": lambda value: _with(value, refill={**value["refill"], "S1": "1-9999"}),
    "sentence twice": lambda value: _with(value, refill={**value["refill"], "S1": "1-3"}),
    "swapped": _swapped,
    # paths
    "count": lambda value: _with(value, goals=value["goals"][:-1]),
    "tag": lambda value: _with(value, paths=[f"{value['paths'][0]} </Path>", *value["paths"][1:]]),
    "lost numbers": lambda value: _with(
        value, paths=[re.sub(r"\d+(?![\d.]*\]\])", "some", path) for path in value["paths"]]
    ),
    "invented numbers": lambda value: _with(value, paths=[f"{path} It is 987654." for path in value["paths"]]),
    "result in goal": lambda value: _with(
        value,
        goals=[f"{goal} ({(TREES.findall(path) or ['?'])[-1]})" for goal, path in zip(value["goals"], value["paths"])],
    ),
    "lost block": lambda value: _with(value, paths=[re.sub(r"\[\[.*?\]\]", "", path) for path in value["paths"]]),
    "dropped answer": _dropped_answer,
    # judge
    "no": lambda value: {"followable": False, "missing": "the number of rows"},
}
"""By name: from the right reply to a faulty one."""


def _flat(entries):
    return [
        node
        for entry in entries
        for node in (
            [step for branch in entry["parallel"] for step in _flat(branch)]
            if "parallel" in entry
            else [_with(entry, inside=_flat(entry["inside"]))]
        )
    ]
