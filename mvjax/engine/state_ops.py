"""Changes of the state between stays in the loop: a request is admitted, cancelled, taken off and put back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mvjax.engine import state as st
from mvjax.engine.state import Sizes, State


def admit(state: State, request_index: Int[Array, ""], settings: st.Settings, root: st.Root, *, sizes: Sizes) -> State:
    """The state with a new request: its prompt is prefilled but for the last token, which is chosen."""
    branch = st.empty_branch(sizes)
    branch = branch._replace(
        active=jnp.bool_(True),
        lineage=branch.lineage.at[0].set(0),
        tokens_left=root.tokens_left,
        next_pos=root.position + 1,
        max_pos=root.max_pos,
        key=jnp.asarray(root.key),
        token=root.token,
        position=root.position,
    )
    request = st.empty_request(sizes)
    request = request._replace(
        settings=settings,
        branches=jax.tree.map(lambda leaf, value: leaf.at[0].set(value), request.branches, st.frames_of(branch)),
        alive=jnp.bool_(True),
        numbers=jnp.int32(1),
        used=root.fed,
    )
    segment_S = jnp.where(jnp.arange(sizes.slots) < root.fed, 0, st.NO_SEGMENT)
    return State(
        request=jax.tree.map(lambda leaf, value: leaf.at[request_index].set(value), state.request, request),
        segment_RS=state.segment_RS.at[request_index].set(segment_S),
    )


def cancel(state: State, request_index: Int[Array, ""]) -> State:
    """The state with a request that will be wound up."""
    settings = state.request.settings
    reason = jnp.maximum(settings.wind_up[request_index], st.CANCELLED)
    settings = settings._replace(wind_up=settings.wind_up.at[request_index].set(reason))
    return state._replace(request=state.request._replace(settings=settings))


def evict(state: State, request_index: Int[Array, ""]) -> State:
    """The state without a request: its slots are nobody's, it has no branch."""
    request = jax.tree.map(lambda leaf: leaf.at[request_index].set(jnp.zeros_like(leaf[request_index])), state.request)
    return State(request, state.segment_RS.at[request_index].set(st.NO_SEGMENT))


def preempt(state: State, request_index: Int[Array, ""]) -> tuple[State, State]:
    """The state without a request, and all that it was."""
    return evict(state, request_index), jax.tree.map(lambda leaf: leaf[request_index], state)


def resume(state: State, request_index: Int[Array, ""], preempted: State) -> State:
    """The state with a preempted request under an index."""
    return jax.tree.map(lambda leaf, value: leaf.at[request_index].set(value), state, preempted)
