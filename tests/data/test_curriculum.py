"""The curriculum as a pure function of seed and step."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.data.curriculum import SHARES, Curriculum
from mvjax.errors import UserError


def test_the_default_shares_of_the_eight_passes():
    curriculum = Curriculum(40)
    draws = [curriculum(step) for step in range(40 * 9)]
    for epoch in range(9):
        share = SHARES[min(epoch, 7)]
        mine = [draw for draw in draws if draw.epoch == epoch]
        assert sorted(draw.index for draw in mine) == list(range(40))
        assert sum(draw.form == "multiverse" for draw in mine) == round(share * 40)


@given(
    st.integers(1, 30), st.integers(0, 2**40), st.lists(st.floats(0, 1), min_size=1, max_size=3), st.integers(0, 200)
)
def test_pure(count, seed, shares, step):
    fresh = Curriculum(count, tuple(shares), seed)(step)
    walked = Curriculum(count, tuple(shares), seed)
    for other in (step + count, 0, step):
        last = walked(other)
    assert last == fresh


def test_seeds_change_order_and_choice_but_shares_do_not_change_the_order():
    order = [Curriculum(50, (0.5,), 1)(step).index for step in range(50)]
    assert order != [Curriculum(50, (0.5,), 2)(step).index for step in range(50)]
    # Twins trained on the two forms see the same problems in the same order.
    assert order == [Curriculum(50, (0.0,), 1)(step).index for step in range(50)]


def test_passes_differ_and_the_given_order_can_be_kept():
    curriculum = Curriculum(50, (0.5,))
    assert [curriculum(step).index for step in range(50)] != [curriculum(50 + step).index for step in range(50)]
    kept = Curriculum(5, (1.0,), shuffle=False)
    assert [kept(step).index for step in range(7)] == [0, 1, 2, 3, 4, 0, 1]


def forms(curriculum, epoch):
    records_N, multiverse_N = curriculum.draws(epoch)
    return dict(zip(records_N.tolist(), multiverse_N.tolist()))


def test_the_halves_of_the_fourth_and_fifth_pass_complement_each_other():
    """What is parallel in pass 4 is sequential in pass 5 and the reverse (the paper's released code)."""
    for count in (40, 41):
        curriculum = Curriculum(count, seed=42)
        fourth, fifth = forms(curriculum, 3), forms(curriculum, 4)
        assert fourth == {record: not parallel for record, parallel in fifth.items()}
        assert sum(fourth.values()) in (count // 2, count - count // 2)
        assert list(fourth) != list(fifth)  # in another order
    assert [epoch for epoch in range(9) if curriculum.is_complement(epoch)] == [4]


def test_a_pass_has_one_complement():
    halves = Curriculum(40, (0.5,))
    assert [halves.is_complement(epoch) for epoch in range(5)] == [False, True, False, True, False]
    assert forms(halves, 0) != forms(halves, 2)
    assert (
        sum(forms(Curriculum(40, (0.3, 0.7)), 0)[i] != forms(Curriculum(40, (0.3, 0.7)), 1)[i] for i in range(40)) == 40
    )
    assert not Curriculum(40, (0.3, 0.6)).is_complement(1)


def test_repeated_records():
    curriculum = Curriculum(3, (1.0,), repeat=(1, 2, 3))
    assert curriculum.length == 6
    assert Counter(curriculum(step).index for step in range(6)) == {0: 1, 1: 2, 2: 3}


@pytest.mark.parametrize(
    "arguments", [{"count": 0}, {"shares": ()}, {"shares": (1.5,)}, {"repeat": (1,)}, {"repeat": (1, 0)}]
)
def test_senseless_settings_are_refused(arguments):
    with pytest.raises(UserError):
        Curriculum(**{"count": 2, **arguments})
