"""What checks the annotations of our functions while tests run: the last word of `--jaxtyping-packages`.

Arrays alone, their shapes and element types: what else is annotated is the static checker's, and tests give settings of
wrong types on purpose, to see them refused.
"""

from collections.abc import Callable
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray


def check(function: Callable) -> Callable:
    """The function, checked by beartype, for which as for the static checker an int is a float, too (PEP 484)."""
    if isinstance(function, type) or not callable(function):
        return function
    hints: dict[str, Any] = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: hint for name, hint in hints.items() if of_array(hint)}
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)


def of_array(hint: Any) -> bool:
    """Whether a hint, or a part of it, is an array's of some shape and element type (jaxtyping resolves strings)."""
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(of_array, get_args(hint)))
