"""Settings: dataclasses whose bounds are beside each field, and that may hold sections of further settings."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from mvjax.errors import UserError

LARGEST = 2**31 - 1
"""Whole numbers end up in int32 arrays."""
NOUNS = {int: "a whole number", float: "a finite number", bool: "True or False", str: "a string"}


def setting(
    default: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    may_change: bool = False,
) -> Any:
    """A field of a settings dataclass.

    Args:
        above, at_least, at_most: bounds of a number, or of each number of a tuple.
        may_change: a run that is resumed may have another value: it changes the numbers by rounding at most.
    """
    metadata = {"above": above, "at_least": at_least, "at_most": at_most, "may_change": may_change}
    return dataclasses.field(default=default, metadata=metadata)


class Leaf(NamedTuple):
    """One field of the settings or of one of their sections."""

    name: str
    """Dotted, such as `optimizer.learning_rate`."""
    value: Any
    kind: Any
    """The type annotation: int, float, bool, str, a Literal of strings, or a tuple of one of them."""
    metadata: Mapping[str, Any]
    """As `setting` made it."""


def leaves(settings: Any, path: str = "") -> Iterator[Leaf]:
    """All fields, section by section."""
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        name, value, kind = path + field.name, getattr(settings, field.name), hints[field.name]
        if not dataclasses.is_dataclass(kind):
            yield Leaf(name, value, kind, field.metadata)
        elif isinstance(value, kind):
            yield from leaves(value, name + ".")
        else:
            raise UserError(f"config: {name} = {shown(value)} must be a {kind.__name__}")


def validate(settings: Any) -> None:
    """UserError names the first field with a value of another type or beyond its bounds, or fields that contradict
    each other: a section with such rules has a method `conflict() -> str`, empty where all is well."""
    for leaf in leaves(settings):
        if not is_valid(leaf.value, leaf.kind, leaf.metadata):
            raise UserError(f"config: {leaf.name} = {shown(leaf.value)} must be {wanted(leaf.kind, leaf.metadata)}")
    sections = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for path, section in {"": settings, **sections}.items():
        if hasattr(section, "conflict") and (text := section.conflict()):
            raise UserError(f"config: {path}{'.' * bool(path)}{text}")


def is_valid(value: Any, kind: Any, bounds: Mapping[str, Any]) -> bool:
    """Whether a value is of a field's type and within its bounds."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(is_valid(item, get_args(kind)[0], bounds) for item in value)
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind not in (int, float):
        return isinstance(value, kind)
    largest = LARGEST if kind is int else sys.float_info.max
    accepted = (int,) if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted) or not abs(value) <= largest:  # NaN is not.
        return False
    above, at_least, at_most = (bounds.get(name) for name in ("above", "at_least", "at_most"))
    return (
        (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (at_most is None or value <= at_most)
    )


def wanted(kind: Any, bounds: Mapping[str, Any]) -> str:
    """What a field takes, in words."""
    if get_origin(kind) is tuple:
        return f"a tuple, each item {wanted(get_args(kind)[0], bounds)}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    words = [NOUNS[kind]]
    for name, text in (("above", "greater than {}"), ("at_least", "{} or more"), ("at_most", "at most {}")):
        if bounds.get(name) is not None:
            words.append(text.format(bounds[name]))
    return ", ".join(words)


def shown(value: Any) -> str:
    """A value for an error message: one line, not too long."""
    if isinstance(value, int) and abs(value) > 10**30:
        return f"a number of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def replace(settings: Any, changes: Mapping[str, Any]) -> Any:
    """A copy with changes; those of a section are given as a dict of its fields."""
    values = dict(changes)
    for name, value in changes.items():
        if isinstance(value, Mapping) and dataclasses.is_dataclass(section := getattr(settings, name, None)):
            values[name] = replace(section, value)
    return dataclasses.replace(settings, **values)
