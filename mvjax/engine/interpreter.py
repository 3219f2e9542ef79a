"""What one branch does in one step: the grammar that bars tags, pending tokens, wind-up, reading of labels.

Pure functions of one branch (arXiv 2506.09991, section 4: the model decides, the interpreter reacts to tokens),
`vmap`ped over the rows of all requests. What changes the tree (fork, end of a path) is in `fork_join`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mvjax.engine import state as st
from mvjax.engine import tables as t
from mvjax.engine.limits import RESERVE
from mvjax.engine.state import Branch, Settings
from mvjax.engine.tables import Tables
from mvjax.language import tags
from mvjax.language.tags import LABEL_LIMIT


class Plan(NamedTuple):
    """What a running branch is about to do, before its logits are looked at."""

    sample: Bool[Array, "*frames"]
    event: Int[Array, "*frames"]
    """NOTHING, FORK or END."""
    wind_up: Int[Array, "*frames"]
    """Reason of a wind-up that begins now; 0: none."""
    allowed: Int[Array, "*frames"]
    """Bit k: kind k may be sampled."""


def bits(*kinds: int) -> int:
    """Bit set of kinds."""
    return sum(1 << kind for kind in kinds)


def allowed_kinds(branch: Branch, settings: Settings) -> Int[Array, ""]:
    """Tags and end-of-text that the grammar lets the branch sample where it stands, as bits; text is always free."""

    def when(condition, *kinds):
        return jnp.where(condition, bits(*kinds), 0)

    root = branch.depth == 0
    share = jnp.minimum(branch.tokens_left, branch.max_pos - branch.next_pos)
    body = (
        when((branch.depth < settings.max_depth) & (share >= settings.min_block_share), tags.PARALLEL_OPEN)
        | when(~root, tags.PATH_CLOSE)
        | when(root & (branch.index == 0), tags.THINK_OPEN)
        | when(root & (branch.think == st.THINK_OPEN), tags.THINK_CLOSE)
        | when(~(root & (branch.think == st.THINK_OPEN)), t.END_OF_TEXT)
    )
    goal = when(branch.outlines < settings.max_paths, tags.OUTLINE_OPEN) | when(branch.outlines >= 1, tags.GOAL_CLOSE)
    by_stand = {
        t.BODY: body,
        t.BLOCK: bits(tags.GOAL_OPEN),
        t.GOAL: goal,
        t.OUTLINE: bits(tags.OUTLINE_CLOSE),
        t.CONCLUSION: bits(tags.CONCLUSION_CLOSE),
        t.CONCLUDED: bits(tags.PARALLEL_CLOSE),
    }
    return jnp.select([branch.grammar_state == stand for stand in by_stand], list(by_stand.values()), 0)


def plan(branch: Branch, settings: Settings) -> Plan:
    """What the branch does now that its last token has been fed."""
    queued = branch.queue_at < branch.queue_length
    idle = branch.active & ~queued & (branch.after == st.NOTHING)
    no_room = branch.max_pos - branch.next_pos <= RESERVE
    reason = jnp.select(
        [branch.tokens_left <= RESERVE, no_room, settings.cancelled], [st.TOKENS, st.POSITIONS, st.CANCELLED], 0
    )
    wind_up = jnp.where(idle, reason, 0)
    closes = jnp.where(branch.depth > 0, 1, jnp.where(branch.think == st.THINK_OPEN, 1, 0))
    nothing_open = (branch.grammar_state == t.BODY) & (closes == 0)
    event = jnp.where(branch.active & ~queued, branch.after, st.NOTHING)
    event = jnp.where((wind_up > 0) & nothing_open, st.END, event)
    return Plan(idle & (reason == 0), event, wind_up, allowed_kinds(branch, settings))


def append(branch: Branch, token: Int[Array, ""], flags: Int[Array, ""]) -> Branch:
    """The branch with its next token chosen; it is fed in the next step."""
    return branch._replace(
        token=token,
        position=branch.next_pos,
        flags=flags,
        next_pos=branch.next_pos + 1,
        tokens_left=branch.tokens_left - 1,
        index=branch.index + 1,
    )


def append_queued(branch: Branch, flags: Int[Array, ""] | int = 0) -> Branch:
    """The branch with the first of its pending tokens written."""
    token = branch.queue[branch.queue_at]
    return append(branch, token, st.WRITTEN_FLAG | flags)._replace(queue_at=branch.queue_at + 1)


def with_queue(branch: Branch, *tokens: Int[Array, ""], after: int | Int[Array, ""] = st.NOTHING) -> Branch:
    """The branch with these tokens pending."""
    queue = branch.queue.at[: len(tokens)].set(jnp.stack(tokens))
    zero = jnp.int32(0)
    return branch._replace(queue=queue, queue_at=zero, queue_length=zero + len(tokens), after=zero + after)


def choose(on: Bool[Array, ""], then: Branch, otherwise: Branch) -> Branch:
    """`then` where `on`, field by field."""
    return jax.tree.map(lambda a, b: jnp.where(on, a, b), then, otherwise)


def wound_up(branch: Branch, reason: Int[Array, ""], tables: Tables) -> Branch:
    """The branch with the missing closing tags pending and the cut noted."""
    thinking = branch.think == st.THINK_OPEN
    own = jnp.where(branch.depth > 0, t.CLOSE_PATH, jnp.where(thinking, t.CLOSE_THINK, t.CLOSE_NOTHING))
    queue = branch.queue.at[: t.CLOSING].set(tables.closing[branch.grammar_state, own])
    return branch._replace(
        queue=queue,
        queue_at=jnp.int32(0),
        queue_length=tables.closing_length[branch.grammar_state, own],
        after=jnp.int32(st.END),
        cut=reason,
    )


def act(branch: Branch, planned: Plan, sampled: Int[Array, ""], tables: Tables) -> tuple[Branch, Int, Bool]:
    """Carry out a plan. Returns the branch, the event (an end-of-text in the root makes one), and abandoned or not.

    Args:
        sampled: the token drawn for it, one that its plan allows; not read unless the plan is to sample.
    """
    winds = planned.wind_up > 0
    state = branch.grammar_state
    in_map = (state == t.BLOCK) | (state == t.GOAL) | (state == t.OUTLINE)
    abandoned = winds & in_map
    branch = choose(winds, wound_up(branch, planned.wind_up, tables), branch)
    writes = branch.active & ~planned.sample & (planned.event == st.NOTHING)

    kind = tables.kind_V[sampled].astype(jnp.int32)
    stops = planned.sample & (kind == t.END_OF_TEXT) & (branch.depth == 0)
    ends_path = (kind == t.END_OF_TEXT) & (branch.depth > 0)
    kind = jnp.where(ends_path, tags.PATH_CLOSE, kind)
    sampled = jnp.where(ends_path, tables.tag_id[tags.PATH_CLOSE], sampled)

    cut_flags = planned.wind_up << st.CUT_SHIFT
    flags = jnp.where(ends_path, st.WRITTEN_FLAG, 0)
    written = append_queued(branch, cut_flags)
    reacted = append(react(branch, kind, sampled, tables), sampled, flags)
    result = choose(writes, written, choose(planned.sample & ~stops, reacted, branch))
    return result, jnp.where(stops, st.END, planned.event), abandoned


def react(branch: Branch, kind: Int[Array, ""], token: Int[Array, ""], tables: Tables) -> Branch:
    """The branch after it has sampled a token: where it stands now, what it writes next, the label it reads."""

    def at(*kinds):
        return jnp.isin(kind, jnp.array(kinds))

    opens_outline, closes_outline = kind == tags.OUTLINE_OPEN, kind == tags.OUTLINE_CLOSE
    stand_after = {
        tags.PARALLEL_OPEN: t.BLOCK,
        tags.GOAL_OPEN: t.GOAL,
        tags.OUTLINE_OPEN: t.OUTLINE,
        tags.OUTLINE_CLOSE: t.GOAL,
        tags.CONCLUSION_CLOSE: t.CONCLUDED,
        tags.PARALLEL_CLOSE: t.BODY,
    }
    branch = read_label(branch, kind, token, tables)
    ends = at(tags.GOAL_CLOSE, tags.PATH_CLOSE)
    return branch._replace(
        grammar_state=jnp.select(
            [kind == tag for tag in stand_after], list(stand_after.values()), branch.grammar_state
        ),
        think=jnp.select(
            [kind == tags.THINK_OPEN, kind == tags.THINK_CLOSE], [st.THINK_OPEN, st.THINK_CLOSED], branch.think
        ),
        outlines=jnp.where(kind == tags.GOAL_OPEN, 0, branch.outlines + closes_outline),
        reading=jnp.select([opens_outline, closes_outline], [st.READING_FIRST, st.READING_NOT], branch.reading),
        letters=jnp.where(opens_outline, 0, branch.letters),
        spoiled=jnp.where(opens_outline, 0, branch.spoiled),
        # After </Goal> and </Path> the separator is written; when it has been fed, the fork or the end comes.
        queue=branch.queue.at[0].set(jnp.where(ends, tables.separator, branch.queue[0])),
        queue_at=jnp.where(ends, 0, branch.queue_at),
        queue_length=jnp.where(ends, 1, branch.queue_length),
        after=jnp.select([kind == tags.GOAL_CLOSE, kind == tags.PATH_CLOSE], [st.FORK, st.END], branch.after),
    )


def read_label(branch: Branch, kind: Int[Array, ""], token: Int[Array, ""], tables: Tables) -> Branch:
    """Keep the label of the outline being read: what stands between its separator and the first ":"."""
    outline_N = jnp.arange(branch.read_length.shape[0]) == branch.outlines
    text = kind == tags.TEXT
    first = branch.reading == st.READING_FIRST
    reads = text & (first | (branch.reading == st.READING_LABEL)) & ~(first & (token == tables.separator))
    ends = reads & tables.colon_V[token]
    letter = reads & ~ends
    cell_N16 = outline_N[:, None] & (jnp.arange(LABEL_LIMIT) == branch.letters)[None, :]
    complete = (branch.reading == st.READING_DONE) & (branch.spoiled == 0) & (branch.letters <= LABEL_LIMIT)
    length = jnp.where(complete, branch.letters, 0)
    return branch._replace(
        reading=jnp.where(ends, st.READING_DONE, jnp.where(text & first, st.READING_LABEL, branch.reading)),
        letters=branch.letters + letter,
        spoiled=branch.spoiled | (letter & tables.newline_V[token]),
        read_label=jnp.where(letter & cell_N16, token, branch.read_label),
        read_length=jnp.where((kind == tags.OUTLINE_CLOSE) & outline_N, length, branch.read_length),
    )
