"""Reading replies: the one JSON object that is there, and values of the right type out of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mvjax.curator.production import Finding
from mvjax.language import TAGS

MALFORMED = "malformed JSON"
WRONG_TYPE = "wrong type"
_THOUGHT = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
"""What ends the thoughts that a reasoning model writes before its reply."""
_BEGINS = re.compile(r"""\{\s{0,80}(?:["']|\w{1,80}\s{0,80}:)""")
"""What is meant to be an object, and no brace of a sentence."""
_LATEX = re.compile(r"\\(?<!\\\\)(?:\\\\)*([bfrt][a-z]+|n(?:eq|abla|otin|leq|geq|exists)(?![a-z]))")
"""LaTeX commands behind one backslash that JSON reads as an escape: `\\times` would become a tab and "imes"."""
_HALF = re.compile("[\ud800-\udfff]")
"""Half of a character, which no file can hold."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_TAG = re.compile("|".join(map(re.escape, TAGS)))
_KINDS = {str: "a string", bool: "true or false", list: "a list", dict: "an object"}


class Faulty(Exception):
    """A reply that cannot be accepted.

    Attributes:
      findings: what is wrong with it, at least one.
      rest: what can be used of it all the same; None where nothing can.
    """

    def __init__(self, findings: Sequence[Finding], rest: Any = None):
        super().__init__("; ".join(map(str, findings)))
        self.findings = tuple(findings)
        self.rest = rest


def faulty(check: str, reason: str, where: str = "") -> Faulty:
    """The exception for one finding."""
    return Faulty((Finding(check, where, reason),))


def read_object(text: str) -> dict[str, Any]:
    """The JSON object of a reply, alone, in a fence, or with text around it.

    Raises:
      Faulty: there is none, or more than one; it is malformed, names a key twice, or holds text that is no text.
    """
    text = _THOUGHT.split(text)[-1]
    objects, at = [], 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if _BEGINS.match(text, at):
                raise faulty(MALFORMED, f"{error.msg} at line {error.lineno}, column {error.colno}") from error
            at += 1  # a brace of the text around
            continue
        except RecursionError as error:
            raise faulty(MALFORMED, "nested too deep") from error
        except ValueError as error:
            raise faulty(MALFORMED, "a number that is too long") from error
        objects.append((value, text[at:end]))
        at = end
    if len(objects) != 1:
        found = "no JSON object" if not objects else f"{len(objects)} JSON objects"
        raise faulty(MALFORMED, f"the reply holds {found}; it must be one JSON object")
    value, raw = objects[0]
    _check_text(raw, value)
    return value


def get(value: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
    """Entry of an object, which must be there and of a type (str, bool, list, dict).

    Raises:
      Faulty: it is not.
    """
    if key not in value:
        raise faulty(WRONG_TYPE, f'"{key}" is missing', where)
    return typed(value[key], kind, f'"{key}"', where)


def typed(value: Any, kind: type, name: str, where: str = "") -> Any:
    """A value that must be of a type.

    Raises:
      Faulty: it is not.
    """
    if type(value) is not kind:
        raise faulty(WRONG_TYPE, f"{name} must be {_KINDS[kind]}", where)
    return value


def texts(value: Sequence[Any], name: str) -> list[str]:
    """A list that must hold strings.

    Raises:
      Faulty: it does not.
    """
    return [typed(entry, str, f"entry {number} of {name}") for number, entry in enumerate(value, 1)]


def tags_in(text: str) -> list[tuple[int, str]]:
    """The control tags that a text spells, each with the place of its first character, in order."""
    return [(match.start(), match[0]) for match in _TAG.finditer(text)]


def shown(text: str, limit: int = 60) -> str:
    """A text in one line and quotes, cut at a limit."""
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= limit else f'"{line[: limit - 3]}..."'


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise faulty("key twice", f"the key {shown(twice)} stands twice in one object")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _check_text(raw: str, value: Any) -> None:
    if "\\" not in raw and raw.isascii():
        return
    for match in _LATEX.finditer(raw):
        raise faulty(MALFORMED, f"\\{match[1]} with one backslash; in a JSON string write \\\\{match[1]}")
    for text in _strings(value):
        if _HALF.search(text):
            raise faulty(MALFORMED, "half of a \\u pair; write the character itself")
        if _CONTROL.search(text):
            raise faulty(MALFORMED, "a control character in a string; write a backslash as two")


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
