"""The grammar as data: every entry of ALLOWED, where NEXT leads, and that what closes a state does close it."""

import itertools

import pytest

from mvjax.engine.tables import END_OF_TEXT, build_tables
from mvjax.language import TAGS
from mvjax.language.grammar import (
    ALLOWED,
    BODIES,
    ILLEGAL,
    MAP_STATES,
    MAY_END,
    NEXT,
    RESERVE,
    RETURN,
    Audience,
    Block,
    GrammarState,
    closing_tags,
)

SAMPLED = {
    "BODY": "<Parallel> <Think>",
    "THINK": "<Parallel> </Think>",
    "PATH": "<Parallel> </Path>",
    "BLOCK": "<Goal>",
    "GOAL": "<Outline> </Goal>",
    "OUTLINE": "</Outline>",
    "MAPPED": "",
    "BETWEEN": "",
    "CONCLUSION": "</Conclusion>",
    "CONCLUDED": "</Parallel>",
}
IN_TRAINING = SAMPLED | {"MAPPED": "<Path>", "BETWEEN": "<Path> <Conclusion>"}
IN_TRANSCRIPTS = IN_TRAINING | {"BLOCK": "<Goal> </Parallel>", "MAPPED": "<Path> </Parallel>"}


def names(audience: Audience, state: GrammarState) -> set[str]:
    return {TAGS[tag] for tag in ALLOWED[audience][state]}


@pytest.mark.parametrize("state", GrammarState)
def test_who_may_do_what(state):
    """Word for word from section 7 of the rules; each may do what those before it may, the sampler least."""
    assert names(Audience.SAMPLER, state) == set(SAMPLED[state.name].split())
    assert names(Audience.TRAINING, state) == set(IN_TRAINING[state.name].split())
    assert names(Audience.TRANSCRIPT, state) == set(IN_TRANSCRIPTS[state.name].split())
    assert names(Audience.SAMPLER, state) <= names(Audience.TRAINING, state) <= names(Audience.TRANSCRIPT, state)


def test_the_sampler_gets_its_own_table_and_no_wider_one():
    from random_requests import TABLES

    tables = build_tables(TABLES, TABLES.eos_ids, 4)
    for state in GrammarState:
        kinds = {kind for kind in range(END_OF_TEXT + 1) if tables.allowed[state] >> kind & 1}
        ends = {END_OF_TEXT} if state in (GrammarState.BODY, GrammarState.PATH) else set()
        assert kinds == {TAGS.index(tag) for tag in SAMPLED[state.name].split()} | ends
        assert (state in MAY_END) == bool(ends)
        assert tables.next_state[state].tolist() == [state, *NEXT[state].tolist(), state]


def test_a_tag_leads_somewhere_where_it_is_allowed_and_nowhere_else():
    for state, tag in itertools.product(GrammarState, range(len(TAGS))):
        assert (NEXT[state, tag] != ILLEGAL) == (tag in ALLOWED[Audience.TRANSCRIPT][state])
        assert NEXT[state, tag] in (*GrammarState, RETURN, ILLEGAL)
        if NEXT[state, tag] == RETURN:
            assert TAGS[tag] == "</Parallel>"


def walk(state: GrammarState, body: GrammarState, tags) -> tuple[int, int]:
    """State and body behind some tags of one segment."""
    for tag in tags:
        following = NEXT[state, tag]
        assert following != ILLEGAL, (state, TAGS[tag])
        state = body if following == RETURN else GrammarState(following)
        body = state if state in BODIES else body
    return state, body


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("state", GrammarState)
def test_closing_tags_close_everything(state, body):
    if state in BODIES and state != body:
        return
    tags = closing_tags(state, body)
    end, _ = walk(state, body, tags)
    assert end == (GrammarState.BETWEEN if body == GrammarState.PATH else GrammarState.BODY)
    assert 2 * len(tags) <= RESERVE
    assert (state in MAP_STATES) == (state in (GrammarState.BLOCK, GrammarState.GOAL, GrammarState.OUTLINE))


def test_every_state_is_reached_and_the_longest_closing_is_that_of_an_outline_in_a_path():
    assert {int(state) for state in NEXT.ravel() if state >= 0} == set(GrammarState)
    assert RESERVE == 8
    assert 2 * len(closing_tags(GrammarState.OUTLINE, GrammarState.PATH)) == RESERVE


@pytest.mark.parametrize("engine", [False, True])
def test_counts_bar_tags_of_a_block(engine):
    """Training: a goal wants an outline, a block a path for each, and then its conclusion. Cuts leave some out."""
    audience = Audience.TRANSCRIPT if engine else Audience.TRAINING
    block = Block(0, level=0)

    def allowed():
        return [TAGS[tag] for tag in block.allowed(audience)]

    def take(tag):
        block.take(1, TAGS.index(tag))

    assert allowed() == ["<Goal>"] + ["</Parallel>"] * engine
    take("<Goal>")
    assert allowed() == ["<Outline>"] + ["</Goal>"] * engine
    for _ in range(2):
        take("<Outline>")
        assert allowed() == ["</Outline>"]
        take("</Outline>")
    assert allowed() == ["<Outline>", "</Goal>"]
    take("</Goal>")
    assert allowed() == ["<Path>"] + ["</Parallel>"] * engine
    take("<Path>")
    assert allowed() == ["<Parallel>", "</Path>"]
    take("</Path>")
    assert allowed() == ["<Path>"] + ["<Conclusion>"] * engine
    take("<Path>")
    take("</Path>")
    assert allowed() == ["<Conclusion>"]
    take("<Conclusion>")
    assert allowed() == ["</Conclusion>"]
    take("</Conclusion>")
    assert allowed() == ["</Parallel>"]
