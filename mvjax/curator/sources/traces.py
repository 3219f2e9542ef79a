"""Reasoning traces out of JSON Lines files of any layout, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvjax.curator.production import Problem
from mvjax.data.records import Fault, open_input

USUAL: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "uid", "problem_id"),
    "question": ("question", "problem", "prompt", "query"),
    "reasoning": ("reasoning", "deepseek_thinking_trajectory", "thinking_trajectory", "reasoning_content", "trace"),
    "answer": ("answer", "final_answer", "expected_answer", "solution"),
    "attempt": ("attempt", "deepseek_attempt", "response"),
}
"""The keys that are tried where none is named; the layout of s1K-1.1 is among them."""
REQUIRED = ("question", "reasoning")
MAX_LINE = 64 << 20
"""Bytes of a line at most."""


@dataclass(frozen=True)
class Fields:
    """Keys of the JSON objects; "": the usual ones are tried."""

    id: str = ""
    """Name of the problem; without one it is named after its line."""
    question: str = ""
    """What was asked."""
    reasoning: str = ""
    """The reasoning."""
    answer: str = ""
    """The final answer; there may be none."""
    attempt: str = ""
    """What the model answered its user after its reasoning; there may be none."""
    meta: tuple[str, ...] = ()
    """Further keys that are kept in the record's `meta`."""


def read_problems(
    path: str | Path, fields: Fields = Fields(), *, limit: int | None = None
) -> Iterator[Problem | Fault]:
    """Problems of a JSON Lines file in its order, and a fault for each line that holds none; read as they are wanted.

    Args:
      path: a UTF-8 file, one JSON object a line; empty lines are passed over.
      limit: how many lines to take at most.
    Raises:
      UserError: the file cannot be read.
    """
    path = Path(path)
    taken = number = 0
    with open_input(path) as file:
        while (limit is None or taken < limit) and (line := file.readline(MAX_LINE)):
            number += 1
            place = f"{path.name}:{number}"
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield Fault(place, f"the line is longer than {MAX_LINE >> 20} MiB")
            elif line.strip():
                yield _problem(line, f"{path.stem}-{number}", place, fields)
            else:
                continue
            taken += 1


def _problem(line: bytes, name: str, place: str, fields: Fields) -> Problem | Fault:
    try:
        value = json.loads(line.decode("utf-8-sig"))
        if not isinstance(value, dict):
            return Fault(place, "not a JSON object")
        texts = {key: _text(value, key, getattr(fields, key)) for key in USUAL}
        meta = {key: _entry(value, key) for key in fields.meta}
    except UnicodeDecodeError as error:
        return Fault(place, f"not UTF-8 text (byte {error.start + 1} of the line); save the file as UTF-8")
    except json.JSONDecodeError as error:
        return Fault(place, f"not JSON ({error.msg} at column {error.colno})")
    except RecursionError:
        return Fault(place, "JSON nested too deep")
    except ValueError as error:
        return Fault(place, str(error))
    return Problem(**{**texts, "id": texts["id"] or name}, meta=meta)


def _text(value: Mapping[str, Any], what: str, key: str) -> str:
    """The text of a field; "" where it is optional and not there. Raises ValueError, saying what is wrong."""
    if key:
        found = _entry(value, key)
    else:
        key = next((key for key in USUAL[what] if value.get(key) is not None), "")
        if not key and what in REQUIRED:
            raise ValueError(f"no field with the {what}: none of {', '.join(USUAL[what])} is there; name yours")
        found = value.get(key, "")
    if found is None and what not in REQUIRED:
        return ""
    if isinstance(found, int | float) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str):
        raise ValueError(f"field {key!r} (the {what}) is no text")
    return found


def _entry(value: Mapping[str, Any], key: str) -> Any:
    if key not in value:
        raise ValueError(f"field {key!r} is missing; there are {', '.join(list(value)[:8]) or 'none'}")
    return value[key]
