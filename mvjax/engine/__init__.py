"""The engine: Multiverse generation in one jit-compiled loop, branches of a request over one KV stream.

Its names are imported when they are used: settings (`Limits`, `SamplingParams`, `EngineConfig`) need no JAX.
"""

from typing import TYPE_CHECKING

from mvjax.lazy import lazy_names

if TYPE_CHECKING:
    from mvjax.engine.engine import Engine as Engine
    from mvjax.engine.engine import QueueFull as QueueFull
    from mvjax.engine.engine import WarmUp as WarmUp
    from mvjax.engine.limits import EngineConfig as EngineConfig
    from mvjax.engine.limits import Limits as Limits
    from mvjax.engine.limits import Mode as Mode
    from mvjax.engine.logprobs import LogProbs as LogProbs
    from mvjax.engine.model import RowPlacement as RowPlacement
    from mvjax.engine.model import StepModel as StepModel
    from mvjax.engine.prompt import Prompt as Prompt
    from mvjax.engine.replicas import Replicas as Replicas
    from mvjax.engine.replicas import engine_over as engine_over
    from mvjax.engine.request import TokenUpdate as TokenUpdate
    from mvjax.engine.result import Result as Result
    from mvjax.engine.result import StreamRecord as StreamRecord
    from mvjax.engine.result import Timings as Timings
    from mvjax.engine.sampling_params import SamplingParams as SamplingParams
    from mvjax.engine.stats import EngineStats as EngineStats

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "mvjax.engine.engine": "Engine QueueFull WarmUp",
        "mvjax.engine.limits": "EngineConfig Limits Mode",
        "mvjax.engine.logprobs": "LogProbs",
        "mvjax.engine.model": "RowPlacement StepModel",
        "mvjax.engine.prompt": "Prompt",
        "mvjax.engine.replicas": "Replicas engine_over",
        "mvjax.engine.request": "TokenUpdate",
        "mvjax.engine.result": "Result StreamRecord Timings",
        "mvjax.engine.sampling_params": "SamplingParams",
        "mvjax.engine.stats": "EngineStats",
    },
)
