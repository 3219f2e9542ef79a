"""What checks the annotations of our functions while tests run: the last word of `--jaxtyping-packages`.

Arrays alone, their shapes and element types: what else is annotated is the static checker's, and tests give settings of
wrong types on purpose, to see them refused.
"""

import re
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_ARRAY = re.compile(r"jaxtyping\.|\b(?:Bool|U?Int\d*|Float\d*|Shaped|Num|Key|Inexact|Real)\[")


def check(function: Callable) -> Callable:
    """The function, checked by beartype, for which as for the static checker an int is a float, too (PEP 484)."""
    hints: dict[str, Any] = getattr(function, "__annotations__", {})
    if isinstance(function, type) or not callable(function):
        return function
    kept = {name: hint for name, hint in hints.items() if _ARRAY.search(hint if isinstance(hint, str) else repr(hint))}
    function.__annotations__ = kept
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
