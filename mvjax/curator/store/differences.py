"""What differs between two sets of settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first value that differs between two different mappings of JSON values, in words."""
    old, new = dict(_flat(before)), dict(_flat(now))
    name = next(name for name in {**old, **new} if name not in old or name not in new or old[name] != new[name])
    return f"{name} = {_short(old, name)}, now {name} = {_short(new, name)}"


def _short(values: Mapping[str, Any], name: str) -> str:
    return str(values.get(name, "nothing"))[:60]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
