"""Generation: the interpreter on the device inside a jit-compiled loop, one KV stream per request."""

from mvjax.engine.engine import Engine, Fresh
from mvjax.engine.limits import EngineConfig, Limits, Mode, SamplingParams
from mvjax.engine.model import RowPlacement, StepModel
from mvjax.engine.prompt import Prompt
from mvjax.engine.result import Result, Timings

__all__ = [
    "Engine",
    "EngineConfig",
    "Fresh",
    "Limits",
    "Mode",
    "Prompt",
    "Result",
    "RowPlacement",
    "SamplingParams",
    "StepModel",
    "Timings",
]
