"""The generation loop on the device: feed all branches' tokens, let the interpreter decide, apply events.

The model runs on a compact batch of W rows over the branches of all requests. A program is compiled for one W; it hands
back to the host when another W suits better, a request has finished, a stream is full, or some steps have passed.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from mvjax.engine import interpreter, logprobs, report, sampling, token_edits
from mvjax.engine import state as st
from mvjax.engine.fork_join import any_event, apply_events
from mvjax.engine.interpreter import Drawn
from mvjax.engine.model import RowPlacement, StepModel
from mvjax.engine.state import Branch, RequestState, Settings, State, frames_of, view
from mvjax.engine.tables import END_OF_TEXT, Tables, bits

SLOTS_AT_ONCE = 1024
"""Slots of each stream whose visibility words are made in one turn."""


def lanes_of(max_branches: int, width: int) -> int:
    """Lanes that a program of `width` rows needs per request: no request can have more running branches than that."""
    return min(max_branches, width)


def compact_rows(
    active_RL: Bool[Array, "R L"], start_R: Int[Array, "R"], width: int
) -> tuple[RowPlacement, Int[Array, "R L"], Int[Array, "W"]]:
    """Compact rows for the running branches: requests in order, and the branches of each in order.

    Returns the placement, the row of the batch of each branch (`width` for none) and the branch of each row.
    """
    requests, max_branches = active_RL.shape
    rank_RL = jnp.cumsum(active_RL.reshape(-1), dtype=jnp.int32).reshape(requests, max_branches) - 1
    lane_RL = jnp.cumsum(active_RL, axis=1, dtype=jnp.int32) - 1
    row_RL = jnp.where(active_RL, rank_RL, width)
    row_W = jnp.arange(width, dtype=jnp.int32)
    hit_WX = row_RL.reshape(1, -1) == row_W[:, None]
    branch_W = jnp.argmax(hit_WX, axis=1).astype(jnp.int32)
    active_W = row_W < jnp.sum(active_RL, dtype=jnp.int32)
    lanes = lanes_of(max_branches, width)
    running_R = jnp.sum(active_RL, axis=1, dtype=jnp.int32)
    first_R = jnp.cumsum(running_R) - running_R
    lane_L = jnp.arange(lanes, dtype=jnp.int32)
    row_of_lane_RL = jnp.where(lane_L < running_R[:, None], first_R[:, None] + lane_L, width)
    placement = RowPlacement(
        request_W=branch_W // max_branches,
        lane_W=jnp.where(active_W, lane_RL.reshape(-1)[branch_W], 0),
        row_RL=row_of_lane_RL.astype(jnp.int32),
        start_R=start_R,
        active_W=active_W,
    )
    return placement, row_RL, branch_W


def visibility(branches: Branch, segment_RS: Int[Array, "R S"], used_R: Int[Array, "R"]) -> UInt[Array, "R S"]:
    """Word of each slot: bit l is set where lane l's branch or an ancestor of it bears the slot's segment number.

    Slots are looked at in blocks, up to the end of the longest stream that has a running branch; words behind are 0.

    Args:
        used_R: slots in use before this step, in which each running branch adds one.
    """
    lane_RL = jnp.cumsum(branches.active, axis=1) - 1
    bit_RL = jnp.where(branches.active, jnp.uint32(1) << jnp.maximum(lane_RL, 0).astype(jnp.uint32), 0)

    def words(segment_RX: Array) -> Array:
        words_RX = jnp.zeros(segment_RX.shape, jnp.uint32)
        # Unrolled: a chain of compares on [R, X] fuses into one pass over the slots.
        for branch in range(branches.active.shape[1]):
            seen_RX = jnp.zeros(segment_RX.shape, bool)
            for depth in range(branches.lineage.shape[2]):
                seen_RX |= segment_RX == branches.lineage[:, branch, depth, None]
            words_RX |= jnp.where(seen_RX, bit_RL[:, branch, None], jnp.uint32(0))
        return words_RX

    slots = segment_RS.shape[1]
    if slots <= SLOTS_AT_ONCE:
        return words(segment_RS)

    def visit(index: Array, words_RS: Array) -> Array:
        start = jnp.minimum(index * SLOTS_AT_ONCE, slots - SLOTS_AT_ONCE)
        segment_RX = lax.dynamic_slice_in_dim(segment_RS, start, SLOTS_AT_ONCE, axis=1)
        return lax.dynamic_update_slice_in_dim(words_RS, words(segment_RX), start, axis=1)

    running_R = jnp.sum(branches.active, axis=1, dtype=jnp.int32)
    longest = jnp.max(jnp.where(running_R > 0, used_R + running_R, 0))
    return lax.fori_loop(0, -(-longest // SLOTS_AT_ONCE), visit, jnp.zeros(segment_RS.shape, jnp.uint32))


def choose_tokens(
    logits_WV: Float[Array, "W V"],
    allowed_W: Int[Array, "W"],
    samples_W: Bool[Array, "W"],
    request_W: Int[Array, "W"],
    key_W2: UInt[Array, "W 2"],
    index_W: Int[Array, "W"],
    settings: Settings,
    tables: Tables,
    alternatives: int | None,
) -> tuple[Drawn, Int[Array, "W Columns"] | None]:
    """A token per row among those the grammar allows; and log-probabilities as `logprobs.packed` keeps them.

    Args:
        allowed_W: kinds that may be sampled, as bits.
        samples_W: rows whose token will be read; the others take the cheap greedy way through the sampler.
        settings: of the requests.
        alternatives: see `EngineConfig.logprobs`.
    """
    vocab_size = tables.kind_V.shape[0]
    params_W = jax.tree.map(lambda leaf: leaf[request_W], settings.sampling)
    params_W = dataclasses.replace(params_W, temperature=jnp.where(samples_W, params_W.temperature, 0.0))
    no_end_W = allowed_W & bits(END_OF_TEXT) == 0
    model_WV = logits_WV[:, :vocab_size]
    logits_WV = token_edits.edited(model_WV, settings.edits, request_W, samples_W, no_end_W)
    kind_V = tables.kind_V.astype(jnp.int32)
    barred_WV = (kind_V >= 0) & ((allowed_W[:, None] >> jnp.maximum(kind_V, 0)) & 1 == 0)
    open_WV, finite_W = sampling.bar(logits_WV, barred_WV)
    token_W, first_W = sampling.sample(open_WV, key_W2, index_W, params_W)
    # The raw argmax is barred when the best barred logit beats the best open one; on a tie the lower id is the argmax.
    open_W = jnp.take_along_axis(logits_WV, first_W[:, None], axis=1)[:, 0]
    id_Z = tables.special_id_Z
    special_WZ = jnp.take(logits_WV, id_Z, axis=1, mode="fill", fill_value=-jnp.inf)
    closed_WZ = (allowed_W[:, None] >> tables.special_kind_Z) & 1 == 0
    beats_WZ = (special_WZ > open_W[:, None]) | ((special_WZ == open_W[:, None]) & (id_Z < first_W[:, None]))
    stops_W = token_edits.stops(token_W, settings.edits, request_W)
    drawn_W = Drawn(token_W, stops_W, jnp.any(closed_WZ & beats_WZ, axis=1), finite_W)
    if alternatives is None:
        return drawn_W, None
    # Stop ids that are barred have their own logits before the bar.
    unbarred_WV = token_edits.edited(model_WV, settings.edits, request_W, samples_W, jnp.zeros_like(samples_W))
    return drawn_W, logprobs.packed(unbarred_WV, open_WV, token_W, alternatives)


# What does not depend on the number of rows is traced once for all programs. In them it is inline: around calls XLA:TPU
# copies pages of int8.


@functools.partial(jax.jit, inline=True)
def plan_all(branches: Branch, settings: Settings, tables: Tables) -> interpreter.Plan:
    """`interpreter.plan` of every branch [R, L]."""
    return jax.vmap(jax.vmap(interpreter.plan, (0, None, None)), (0, 0, None))(branches, settings, tables)


@functools.partial(jax.jit, inline=True)
def act_all(
    branches: Branch, planned: interpreter.Plan, drawn: Drawn, tables: Tables
) -> tuple[Branch, Int[Array, "R L"], Bool[Array, "R L"], interpreter.Plan]:
    """`interpreter.act` of every branch [R, L], after `interpreter.refuse`, whose plan is the last result."""

    def by_branch(function):
        return jax.vmap(jax.vmap(function, (0, 0, 0, None)), (0, 0, 0, None))

    planned = by_branch(interpreter.refuse)(branches, planned, drawn.finite, tables)
    return *by_branch(interpreter.act)(branches, planned, drawn, tables), planned


@functools.partial(jax.jit, inline=True)
def apply_all(
    request: RequestState, segment_RS: Int[Array, "R S"], event_RL: Int[Array, "R L"], tables: Tables
) -> tuple[RequestState, Int[Array, "R S"], Int[Array, "R L 2"]]:
    """`apply_events` of every request."""
    return jax.vmap(apply_events, (0, 0, 0, None))(request, segment_RS, event_RL, tables)


def step(
    model: StepModel, params: Any, tables: Tables, stream: Any, state: State, width: int, alternatives: int | None
) -> tuple[Any, State, Int[Array, "W C"]]:
    """One step: every running branch feeds its token and decides on the next; then the events. The last result is the
    step's part of the log."""
    request = state.request
    branches, settings = view(request.branches), request.settings
    active_RL = branches.active
    requests, max_branches = active_RL.shape
    # A request that does not run has no lanes, but a model may still write there: at the end of its stream, since the
    # beginning may belong to a prompt that is being prefilled.
    slots = state.segment_RS.shape[1]
    last = slots - lanes_of(max_branches, width)
    start_R = jnp.where(request.alive, jnp.minimum(request.used, last), last)
    placement, row_RL, branch_W = compact_rows(active_RL, start_R, width)
    active_W = placement.active_W

    def by_row(field_RL):
        return field_RL.reshape(requests * max_branches, *field_RL.shape[2:])[branch_W]

    # Feed: the tokens enter the streams.
    slot_RL = request.used[:, None] + jnp.cumsum(active_RL, axis=1, dtype=jnp.int32) - 1
    slot_W = jnp.where(active_W, by_row(slot_RL), slots)
    token_W, position_W, number_W = by_row(branches.token), by_row(branches.position), by_row(branches.number)
    fed = jnp.where(active_W, placement.request_W, report.NOBODY), token_W, position_W, number_W, by_row(branches.flags)
    segment_RS = state.segment_RS.at[placement.request_W, slot_W].set(number_W, mode="drop")
    visibility_RS = visibility(branches, segment_RS, request.used)
    logits_WV, stream = model.decode(
        params, stream, jnp.where(active_W, token_W, 0), jnp.where(active_W, position_W, 0), placement, visibility_RS
    )

    # Decide.
    planned = plan_all(branches, settings, tables)
    rows = by_row(planned.allowed), by_row(planned.sample) & active_W, placement.request_W
    keys = by_row(branches.key), by_row(branches.index)
    drawn_W, logprobs_WC = choose_tokens(logits_WV, *rows, *keys, settings, tables, alternatives)
    row_RL = jnp.minimum(row_RL, width - 1)
    drawn = Drawn(*[field_W[row_RL] for field_W in drawn_W])
    branches, event_RL, abandoned_RL, planned = act_all(branches, planned, drawn, tables)
    fails_R = jnp.any(planned.wind_up == st.NOT_FINITE, axis=1)
    settings = settings._replace(wind_up=jnp.where(fails_R, st.NOT_FINITE, settings.wind_up))

    def count(flag_RL):
        return jnp.sum(flag_RL, axis=1, dtype=jnp.int32)

    running_R = count(active_RL)
    request = request._replace(
        settings=settings,
        branches=frames_of(branches),
        used=request.used + running_R,
        decode_steps=request.decode_steps + (running_R > 0),
        barred=request.barred + count(planned.sample & drawn.barred),
        abandoned=request.abandoned + count(abandoned_RL),
    )

    # Apply the events, for all requests or none, since a condition inside `vmap` would compute both sides. A loop of at
    # most one turn: it works in place, where a condition would copy all that it might change, twice, on every step.
    def applied(carry):
        _, request, segment_RS, _ = carry
        return jnp.bool_(False), *apply_all(request, segment_RS, event_RL, tables)

    no_forks_RL2 = jnp.zeros((*event_RL.shape, 2), jnp.int32)
    carry = any_event(event_RL), request, segment_RS, no_forks_RL2
    _, request, segment_RS, forked_RL2 = lax.while_loop(lambda carry: carry[0], applied, carry)
    log_WC = jnp.concatenate(
        [jnp.stack(fed, axis=1), by_row(forked_RL2), *([] if logprobs_WC is None else [logprobs_WC])], axis=1
    )
    return stream, State(request, segment_RS), log_WC


def run(
    model: StepModel,
    params: Any,
    tables: Tables,
    stream: Any,
    state: State,
    room_R: Int[Array, "R"],
    most_steps: Int[Array, ""],
    *,
    width: int,
    narrower: int,
    log_steps: int,
    alternatives: int | None = None,
) -> tuple[Any, State, Int[Array, "Report"]]:
    """Steps on `width` rows until the host is needed (see the first lines of the module). The last result is the
    report, see `report.packed`.

    Args:
        room_R: slots that each request may fill.
        most_steps: steps at most.
        narrower: the row count below `width` that there is a program for; the loop ends when that many rows suffice.
        log_steps: steps that the log has room for; no more are taken.
        alternatives: see `EngineConfig.logprobs`.
    """
    most_steps = jnp.minimum(most_steps, log_steps)
    lanes = lanes_of(state.request.branches.scalar.shape[1], width)
    alive_R = state.request.alive

    def running(state):
        return jnp.sum(st.running(state.request.branches), dtype=jnp.int32)

    def goes_on(carry):
        _, state, _, steps = carry
        request, count = state.request, running(state)
        suits = (count <= width) & (count > narrower)
        room = jnp.all(~request.alive | (request.used + lanes <= room_R))
        return suits & room & (steps < most_steps) & jnp.all(request.alive == alive_R)

    def body(carry):
        stream, state, log_NWC, steps = carry
        stream, state, log_WC = step(model, params, tables, stream, state, width, alternatives)
        return stream, state, lax.dynamic_update_index_in_dim(log_NWC, log_WC, steps, axis=0), steps + 1

    log_NWC = jnp.zeros((log_steps, width, report.log_columns(alternatives)), jnp.int32)
    stream, state, log_NWC, steps = lax.while_loop(goes_on, body, (stream, state, log_NWC, jnp.int32(0)))
    return stream, state, report.packed(running(state), steps, state, log_NWC)
