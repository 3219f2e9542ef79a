"""What a stay in the loop reports to the host: a log of the tokens it fed and counts, packed into one array, so that
they come in one transfer. Its size depends on rows and steps, not on slots."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, Int64

from mvjax.engine import logprobs, record
from mvjax.engine.state import Counts, State

REQUEST = 0
"""First column of the log: the request whose token it is; NOBODY in rows that held none. The others are as in
`record`."""
NOBODY = -1


def log_columns(alternatives: int | None) -> int:
    """Columns of the log; `alternatives` as in `EngineConfig.logprobs`."""
    return 1 + record.FIELDS + logprobs.columns(alternatives)


def packed(
    running: Int[Array, ""], steps: Int[Array, ""], state: State, log_NWC: Int[Array, "N W C"]
) -> Int[Array, "Report"]:
    """The report as one array.

    Args:
        running: branches with a token to feed.
        steps: steps taken; the first ones of the log.
    """
    request = state.request
    counts = [getattr(request, name) for name in Counts._fields]
    return jnp.concatenate(
        [jnp.stack([running, steps]), request.alive.astype(jnp.int32), request.used, *counts, log_NWC.reshape(-1)]
    )


class DecodeReport(NamedTuple):
    """What the host learns from one stay in the loop. R: requests on the device."""

    running: int
    """Branches with a token to feed."""
    steps: int
    """Steps taken in this stay."""
    alive_R: Bool[np.ndarray, "R"]
    used_R: Int64[np.ndarray, "R"]
    """Slots in use."""
    counts: Counts
    """Arrays [R]."""
    fed_R: list[Int32[np.ndarray, "T C"]]
    """Of each request, the rows of its tokens in the order of their slots, see `record`."""


def unpacked(packed: Int32[np.ndarray, "Report"], requests: int, log_steps: int, width: int) -> DecodeReport:
    """Inverse of `packed`.

    Args:
        log_steps: steps that the log has room for.
        width: its rows a step.
    """
    running, steps = packed[:2].tolist()
    per_request = 2 + len(Counts._fields)
    log_start = 2 + per_request * requests
    alive_R, used_R, *counts = packed[2:log_start].reshape(per_request, requests)
    log_TC = packed[log_start:].reshape(log_steps * width, -1)[: steps * width]
    # Rows of a step stand request after request, and their tokens take the next slots: so order of rows is order of
    # slots for each request.
    order_T = np.argsort(log_TC[:, REQUEST], kind="stable")
    sorted_TC = log_TC[order_T]
    starts = np.searchsorted(sorted_TC[:, REQUEST], np.arange(requests + 1)).tolist()
    fed_R = [sorted_TC[start:end, REQUEST + 1 :] for start, end in itertools.pairwise(starts)]
    return DecodeReport(running, steps, alive_R > 0, used_R.astype(np.int64), Counts(*counts), fed_R)
