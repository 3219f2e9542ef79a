"""Checks of settings: the right type, and a value that the device's 32 bits can hold."""

from __future__ import annotations

import numpy as np

from mvjax.errors import UserError

INT32_MAX = 2**31 - 1


def check_integer(name: str, value: object, low: int, high: int = INT32_MAX, note: str = "") -> None:
    """Raise a UserError that names the setting unless it is a whole number (Python's or NumPy's) from low to high."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise UserError(f"{name} is {shown(value)}; give a whole number from {low} to {high}{note}")


def check_number(name: str, value: object, low: float, high: float, wanted: str) -> None:
    """Raise a UserError that names the setting and what is wanted unless it is a number from low to high, not NaN."""
    kinds = (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise UserError(f"{name} is {shown(value)}; give {wanted}")


def shown(value: object) -> str:
    """A value in one short line."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return "a number of more than 40 digits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
