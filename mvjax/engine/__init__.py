"""The engine: Multiverse generation in one jit-compiled loop, branches of a request over one KV stream."""

from mvjax.engine.engine import Engine
from mvjax.engine.limits import EngineConfig, Limits, Mode, SamplingParams
from mvjax.engine.model import RowPlacement, StepModel
from mvjax.engine.prompt import Prompt
from mvjax.engine.request import TokenUpdate
from mvjax.engine.result import Result, StreamRecord, Timings

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
