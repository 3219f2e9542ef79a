"""The synthetic family over all its dials."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.curator.sources.synthetic import LARGEST, LARGEST_SUM, SyntheticConfig, generate, in_split, item
from mvjax.curator.sources.synthetic import Chain as MadeChain
from mvjax.errors import UserError
from mvjax.grading import grade
from mvjax.language import lay_out, parse_text, split_text
from mvjax.language.text import piece_facts

CHAIN = re.compile(r"\w+ ([\d.]+): \D*(\d+)([^.]*)\.(?=\s|$)")
SUM = re.compile(r"\w+ ([\d.]+) is the sum of \w+ ([\d., and]+?)\.(?=\s|$)")
MINUS = ("subtract", "gives away", "loses", "minus")


@st.composite
def dials(draw):
    def span(low, high):
        first = draw(st.integers(low, high))
        return first, draw(st.integers(first, high))

    return SyntheticConfig(
        degree=span(1, 16),
        length=span(1, 6),
        nesting=span(0, 2),
        uneven=draw(st.sampled_from([0.0, 0.5, 1.0])),
        seed=draw(st.integers(0, 10**6)),
        split=draw(st.sampled_from(["train", "test"])),
    )


def solve(prompt):
    """Results of all parts, and steps of every chain, worked out from the words of the prompt alone."""
    chains, sums = {}, {}
    for label, start, steps in CHAIN.findall(prompt):
        signed = [
            -int(re.search(r"\d+", step)[0]) if any(word in step for word in MINUS) else int(re.search(r"\d+", step)[0])
            for step in steps.split(",")[1:]
        ]
        chains[label] = int(start), signed
    for label, parts in SUM.findall(prompt):
        sums[label] = re.findall(r"[\d.]+", parts)

    def value(label):
        if label in chains:
            return chains[label][0] + sum(chains[label][1])
        return sum(value(part) for part in sums[label])

    return {label: value(label) for label in (*chains, *sums)}, chains, sums


def right(record, text):
    return grade(text, record.answer, record.meta["kind"]).correct


@settings(max_examples=60, deadline=None)
@given(dials(), st.integers(0, 1000))
def test_items_are_right_whatever_the_dials(config, index):
    record = item(config, index)
    values, chains, sums = solve(record.messages[0]["content"])
    top = sorted((label for label in values if "." not in label), key=int)
    assert record.answer == ", ".join(str(values[label]) for label in top)
    assert record.meta["kind"] == "list"
    assert right(record, record.response)
    assert right(record, record.autoregressive)
    assert config.degree[0] <= len(top) <= config.degree[1]

    codes_T, colon_T, separator_T = piece_facts(split_text(record.response))
    layout = lay_out(codes_T, colon_T, separator_T=separator_T, complete=True)
    parse_text(record.response, complete=True)
    widths = [(block.level, len(block.paths)) for block in layout.structure.blocks]
    if len(top) == 1:
        assert widths == []
        assert record.response == record.autoregressive
    else:
        assert widths[0] == (0, len(top))
        assert len(widths) == 1 + len(sums)
        deepest = max(label.count(".") for label in values)
        assert layout.depth == deepest + 1
        assert config.nesting[0] <= deepest <= config.nesting[1]
        assert record.meta["nesting"] == deepest

    for start, steps in chains.values():
        assert config.length[0] <= len(steps) <= config.length[1]
        running = start
        for step in steps:
            running += step
            assert 0 <= running <= LARGEST
        assert in_split(MadeChain(start, tuple(steps)), config.split)
    assert all(values[label] <= LARGEST_SUM for label in sums)


@settings(max_examples=40, deadline=None)
@given(dials(), st.integers(0, 1000))
def test_every_calculation_of_a_path_belongs_to_its_own_part(config, index):
    """So no path can use a sibling's result: its text is its part's own sentence of the prompt, its start and steps."""
    record = item(config, index)
    prompt = record.messages[0]["content"]
    _, chains, _ = solve(prompt)
    for label, text in re.findall(r"(?:<Path>\n|^)([\d.]+): ([^\n]*)", record.response, re.MULTILINE):
        if label not in chains or "=" not in text:
            continue
        value, steps = chains[label]
        forms = []
        for k in range(len(steps) + 1):
            forms.append(f"{value + sum(steps[:k])}{''.join(f'{step:+d}' for step in steps[k:])}")
        told, calculation, _ = text.split(". ")
        assert f" {told}." in prompt
        assert told.split(": ")[0].split()[-1] == label
        assert calculation == "=".join(forms)


@settings(max_examples=40, deadline=None)
@given(dials(), st.integers(0, 1000))
def test_ideal_parallel_is_work_over_span(config, index):
    record = item(config, index)
    _, chains, sums = solve(record.messages[0]["content"])

    def work_and_span(label):
        if label in chains:
            return len(chains[label][1]), len(chains[label][1])
        parts = [work_and_span(part) for part in sums[label]]
        merge = len(parts) - 1
        return sum(work for work, _ in parts) + merge, max(span for _, span in parts) + merge

    parts = [work_and_span(label) for label in (*chains, *sums) if "." not in label]
    ideal = sum(work for work, _ in parts) / max(span for _, span in parts)
    assert record.meta["ideal_parallel"] == pytest.approx(ideal, abs=1e-4)


def test_ideal_parallel_of_even_flat_parts_is_their_number():
    config = SyntheticConfig(degree=(7, 7), length=(3, 3), nesting=(0, 0), uneven=0)
    assert {record.meta["ideal_parallel"] for record in generate(config, 20)} == {7.0}


def test_equal_seeds_give_equal_items_whatever_the_count():
    config = SyntheticConfig(seed=3)
    assert list(generate(config, 5)) == list(generate(config, 20))[:5]
    assert item(SyntheticConfig(seed=4), 0) != item(config, 0)


def test_train_and_test_share_no_chain():
    def chains(split):
        config = SyntheticConfig(degree=(1, 16), length=(1, 2), split=split)
        found = set()
        for record in generate(config, 150):
            found |= {(start, *steps) for start, steps in solve(record.messages[0]["content"])[1].values()}
        return found

    train, test = chains("train"), chains("test")
    assert len(train) > 100
    assert len(test) > 50
    assert not train & test


def test_parts_have_different_results():
    """As far as a few draws find them: always with few long parts, where there are many results to be had."""
    config = SyntheticConfig(degree=(2, 8), length=(3, 5), nesting=(0, 0))
    answers = [record.answer.split(", ") for record in generate(config, 100)]
    assert all(len(set(values)) == len(values) for values in answers)


def test_the_wording_varies():
    openings = {re.sub(r"\d+", "", r.messages[0]["content"])[:12] for r in generate(SyntheticConfig(), 60)}
    assert len(openings) >= 4


def test_grading_wants_every_result_in_order():
    record = item(SyntheticConfig(degree=(3, 3), nesting=(0, 0)), 0)
    first, *rest = record.answer.split(", ")
    assert not right(record, f"The answer is {', '.join(rest)}.")
    assert not right(record, f"The answer is {', '.join([str(int(first) + 1), *rest])}.")
    assert not right(record, ", ".join(reversed(record.answer.split(", "))))
    assert right(record, f"The answer is 1. The answer is {record.answer}.")


@pytest.mark.parametrize(
    "dial",
    [{"degree": (0, 3)}, {"degree": (2, 17)}, {"length": (4, 2)}, {"nesting": (0, 3)}, {"uneven": 1.5}, {"split": "x"}],
)
def test_dials_out_of_range_are_refused(dial):
    with pytest.raises(UserError, match=f"--{next(iter(dial))}"):
        SyntheticConfig(**dial)
