"""The engine: Multiverse generation in one jit-compiled loop, branches of a request over one KV stream.

Its names are imported when they are used: settings (`Limits`, `SamplingParams`, `EngineConfig`) need no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvjax.engine.engine import Engine
    from mvjax.engine.limits import EngineConfig, Limits, Mode
    from mvjax.engine.model import RowPlacement, StepModel
    from mvjax.engine.prompt import Prompt
    from mvjax.engine.request import TokenUpdate
    from mvjax.engine.result import Result, StreamRecord, Timings
    from mvjax.engine.sampling_params import SamplingParams

_MODULES = {
    "Engine": "engine",
    "EngineConfig": "limits",
    "Limits": "limits",
    "Mode": "limits",
    "Prompt": "prompt",
    "Result": "result",
    "RowPlacement": "model",
    "SamplingParams": "sampling_params",
    "StepModel": "model",
    "StreamRecord": "result",
    "Timings": "result",
    "TokenUpdate": "request",
}

__all__ = [
    "Engine",
    "EngineConfig",
    "Limits",
    "Mode",
    "Prompt",
    "Result",
    "RowPlacement",
    "SamplingParams",
    "StepModel",
    "StreamRecord",
    "Timings",
    "TokenUpdate",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mvjax.engine.{_MODULES[name]}"), name)
