"""The model families, one folder each, and the registry that names them."""

from __future__ import annotations

from mvjax.errors import UserError
from mvjax.models.families.family import Family
from mvjax.models.families.llama import LLAMA
from mvjax.models.families.olmo2 import OLMO2
from mvjax.models.families.qwen2 import QWEN2
from mvjax.models.families.qwen3 import QWEN3

FAMILIES: dict[str, Family] = {family.name: family for family in (LLAMA, QWEN2, QWEN3, OLMO2)}
"""Every family by its name. A new one is one entry here."""


def find_family(name: object, where: object = "model config") -> Family:
    """The family of a `model_type`; UserError, naming `where` it comes from and what there is, for any other."""
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(
            f"{where}: architecture {name!r} is not supported: use one of {', '.join(FAMILIES)} (key model_type)"
        )
    return FAMILIES[name]
