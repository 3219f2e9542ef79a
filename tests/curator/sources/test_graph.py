"""Plans from dependency graphs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator.sources.graph import Parallel, is_parallel, plan, span


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 8))
    return [draw(st.sets(st.integers(0, step - 1), max_size=3)) if step else set() for step in range(size)]


def places(arranged, prefix=()):
    """{step: (order within sequences and branches)}: enough to say whether one step surely runs before another."""
    out = {}
    for place, part in enumerate(arranged):
        if isinstance(part, int):
            out[part] = (*prefix, place)
        else:
            for number, branch in enumerate(part.branches):
                out |= places(branch, (*prefix, place, ("branch", number)))
    return out


def before(a, b):
    """Whether the step at a ends before the one at b begins."""
    for x, y in zip(a, b):
        if x != y:
            return not isinstance(x, tuple) and x < y
    return False


@given(graphs())
def test_every_step_once_and_after_what_it_needs(needs):
    where = places(plan(needs))
    assert sorted(where) == list(range(len(needs)))
    for step, direct in enumerate(needs):
        for other in direct:
            assert before(where[other], where[step])


@given(graphs())
def test_span_is_the_longest_chain_of_the_plan(needs):
    arranged = plan(needs)
    longest = 0
    depth = {}
    where = places(arranged)
    for step in range(len(needs)):
        earlier = [depth[o] for o in range(step) if before(where[o], where[step])]
        depth[step] = 1 + max(earlier, default=0)
        longest = max(longest, depth[step])
    assert span(arranged) >= longest
    assert is_parallel(arranged) == (span(arranged) < len(needs))


def test_a_chain_stays_a_chain():
    assert plan([set(), {0}, {1}]) == (0, 1, 2)


def test_two_sources_and_their_merge():
    assert plan([set(), set(), {0, 1}]) == (Parallel(((0,), (1,))), 2)


def test_interleaved_chains_are_sorted_into_their_branches():
    assert plan([set(), set(), {0}, {1}, {2, 3}]) == (Parallel(((0, 2), (1, 3))), 4)


def test_a_branch_with_independent_steps_of_its_own():
    inner = Parallel(((0,), (1,)))
    assert plan([set(), set(), {0, 1}, set(), {2, 3}]) == (Parallel(((inner, 2), (3,))), 4)


def test_a_shared_source_comes_first():
    assert plan([set(), {0}, {0}, {1, 2}]) == (0, Parallel(((1,), (2,))), 3)


def test_a_graph_beyond_series_and_parallel_keeps_its_dependencies():
    # 2 needs 0; 3 needs 0 and 1: neither falls apart nor has stages.
    arranged = plan([set(), set(), {0}, {0, 1}])
    assert is_parallel(arranged)
    where = places(arranged)
    assert before(where[0], where[2])
    assert before(where[1], where[3])
    assert before(where[0], where[3])


def test_a_step_cannot_need_a_later_one():
    with pytest.raises(ValueError, match="not before it"):
        plan([{1}, set()])
