"""What one branch does in one step: the grammar that bars tags, pending tokens, wind-up, reading of labels.

Pure functions of one branch (arXiv 2506.09991, section 4: the model decides, the interpreter reacts to tokens),
`vmap`ped over the rows of all requests. What changes the tree (fork, end of a path) is in `fork_join`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from mvjax.engine import state as st
from mvjax.engine import tables as t
from mvjax.engine.state import Branch, Settings
from mvjax.engine.tables import Tables, bits
from mvjax.language import tags
from mvjax.language.grammar import BODIES, MAP_STATES, RESERVE, RETURN, GrammarState
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


class Drawn(NamedTuple):
    """What came out of the sampler."""

    token: Int[Array, "*frames"]
    stops: Bool[Array, "*frames"]
    """It is a stop id of the request."""
    barred: Bool[Array, "*frames"]
    """The model's own first choice was a tag or end-of-text that the grammar bars."""
    finite: Bool[Array, "*frames"]
    """The logits were such that a token can be drawn, see `sampling.bar`."""


def allowed_kinds(branch: Branch, settings: Settings, tables: Tables) -> Int[Array, ""]:
    """Tags and end-of-text that the branch may sample, as bits; text is always free."""

    def bar(condition, kind):
        return jnp.where(condition, bits(kind), 0)

    share = jnp.minimum(branch.tokens_left, branch.max_pos - branch.next_pos)
    no_block = (branch.depth >= settings.max_depth) | (share < settings.min_block_share)
    root_begins = (branch.depth == 0) & (branch.tokens_left > settings.end_share)
    no_think = (branch.index > 0) | (share <= tables.closing_length[GrammarState.THINK, GrammarState.THINK])
    barred = (
        bar(no_block, tags.PARALLEL_OPEN)
        | bar(no_think, tags.THINK_OPEN)
        | bar(branch.outlines >= settings.max_paths, tags.OUTLINE_OPEN)
        | bar(branch.outlines < 1, tags.GOAL_CLOSE)
        | bar(root_begins | (settings.end_share < 0), t.END_OF_TEXT)
    )
    return tables.allowed[branch.grammar_state] & ~barred


def reserve(branch: Branch, settings: Settings, tables: Tables) -> Int[Array, ""]:
    """Tokens and positions kept for closing: the worst case while blocks may open, else what is open now."""
    return jnp.where(settings.max_depth > 0, RESERVE, tables.closing_length[branch.grammar_state, branch.body_state])


def plan(branch: Branch, settings: Settings, tables: Tables) -> Plan:
    """What the branch does now that its last token has been fed."""
    queued = branch.queue_at < branch.queue_length
    idle = branch.active & ~queued & (branch.after == st.NOTHING)
    kept = reserve(branch, settings, tables)
    reason = jnp.select(
        [settings.wind_up == st.NOT_FINITE, branch.tokens_left <= kept, branch.max_pos - branch.next_pos <= kept],
        [st.NOT_FINITE, st.TOKENS, st.POSITIONS],
        settings.wind_up,
    )
    event = jnp.where(branch.active & ~queued, branch.after, st.NOTHING)
    planned = Plan(idle, event, jnp.zeros_like(event), allowed_kinds(branch, settings, tables))
    return wind_up(branch, planned, jnp.where(idle, reason, 0), tables)


def wind_up(branch: Branch, planned: Plan, reason: Int[Array, ""], tables: Tables) -> Plan:
    """The plan with a wind-up for this reason (0: none) instead of sampling; where nothing is open the branch ends."""
    winds = reason > 0
    nothing_open = tables.closing_length[branch.grammar_state, branch.body_state] == 0
    return planned._replace(
        sample=planned.sample & ~winds, event=jnp.where(winds & nothing_open, st.END, planned.event), wind_up=reason
    )


def refuse(branch: Branch, planned: Plan, finite: Bool[Array, ""], tables: Tables) -> Plan:
    """The plan with a wind-up instead of a token drawn from logits that are not finite."""
    return wind_up(branch, planned, jnp.where(planned.sample & ~finite, st.NOT_FINITE, planned.wind_up), tables)


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
    return append(branch, token, jnp.int32(st.WRITTEN_FLAG) | flags)._replace(queue_at=branch.queue_at + 1)


def with_queue(branch: Branch, *tokens: Int[Array, ""], after: int | Int[Array, ""] = st.NOTHING) -> Branch:
    """The branch with these tokens pending."""
    queue = branch.queue.at[: len(tokens)].set(jnp.stack(tokens))
    zero = jnp.int32(0)
    return branch._replace(queue=queue, queue_at=zero, queue_length=zero + len(tokens), after=zero + after)


def choose(on: Bool[Array, ""], then: Branch, otherwise: Branch) -> Branch:
    """`then` where `on`, field by field."""
    return jax.tree.map(lambda a, b: lax.select(on, a, b), then, otherwise)


def wound_up(branch: Branch, reason: Int[Array, ""], tables: Tables) -> Branch:
    """The branch with the missing closing tags pending and the cut noted."""
    at = branch.grammar_state, branch.body_state
    return branch._replace(
        queue=branch.queue.at[:RESERVE].set(tables.closing[at]),
        queue_at=jnp.int32(0),
        queue_length=tables.closing_length[at],
        after=jnp.int32(st.END),
        cut=reason,
    )


def act(branch: Branch, planned: Plan, drawn: Drawn, tables: Tables) -> tuple[Branch, Int[Array, ""], Bool[Array, ""]]:
    """Carry out a plan. Returns the branch, the event (an end-of-text in the root makes one), and abandoned or not.

    Args:
        drawn: a token that its plan allows; not read unless the plan is to sample.
    """
    winds = planned.wind_up > 0
    abandoned = winds & jnp.isin(branch.grammar_state, jnp.array(MAP_STATES))
    branch = choose(winds, wound_up(branch, planned.wind_up, tables), branch)
    writes = branch.active & ~planned.sample & (planned.event == st.NOTHING)

    sampled = drawn.token
    kind = jnp.where(drawn.stops, t.END_OF_TEXT, tables.kind_V[sampled].astype(jnp.int32))
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
    state = tables.next_state[branch.grammar_state, kind + 1]
    state = jnp.where(state == RETURN, branch.body_state, state)
    branch = read_label(branch, kind, token, tables)
    ends = at(tags.GOAL_CLOSE, tags.PATH_CLOSE)
    return branch._replace(
        grammar_state=state,
        body_state=jnp.where(state <= max(BODIES), state, branch.body_state),
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
