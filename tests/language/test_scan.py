"""Malformed transcripts: each kind is rejected with its place, what was found and what was expected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import TreeConfig, token_facts, transcripts

from mvjax.language import TAGS, TEXT, TranscriptError, lay_out
from mvjax.language.scan import scan

GOAL = "<Goal> ~ <Outline> ~ 1: x ~ </Outline> ~ <Outline> ~ 2: y ~ </Outline> ~ </Goal> ~"
PATHS = "<Path> ~ 1: a ~ </Path> ~ <Path> ~ 2: b ~ </Path> ~"
REDUCE = "<Conclusion> ~ z ~ </Conclusion> ~ </Parallel> ~"


def tokens_of(text):
    """Tokens between blanks; ~ is a newline."""
    return ["\n" if token == "~" else token for token in text.split()]


def laid_out(text, prompt_length=0, known_separators=True, **options):
    codes_T, colon_T, separator_T = token_facts(tokens_of(text))
    options["separator_T"] = separator_T if known_separators else None
    return lay_out(codes_T, colon_T, prompt_length, **options)


MALFORMED = {
    "path end without path": ("hi ~ </Path> ~", "</Path>", "</Path> outside a block", "text, <Parallel> or <Think>"),
    "path outside a block": ("hi ~ <Path> ~ 1: a ~", "<Path>", "<Path> outside a block", "text, <Parallel> or <Think>"),
    "conclusion outside a block": ("hi ~ <Conclusion> ~", "<Conclusion>", "<Conclusion> outside", "<Parallel>"),
    "block without anything": ("<Parallel> ~ </Parallel> ~", "</Parallel>", "of a block without a path", "<Goal>"),
    "path before goal": ("<Parallel> ~ <Path> ~ 1: a ~", "<Path>", "<Path> after <Parallel>", "<Goal>"),
    "block without a path": (
        f"<Parallel> ~ {GOAL} </Parallel> ~",
        "</Parallel>",
        "</Parallel> of a block without a path",
        "<Path> (1 of 2)",
    ),
    "conclusion without a path": (
        f"<Parallel> ~ {GOAL} {REDUCE}",
        "<Conclusion>",
        "<Conclusion> after </Goal>",
        "<Path> (1 of 2)",
    ),
    "goal without outline": ("<Parallel> ~ <Goal> ~ </Goal> ~", "</Goal>", "</Goal> in <Goal>", "<Outline>"),
    "second goal": (f"<Parallel> ~ {GOAL} {GOAL}", "<Goal>:2", "<Goal> after </Goal>", "<Path> (1 of 2)"),
    "outline in outline": (
        "<Parallel> ~ <Goal> ~ <Outline> ~ 1: x ~ <Outline> ~ 2: y ~",
        "<Outline>:2",
        "<Outline> in <Outline>",
        "text or </Outline>",
    ),
    "outline without label": (
        "<Parallel> ~ <Goal> ~ <Outline> ~ x ~ </Outline> ~",
        "<Outline>",
        "<Outline> without a label",
        'a label of at most 16 tokens and ":"',
    ),
    "fewer paths than outlines": (
        f"<Parallel> ~ {GOAL} <Path> ~ 1: a ~ </Path> ~ {REDUCE}",
        "<Conclusion>",
        "<Conclusion> after </Path>",
        "<Path> (2 of 2)",
    ),
    "more paths than outlines": (
        f"<Parallel> ~ {GOAL} {PATHS} <Path> ~ 3: c ~ </Path> ~",
        "<Path>:3",
        "<Path> beyond the block's 2 outlines",
        "<Conclusion>",
    ),
    "path not closed": (
        f"<Parallel> ~ {GOAL} <Path> ~ 1: a ~ <Path> ~ 2: b ~",
        "<Path>:2",
        "<Path> in <Path>",
        "text, <Parallel> or </Path>",
    ),
    "conclusion inside a path": (
        f"<Parallel> ~ {GOAL} <Path> ~ 1: a ~ <Conclusion> ~",
        "<Conclusion>",
        "<Conclusion> in <Path>",
        "</Path>",
    ),
    "block between paths": (
        f"<Parallel> ~ {GOAL} <Path> ~ 1: a ~ </Path> ~ <Parallel> ~",
        "<Parallel>:2",
        "<Parallel> after </Path>",
        "<Path> (2 of 2)",
    ),
    "block in a goal": ("<Parallel> ~ <Goal> ~ <Parallel> ~", "<Parallel>:2", "<Parallel> in <Goal>", "<Outline>"),
    "block in a conclusion": (
        f"<Parallel> ~ {GOAL} {PATHS} <Conclusion> ~ <Parallel> ~",
        "<Parallel>:2",
        "<Parallel> in <Conclusion>",
        "text or </Conclusion>",
    ),
    "second conclusion": (
        f"<Parallel> ~ {GOAL} {PATHS} <Conclusion> ~ z ~ </Conclusion> ~ <Conclusion> ~",
        "<Conclusion>:2",
        "<Conclusion> after </Conclusion>",
        "</Parallel>",
    ),
    "no conclusion": (
        f"<Parallel> ~ {GOAL} {PATHS} </Parallel> ~",
        "</Parallel>",
        "</Parallel> after </Path>",
        "<Conclusion>",
    ),
    "path without label": (
        f"<Parallel> ~ {GOAL} <Path> ~ a ~ </Path> ~",
        "<Path>",
        "<Path> without a label",
        "a label",
    ),
    "label too long": (
        f"<Parallel> ~ {GOAL} <Path> ~ {'1 ' * 17} : a ~ </Path> ~",
        "<Path>",
        "<Path> without a label",
        "at most 16 tokens",
    ),
    "label over two lines": (
        f"<Parallel> ~ {GOAL} <Path> ~ so ~ 1: a ~ </Path> ~",
        "<Path>",
        "<Path> without a label",
        "a label",
    ),
    "text before a path": (
        f"<Parallel> ~ {GOAL} well <Path> ~",
        "well",
        "text after </Goal>",
        "<Path> (1 of 2)",
    ),
    "text between paths": (
        f"<Parallel> ~ {GOAL} <Path> ~ 1: a ~ </Path> ~ next <Path> ~",
        "next",
        "text after </Path>",
        "<Path> (2 of 2)",
    ),
    "text in a goal": ("<Parallel> ~ <Goal> ~ well <Outline> ~", "well", "text after <Goal>", "<Outline>"),
    "no separator after a path's tag": (
        f"<Parallel> ~ {GOAL} <Path> 1: a ~",
        "1::2",
        "no separator after <Path>",
        "a newline",
    ),
    "no separator before a path": (
        f"<Parallel> ~ {GOAL[:-2]} <Path> ~ 1: a ~",
        "<Path>",
        "no separator after </Goal>",
        "a newline",
    ),
    "think end without think": ("hi ~ </Think> ~", "</Think>", "</Think> without <Think>", "text"),
    "think in think": ("<Think> ~ <Think> ~", "<Think>:2", "<Think> inside <Think>", "</Think>"),
    "second think": (
        "<Think> ~ </Think> ~ <Think> ~",
        "<Think>:2",
        "<Think> that does not begin the response",
        "text or <Parallel>",
    ),
    "think in a path": (
        f"<Parallel> ~ {GOAL} <Path> ~ 1: <Think> ~",
        "<Think>",
        "<Think> in <Path>",
        "text, <Parallel> or </Path>",
    ),
    "think closed in a path": (
        f"<Think> ~ <Parallel> ~ {GOAL} <Path> ~ 1: </Think> ~",
        "</Think>",
        "</Think> in <Path>",
        "</Path>",
    ),
    "think after a block": (
        f"<Parallel> ~ {GOAL} {PATHS} {REDUCE} <Think> ~",
        "<Think>",
        "<Think> that does not begin the response",
        "text",
    ),
}


def place_of(tokens, spot):
    """Index of "token" or of the n-th one, "token:n"."""
    token, number = (spot[:-2], int(spot[-1])) if spot[-2:] in (":2", ":3") else (spot, 1)
    return [index for index, other in enumerate(tokens) if other == token][number - 1]


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed(kind):
    text, spot, found, expected = MALFORMED[kind]
    with pytest.raises(TranscriptError) as caught:
        laid_out(text, record="record 7")
    error = caught.value
    assert error.index == place_of(tokens_of(text), spot)
    assert found in error.found
    assert expected in error.expected
    assert str(error) == f"record 7: token {error.index}: {error.found}; expected {error.expected}"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("<Think> ~ hi", "</Think>"),
        ("<Parallel> ~", "<Goal>"),
        (f"<Parallel> ~ {GOAL}", "<Path> (1 of 2)"),
        (f"<Parallel> ~ {GOAL} <Path> ~", "</Path>"),
        (f"<Parallel> ~ {GOAL} {PATHS}", "<Conclusion>"),
        (f"<Parallel> ~ {GOAL} {PATHS} <Conclusion> ~ z ~ </Conclusion> ~", "</Parallel>"),
    ],
)
def test_a_cut_transcript_is_legal_unless_a_complete_one_is_wanted(text, missing):
    assert laid_out(text).open == ("<Parallel>" in text)
    with pytest.raises(TranscriptError) as caught:
        laid_out(text, complete=True)
    assert caught.value.index == len(tokens_of(text))
    assert caught.value.found == "end of the transcript"
    assert missing in caught.value.expected


def test_a_whole_transcript_is_complete():
    assert not laid_out(f"<Think> ~ <Parallel> ~ {GOAL} {PATHS} {REDUCE} </Think> ~ so", complete=True).open


def test_a_response_begins_with_think_or_has_none():
    laid_out("ask ~ <Think> ~", prompt_length=2)
    laid_out("ask ~ <Think> ~")  # where the prompt ends is not known
    with pytest.raises(TranscriptError, match="token 3: <Think> that does not begin the response"):
        laid_out("ask ~ hi <Think> ~", prompt_length=2)


@pytest.mark.parametrize(
    "text",
    [
        "<Parallel> ~ </Parallel> ~ on",
        "<Parallel> ~ <Goal> ~ </Goal> ~ </Parallel> ~ on",
        f"<Parallel> ~ {GOAL} </Parallel> ~ on",
        f"<Parallel> ~ {GOAL} <Path> ~ 1: a ~ </Path> ~ {REDUCE} on",
        "<Parallel> ~ <Goal> ~ <Outline> ~ x ~ </Outline> ~ well </Goal> ~ </Parallel> ~ on",
    ],
)
def test_what_only_an_engine_may_produce(text):
    layout = laid_out(text, engine_output=True, complete=True)
    if "<Path>" not in text:  # abandoned: text of its segment
        assert layout.depth == 0
        np.testing.assert_array_equal(layout.position, np.arange(len(layout.position)))
    with pytest.raises(TranscriptError):
        laid_out(text)


@pytest.mark.parametrize(
    "text",
    [f"<Parallel> ~ {GOAL} {PATHS} <Path> ~ 3: c ~ </Path> ~", f"<Parallel> ~ {GOAL} {PATHS} well {REDUCE}"],
)
def test_what_not_even_an_engine_may_produce(text):
    with pytest.raises(TranscriptError):
        laid_out(text, engine_output=True)


def test_an_engine_may_write_labels_of_any_length():
    text = f"<Parallel> ~ {GOAL} <Path> ~ {'1 . ' * 12} 1 : a ~ </Path> ~ {REDUCE}"
    layout = laid_out(text, engine_output=True)
    head = tokens_of(text).index("<Path>") + 27
    assert not layout.loss[head - 27 : head + 1].any()
    assert layout.loss[head + 1]


def test_nesting_has_a_limit():
    def nested(depth):
        if not depth:
            return "x"
        goal = "<Parallel> ~ <Goal> ~ <Outline> ~ 1: x ~ </Outline> ~ </Goal> ~"
        return f"{goal} <Path> ~ 1: {nested(depth - 1)} ~ </Path> ~ {REDUCE}"

    assert laid_out(nested(3), max_depth=3).depth == 3
    with pytest.raises(TranscriptError, match="block 4 deep; expected at most 3 nested blocks"):
        laid_out(nested(4), max_depth=3)


def test_without_known_separators_text_is_not_judged():
    text = f"<Parallel> ~ {GOAL} well <Path> ~ 1: a ~ </Path> ~ <Path> ~ 2: b ~ </Path> ~ {REDUCE}"
    layout = laid_out(text, known_separators=False)
    well = tokens_of(text).index("well")
    assert (layout.loss[well - 1], layout.loss[well]) == (False, True)


def test_faults_are_collected():
    text = f"<Parallel> ~ {GOAL} well <Path> ~ 1: a ~ <Path> ~ 2: b ~ </Path> ~ {REDUCE} </Path> ~ <Think> ~"
    codes_T, colon_T, separator_T = token_facts(tokens_of(text))
    faults = []
    structure = scan(codes_T, colon_T, separator_T=separator_T, faults=faults)
    assert [fault.found for fault in faults] == [
        "text after </Goal>",
        "<Path> in <Path>",
        "</Path> outside a block",
        "<Think> that does not begin the response",
    ]
    assert len(structure.blocks) == 1
    assert not structure.open_blocks


def test_a_goal_without_outlines_does_not_stop_the_search_for_faults():
    codes_T, colon_T, separator_T = token_facts(tokens_of("<Parallel> ~ <Goal> ~ </Goal> ~ <Goal> ~ </Path> ~"))
    faults = []
    scan(codes_T, colon_T, separator_T=separator_T, faults=faults)
    assert [fault.found for fault in faults] == [
        "</Goal> in <Goal>",
        "<Goal> after </Goal>",
        "</Path> after </Goal>",
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(TEXT, len(TAGS) - 1), max_size=40), st.data())
def test_any_tags_give_a_layout_or_an_error(codes, data):
    codes_T = np.array(codes, np.int8)
    colon_T = np.array([data.draw(st.booleans()) for _ in codes], bool) & (codes_T == TEXT)
    faults = []
    scan(codes_T, colon_T, engine_output=True, faults=faults)
    if not faults:
        assert len(lay_out(codes_T, colon_T, engine_output=True).segment) == len(codes)
        return
    with pytest.raises(TranscriptError) as caught:
        lay_out(codes_T, colon_T, engine_output=True)
    assert caught.value.args == faults[0].args


@settings(max_examples=40, deadline=None)
@given(transcripts(TreeConfig(max_depth=2, engine_output=True)), st.data())
def test_one_tag_taken_away_is_found_at_or_after_its_place(tokens, data):
    tags = [index for index, token in enumerate(tokens) if token in TAGS and token not in ("<Think>", "</Think>")]
    if not tags:
        return
    gone = data.draw(st.sampled_from(tags))
    codes_T, colon_T, separator_T = token_facts(tokens[:gone] + tokens[gone + 1 :])
    with pytest.raises(TranscriptError) as caught:
        lay_out(codes_T, colon_T, separator_T=separator_T, complete=True, engine_output=True)
    assert caught.value.index >= gone - 2
