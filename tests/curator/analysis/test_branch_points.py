"""Points where something parallel may begin, found in both forms of a record."""

from mvjax.curator.analysis.branch_points import PROMPT, points
from mvjax.curator.sources.synthetic import SyntheticConfig, generate
from mvjax.curator.text.transcript import Block, Path, multiverse
from mvjax.data.records import Record

INNER = Block((Path("Find c.", ("c is three here.",)), Path("Find d.", ("d is four here.",))), "Three, four.")
OUTER = Block(
    (
        Path("Find a.", ("a begins like this.", "Then a is one.", INNER, "So it goes.")),
        Path("Find b.", ("b is two as stated.", "And that is all.")),
    ),
    "One and two.",
)
SEQUENTIAL = (
    "First we read it. It is easy.",
    "a begins like this.",
    "Then a is one.",
    "c is three here.",
    "d is four here.",
    "So it goes.",
    "b is two as stated.",
    "And that is all.",
    "Now we add them up.",
    "The answer is 3.",
)


def record(body=None, sequential=SEQUENTIAL, response=None):
    response = multiverse(body) if response is None else response
    return Record("r", ({"role": "user", "content": "q"},), response, "\n".join(sequential), "3", "test", {})


BODY = (SEQUENTIAL[0], OUTER, *SEQUENTIAL[-2:])


def told(record, form):
    """The points as what stands before and behind them."""
    text = record.response if form == "multiverse" else record.autoregressive
    out = []
    for point in points(record, form):
        assert point.place == PROMPT or text[point.place] == "\n"
        before = "" if point.place == PROMPT else text[: point.place].rstrip().split("\n")[-1]
        out.append((point.kind, before, text[point.place + 1 :].split("\n")[0], point.parallel))
    return out


def test_multiverse_form():
    assert told(record(BODY), "multiverse") == [
        ("start", "", SEQUENTIAL[0], False),
        ("line", SEQUENTIAL[0], "Let's think in parallel.", True),
        ("line", "1: a begins like this.", "Then a is one.", False),
        ("line", "Then a is one.", "Let's think in parallel.", True),
        ("line", "2: b is two as stated.", "And that is all.", False),
        ("line", "Now we add them up.", "The answer is 3.", False),
    ]


def test_autoregressive_form_has_the_same_points():
    assert told(record(BODY), "autoregressive") == [
        ("start", "", SEQUENTIAL[0], False),
        ("line", SEQUENTIAL[0], "a begins like this.", True),
        ("line", "a begins like this.", "Then a is one.", False),
        ("line", "Then a is one.", "c is three here.", True),
        ("line", "b is two as stated.", "And that is all.", False),
        ("line", "Now we add them up.", "The answer is 3.", False),
    ]


def test_a_block_at_the_start():
    assert told(record((OUTER, *SEQUENTIAL[-2:]), SEQUENTIAL[1:]), "multiverse")[0] == (
        "start", "", "Let's think in parallel.", True
    )  # fmt: skip
    assert told(record((OUTER, *SEQUENTIAL[-2:]), SEQUENTIAL[1:]), "autoregressive")[0] == (
        "start", "", "a begins like this.", True
    )  # fmt: skip


def test_a_block_without_its_announcement_and_thought():
    whole = multiverse(BODY).replace("Let's think in parallel.\n", "").replace("\n<Parallel>", "\n\n<Parallel>", 1)
    found = told(record(response=f"<Think>\n{whole}\n</Think>\nIt is 3."), "multiverse")
    assert found[0] == ("start", "<Think>", SEQUENTIAL[0], False)
    assert found[1] == ("line", SEQUENTIAL[0], "<Parallel>", True)
    assert [point[3] for point in found] == [False, True, False, True, False, False]


def test_thought_in_both_forms():
    response = f"<Think>\n{multiverse(BODY)}\n</Think>\n\nAnswer: 3."
    made = record(sequential=("<Think>", *SEQUENTIAL, "</Think>", "", "Answer: 3."), response=response)
    found, bare = told(made, "autoregressive"), told(record(BODY), "autoregressive")
    assert found[0] == ("start", "<Think>", *bare[0][2:])
    assert found[1 : len(bare)] == bare[1:]


def test_another_order_gives_no_point():
    turned = (SEQUENTIAL[0], *SEQUENTIAL[-2:], *SEQUENTIAL[1:-2])
    found = told(record(BODY, turned), "autoregressive")
    assert ("line", SEQUENTIAL[0]) not in [point[:2] for point in found]
    twice = (*SEQUENTIAL, "Now we add them up.")
    assert "Now we add them up." not in [point[1] for point in told(record(BODY, twice), "autoregressive")]


def test_text_without_blocks_has_negative_points_only():
    for one in generate(SyntheticConfig(degree=(1, 1)), 3):
        for form in ("multiverse", "autoregressive"):
            assert not any(point.parallel for point in points(one, form))


def test_every_synthetic_block_is_found():
    for one in generate(SyntheticConfig(degree=(2, 4), nesting=(0, 2)), 12):
        for form in ("multiverse", "autoregressive"):
            found = points(one, form)
            assert sum(point.parallel for point in found) == one.response.count("<Parallel>")
