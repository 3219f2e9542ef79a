"""Settings: dataclasses whose bounds are beside each field, and that may hold sections of further settings."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from mvjax.errors import UserError

INT32_MAX = 2**31 - 1
"""Whole numbers end up in int32 arrays."""
NOUNS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a string"}


def setting(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
    may_change: bool = False,
) -> Any:
    """A field of a settings dataclass.

    Args:
        above, at_least, at_most: bounds of a number, of each number of a tuple, or of each value of a mapping. A whole
            number without `at_most` must fit int32.
        note: what the bounds mean, for error messages.
        may_change: a run that is resumed may have another value: it changes the numbers by rounding at most.
    """
    metadata = {"above": above, "at_least": at_least, "at_most": at_most, "note": note, "may_change": may_change}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Leaf(NamedTuple):
    """One field of the settings or of one of their sections."""

    name: str
    """Dotted, such as `optimizer.learning_rate`."""
    value: Any
    kind: Any
    """The type annotation: int, float, bool, str, a Literal of strings, a tuple of one of them, a Mapping from ids to
    one of them, or one of them or None."""
    metadata: Mapping[str, Any]
    """As `setting` made it."""


hints_of = functools.cache(get_type_hints)
"""The type annotations of a class."""


def leaves(settings: Any, path: str = "") -> Iterator[Leaf]:
    """All fields, section by section."""
    hints = hints_of(type(settings))
    for field in dataclasses.fields(settings):
        name, value, kind = path + field.name, getattr(settings, field.name), hints[field.name]
        if not dataclasses.is_dataclass(kind):
            yield Leaf(name, value, kind, field.metadata)
        elif isinstance(value, kind):
            yield from leaves(value, name + ".")
        else:
            raise UserError(f"config: {name} = {shown(value)} must be a {kind.__name__}")


def validate(settings: Any, where: str = "config: ", bounds: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """UserError names the first field with a value of another type or beyond its bounds, or fields that contradict
    each other: a section with such rules has a method `conflict() -> str`, empty where all is well.

    Args:
        where: the beginning of the message.
        bounds: those of fields, by name, that hold here in place of their own.
    """
    for leaf in leaves(settings):
        its_bounds = {**leaf.metadata, **(bounds or {}).get(leaf.name, {})}
        if not is_valid(leaf.value, leaf.kind, its_bounds):
            raise UserError(f"{where}{leaf.name} = {shown(leaf.value)} must be {wanted(leaf.kind, its_bounds)}")
    sections = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for path, section in {"": settings, **sections}.items():
        if hasattr(section, "conflict") and (text := section.conflict()):
            raise UserError(f"{where}{path}{'.' * bool(path)}{text}")


def is_valid(value: Any, kind: Any, bounds: Mapping[str, Any]) -> bool:
    """Whether a value is of a field's type (numbers: Python's or NumPy's) and within its bounds."""
    if isinstance(kind, UnionType):
        return value is None or is_valid(value, get_args(kind)[0], bounds)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(is_valid(item, get_args(kind)[0], bounds) for item in value)
    if get_origin(kind) is Mapping:
        of_keys, of_values = get_args(kind)
        keys_valid = isinstance(value, Mapping) and all(is_valid(key, of_keys, {"at_least": 0}) for key in value)
        return keys_valid and all(is_valid(item, of_values, bounds) for item in value.values())
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind not in (int, float):
        return isinstance(value, kind)
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return False
    above, low, high = (bounds.get(name) for name in ("above", "at_least", "at_most"))
    high = (INT32_MAX if kind is int else sys.float_info.max) if high is None else high
    return (-high if low is None else low) <= value <= high and (above is None or value > above)  # NaN is not.


def wanted(kind: Any, bounds: Mapping[str, Any]) -> str:
    """What a field takes, in words."""
    if isinstance(kind, UnionType):
        return f"{wanted(get_args(kind)[0], bounds)}, or None"
    if get_origin(kind) is tuple:
        return f"a tuple, each item {wanted(get_args(kind)[0], bounds)}"
    if get_origin(kind) is Mapping:
        of_keys, of_values = get_args(kind)
        return f"a dict: each key {wanted(of_keys, {'at_least': 0})}; each value {wanted(of_values, bounds)}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    words, limits = [NOUNS[kind]], {"at_most": INT32_MAX} if kind is int else {}
    limits |= {name: value for name, value in bounds.items() if value is not None}
    for name, text in (("above", "greater than {}"), ("at_least", "{} or more"), ("at_most", "at most {}")):
        if name in limits:
            words.append(text.format(limits[name]))
    return ", ".join(words) + (f" ({bounds['note']})" if bounds.get("note") else "")


def shown(value: Any) -> str:
    """A value for an error message: one line, not too long."""
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, tuple):
        text = f"({', '.join(map(shown, value))})"
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{shown(key)}: {shown(item)}" for key, item in value.items()) + "}"
    else:
        text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def replace(settings: Any, changes: Mapping[str, Any]) -> Any:
    """A copy with changes; those of a section are given as a dict of its fields."""
    values = dict(changes)
    for name, value in changes.items():
        if isinstance(value, Mapping) and dataclasses.is_dataclass(section := getattr(settings, name, None)):
            values[name] = replace(section, value)
    return dataclasses.replace(settings, **values)
