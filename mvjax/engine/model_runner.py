"""The engine's programs on the device, each with the arguments of the moment."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mvjax.engine import decode_loop, state_ops
from mvjax.engine.kv_cache import KVCache
from mvjax.engine.limits import EngineConfig
from mvjax.engine.model import StepModel
from mvjax.engine.request import Request
from mvjax.engine.tables import Tables


class ModelRunner:
    """Calls as `Programs` takes them: name, function, donated arguments, arguments.

    Attributes:
        params: the model's parameters.
    """

    def __init__(self, model: StepModel, config: EngineConfig, streams: KVCache, tables: Tables, params: Any):
        self.model, self.config, self.streams, self.tables, self.params = model, config, streams, tables, params

    def row_counts(self, requests: int) -> list[int]:
        """Row counts in use for so many requests: up to the first that holds all rows they can have."""
        most = requests * self.config.max_branches
        counts = [count for count in self.config.row_counts if count < most]
        return [*counts, min([count for count in self.config.row_counts if count >= most], default=most)]

    def loop(self, width: int) -> tuple:
        """A stay in the generation loop with so many rows."""
        streams = self.streams
        narrower = max([count for count in self.row_counts(streams.sizes.requests) if count < width], default=0)
        run = functools.partial(decode_loop.run, self.model, width=width, narrower=narrower)
        numbers = streams.room_R(), np.int32(self.config.sync_steps)
        arguments = self.params, self.tables, streams.stream, streams.state, *numbers
        return f"run {width} over {narrower}", run, (2, 3), *arguments

    def prefill(self, tokens_T, positions_T, hidden: tuple, place: int, offset: int, length: int) -> tuple:
        """One chunk of a prompt."""
        name = f"prefill {len(tokens_T)} with {len(hidden[0])} levels"
        numbers = np.int32(place), np.int32(offset), np.int32(length)
        arguments = self.params, self.streams.stream, tokens_T, positions_T, *hidden, *numbers
        return name, self.model.prefill, (1,), *arguments

    def admission(self, place: int, job: Request) -> tuple:
        """A prefilled request starts."""
        admit = functools.partial(state_ops.admit, sizes=self.streams.sizes)
        return (
            "admit",
            admit,
            (0,),
            self.streams.state,
            np.int32(place),
            job.settings(self.config.max_branches),
            job.root(),
        )

    def fetching(self, place: int) -> tuple:
        """What the host reads of a request."""
        return "fetch", state_ops.fetch, (), self.streams.state, np.int32(place)


def next_power(count: int) -> int:
    """Smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()
