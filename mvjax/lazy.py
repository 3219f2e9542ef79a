"""Names of a package that are imported when first used (PEP 562): importing the package imports nothing heavy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def lazy_names(
    package: str, modules: Mapping[str, str], *here: str
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package: its `__name__`.
        modules: the names that each module has, separated by spaces; `its_name=as_name` renames.
        here: names that the package itself has.
    """
    homes = {}
    for module, names in modules.items():
        for name in names.split():
            its_name, _, as_name = name.partition("=")
            homes[as_name or its_name] = module, its_name
    every = sorted([*homes, *here])

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, its_name = homes[name]
        return getattr(importlib.import_module(module), its_name)

    return get, lambda: every, every
