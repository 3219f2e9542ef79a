"""Whether a text reaches an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator.checks.answer import reached


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42.", "42"),
        ("So it is \\boxed{\\frac{1}{2}}.", "0.5"),
        ("We get \\boxed{1{,}200}.", "1200"),
        ("It has 6 apples. The answer is 6 \\text{ cm}^2", "6"),
        ("First \\boxed{6}, then \\boxed{9}.", "6, 9"),
        ("\\boxed{(6, 9)}", "(6,9)"),
        ("The answer is 42 because 6 * 7 = 42.", "42"),
        ("The final answer is $\\boxed{12}$.", "\\boxed{12}"),
        ("So 10 * 5 = 50 dollars are left.", "He earns 10 * 5.\n#### 50"),
        ("There are twelve of them.", "12"),
        ("The answer is (B).", "B"),
        ("It is in \\boxed{\\text{Paris}}.", "paris"),
        ("\\boxed{3x + 2}", "3x+2"),
        ("It is \\boxed{2\\sqrt{3}}.", "\\sqrt{12}"),
        ("答案是42。", "42"),
        ("الجواب هو ٤٢.", "42"),
        ("उत्तर ४२ है।", "42"),
        ("答案是巴黎。", "巴黎"),
    ],
)
def test_reached(text, answer):
    assert reached(text, answer) is True


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{43}", "42"),
        ("We had 42 first. So the answer is 43.", "42"),
        ("It is 41.", "42"),
        ("\\boxed{(6, 8)}", "(6,9)"),
        ("\\boxed{-3}", "3"),
        ("\\boxed{1/2}", "1/3"),
        ("The answer is A", "B"),
        ("The answer is Lyon", "Paris"),
        ("answer: yes", "no"),
    ],
)
def test_not_reached(text, answer):
    assert reached(text, answer) is False


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is so.", ""),
        ("It is so.", "Because the group is simple and its order divides 60, it is isomorphic to A_5. " * 3),
        ("It is so.", "yes"),
        (f"There are 42 of them. {'And so on. ' * 80}", "42"),
        ("It is \\boxed{2\\sqrt{3}}.", "\\sqrt{13}"),
    ],
)
def test_what_cannot_be_decided(text, answer):
    assert reached(text, answer) is None


def test_the_order_of_results_counts_where_the_record_says_so():
    assert reached("The answer is 3, 8.", "8, 3") is True
    assert reached("The answer is 3, 8.", "8, 3", "list") is not True


def test_boxes_without_end():
    assert reached("\\boxed{" * 2000, "5") is False


TEXT = st.one_of(
    st.text(), st.lists(st.sampled_from([*"0123./,-{}^= ", "\\boxed{", "answer is "]), max_size=30).map("".join)
)


@given(TEXT, TEXT)
def test_no_text_breaks_it_and_a_text_contains_itself(text, answer):
    assert reached(text, answer) in (True, False, None)
    assert reached(f"{text} \\boxed{{{answer}}}", answer) is not False
