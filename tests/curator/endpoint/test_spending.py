"""Budgets hold whatever the calls in flight come to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.curator.endpoint.spending import NOTHING, Prices, Spending, Usage, estimate, prompt_tokens
from mvjax.curator.production import Call, Reply

PRICES = Prices(prompt=1.0, completion=3.0)


def call(number, max_tokens=1000):
    return Call("tree", str(number), ({"role": "user", "content": "x" * 400},), max_tokens=max_tokens)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5000), st.booleans(), st.floats(0, 1)), max_size=30),
    st.sampled_from([0, 1e-4, 0.01, 0.05]),
    st.sampled_from([0, 500, 5000, 20_000]),
)
def test_a_budget_is_never_overrun(calls, budget, token_budget):
    spending = Spending(PRICES, budget, token_budget)
    flying, refused = [], 0

    def land():
        one, share = flying.pop(0)
        spending.add(Reply("", prompt_tokens=prompt_tokens(one), completion_tokens=round(one.max_tokens * share)), one)

    for number, most, landing, share in calls:
        one = call(number, most)
        if spending.allows(one):
            flying.append((one, share))
        else:
            refused += 1
        if landing and flying:
            land()
    while flying:
        land()
    assert not budget or spending.spent <= budget + 1e-12
    assert not token_budget or spending.tokens <= token_budget
    assert budget or token_budget or not refused
    # Nothing is in flight any more: exactly what is left can be had.
    if token_budget and not budget and (left := token_budget - spending.tokens - 104) > 0:
        assert not spending.allows(call(0, left + 1))
        assert spending.allows(call(0, left))


def test_calls_in_flight_count_at_their_worst():
    spending = Spending(PRICES, budget=0.007)
    one, two, same = call(1), call(2), call(1)
    assert spending.allows(one)
    assert spending.allows(same)
    assert not spending.allows(two)
    spending.add(Reply("", prompt_tokens=104, completion_tokens=10), one)
    assert spending.spent == pytest.approx(134e-6)
    assert spending.allows(two)
    assert not spending.allows(call(3))


def test_what_was_spent_before_counts_and_no_budget_stops_nothing():
    spending = Spending(PRICES, 0.01)
    spending.add(Reply("", prompt_tokens=9000, completion_tokens=0))
    assert (spending.spent, spending.tokens) == (0.009, 9000)
    assert not spending.allows(call(2))
    assert Spending(PRICES).allows(call(3, 10**9))
    assert PRICES.cost(1_000_000, 2_000_000) == 7.0


def test_tokens_are_estimated():
    assert estimate("") == 0
    assert estimate("word " * 8) == 10
    assert estimate("多元宇宙") == 3
    assert estimate("\ud800") == 1
    assert prompt_tokens(call(1)) == 104


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 0}, Usage(7, 0)),
        ({"prompt_tokens": 7}, Usage(7, 2, estimated=True)),
        ({"prompt_tokens": None, "completion_tokens": 5}, Usage(104, 5, estimated=True)),
        ({"prompt_tokens": -1, "completion_tokens": True}, Usage(104, 2, estimated=True)),
        (None, Usage(104, 2, estimated=True)),
        ("many", Usage(104, 2, estimated=True)),
    ],
)
def test_usage_that_is_not_told_is_estimated_and_marked(told, usage):
    assert Usage.read(told, call(1), "a reply") == usage
    assert NOTHING + usage == usage
