"""mvjax: Multiverse language models in JAX.

A Multiverse model decides by itself when to split its reasoning (Map), runs the parts in parallel (Process) and
merges them without loss (Reduce); see arXiv 2506.09991.

    import mvjax

    tokenizer, model = mvjax.load("model.gguf", adapter="adapter.safetensors")
    engine = mvjax.Engine(model, model.params, tokenizer)
    prompt = tokenizer.render_chat([{"role": "user", "content": "..."}])
    result = engine.generate([prompt], limits=mvjax.Limits(max_new_tokens=512))[0]

Importing the package imports nothing heavy: these names are imported when first used (PEP 562), the rooms
(`mvjax.language`, `mvjax.engine`, `mvjax.training`, ...) where they are needed.
"""

import importlib
from typing import TYPE_CHECKING

from mvjax.errors import UserError
from mvjax.version import __version__

if TYPE_CHECKING:
    from mvjax.engine import Engine, EngineConfig, Limits, Result, SamplingParams
    from mvjax.models.load import demo_adapter
    from mvjax.models.load import load_for_generation as load

__all__ = [
    "Engine",
    "EngineConfig",
    "Limits",
    "Result",
    "SamplingParams",
    "UserError",
    "__version__",
    "demo_adapter",
    "load",
]

_HOMES = {
    "Engine": ("mvjax.engine", "Engine"),
    "EngineConfig": ("mvjax.engine", "EngineConfig"),
    "Limits": ("mvjax.engine", "Limits"),
    "Result": ("mvjax.engine", "Result"),
    "SamplingParams": ("mvjax.engine", "SamplingParams"),
    "demo_adapter": ("mvjax.models.load", "demo_adapter"),
    "load": ("mvjax.models.load", "load_for_generation"),
}
"""Module and name of what is imported when first used."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mvjax' has no attribute {name!r}")
    module, its_name = _HOMES[name]
    globals()[name] = found = getattr(importlib.import_module(module), its_name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
