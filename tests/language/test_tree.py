"""The transcript tree: round trips of tokens and text, and what the tree says."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import TreeConfig, token_facts, transcripts

from mvjax.language import TAGS, TranscriptError, parse_text, parse_tokens, render, render_tokens, split_text
from mvjax.language.text import piece_facts
from mvjax.language.tree import Block, Outline, Text, Think
from mvjax.language.tree import Path as PathElement

ENGINE = TreeConfig(max_depth=2, engine_output=True)

A_BLOCK = """Ask.
<Think>
Let's think in parallel.
<Parallel>
<Goal>
<Outline>
1: this
</Outline>
<Outline>
2: that
</Outline>
</Goal>
<Path>
1: so: 5
</Path>
<Path>
2: or
</Path>
<Conclusion>
both
</Conclusion>
</Parallel>
</Think>
Done.
"""


def golden_tokens():
    lines = (Path(__file__).parent / "golden" / "synthetic.jsonl").read_text().splitlines()
    return [json.loads(line)["tokens"] for line in lines]


def test_golden_tokens_and_text_come_back():
    for tokens in golden_tokens():
        codes_T, colon_T, separator_T = token_facts(tokens)
        assert render_tokens(parse_tokens(tokens, codes_T, colon_T, separator_T=separator_T)) == tokens
        assert render(parse_text("".join(tokens))) == "".join(tokens)


@settings(max_examples=60, deadline=None)
@given(transcripts() | transcripts(ENGINE), st.data())
def test_token_ids_come_back(tokens, data):
    tokens = tokens[: data.draw(st.integers(0, len(tokens)))]
    n_prompt = data.draw(st.integers(0, 3))
    tag_ids = [7 * ordinal + 100 for ordinal in range(12)]
    words = {token: number for number, token in enumerate(dict.fromkeys(tokens)) if token not in TAGS}
    prompt = [tag_ids[8], 1, 2][:n_prompt]
    ids = prompt + [tag_ids[TAGS.index(token)] if token in TAGS else words[token] for token in tokens]
    codes_T, colon_T, _ = token_facts(["x"] * n_prompt + tokens)
    transcript = parse_tokens(ids, codes_T, colon_T, n_prompt, engine_output=True)
    assert render_tokens(transcript, tag_ids) == ids
    assert transcript.prompt == tuple(prompt)


@settings(max_examples=60, deadline=None)
@given(transcripts() | transcripts(ENGINE), st.text(max_size=20), st.data())
def test_text_comes_back(tokens, prompt, data):
    text = "".join(tokens)
    text = prompt + text[: data.draw(st.integers(0, len(text)))]
    faults = []
    assert render(parse_text(text, len(prompt), engine_output=True, faults=faults)) == text


def shape(nodes, join):
    """Kinds, labels and texts of a tree, whatever its contents are made of."""
    for node in nodes:
        if isinstance(node, Text):
            yield join(node.content)
        else:
            label = join(node.label).strip() if isinstance(node, Outline | PathElement) else None
            yield type(node), label, node.closed, list(shape(node.children, join))


@settings(max_examples=60, deadline=None)
@given(transcripts(ENGINE), st.sampled_from(["\n", "\r\n"]))
def test_text_of_an_engine_says_what_its_tokens_say(tokens, newline):
    """Whatever labels the model chose ("1 :", " :"), and with line ends of any system."""
    codes_T, colon_T, _ = token_facts(tokens)
    from_tokens = parse_tokens(tokens, codes_T, colon_T, engine_output=True)
    text = "".join(tokens).replace("\n", newline)
    from_text = parse_text(text, engine_output=True, complete=True)
    assert list(shape(from_text.children, lambda part: part.replace("\r\n", "\n"))) == list(
        shape(from_tokens.children, lambda part: "".join(part))
    )
    assert render(from_text) == text


def test_blanks_in_a_label_are_text_and_crlf_is_one_newline():
    spaced = A_BLOCK.replace("1: so", "1 : so")
    for text in (spaced, A_BLOCK.replace("\n", "\r\n"), A_BLOCK.replace("<Outline>\n", "  <Outline>  \n")):
        transcript = parse_text(text, text.index("<Think>"), complete=True)
        assert [path.label for path in transcript.blocks[0].paths] == ["1", "2"]
        assert render(transcript) == text
    with pytest.raises(TranscriptError, match="no separator after <Path>"):
        parse_text(A_BLOCK.replace("<Path>\n1: so", "<Path> 1 : so"), len("Ask.\n"))
    assert split_text("a b \r\n  <Goal> \n  1 :\r\n") == [
        "a",
        " b",
        " \r\n  ",
        "<Goal>",
        " \n",
        " ",
        " 1",
        " ",
        ":",
        "\r\n",
    ]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*TAGS, "\n", " ", "1: x", "ü\r\n\t", "<Path", "</", ":"]), max_size=30), st.booleans())
def test_text_comes_back_however_malformed(parts, engine_output):
    text = "".join(parts)
    faults = []
    assert render(parse_text(text, engine_output=engine_output, faults=faults)) == text
    if faults:
        with pytest.raises(TranscriptError) as caught:
            parse_text(text, engine_output=engine_output)
        assert caught.value.args == faults[0].args
    assert [fault.index for fault in faults] == sorted(fault.index for fault in faults)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.sampled_from("a: \n\t\r\x0b<>/\u2028é") | st.characters(), max_size=40), st.integers(0, 40))
def test_pieces_sum_to_the_text(text, n_prompt):
    text = text[:20] + "<Path>" + text[20:]
    pieces = split_text(text, min(n_prompt, len(text)))
    assert "".join(pieces) == text
    assert all(pieces)


def test_tags_in_a_prompt_are_no_pieces_of_their_own():
    assert "<Path>" not in split_text("say <Path> <Path>", 10)[:2]
    assert split_text("say <Path>\n1: x")[1:] == [" ", "<Path>", "\n", "1:", " x"]


def test_what_the_tree_says():
    transcript = parse_text(A_BLOCK, len("Ask.\n"))
    assert transcript.prompt == "Ask.\n"
    think = transcript.children[0]
    assert isinstance(think, Think)
    assert think.closed
    (block,) = transcript.blocks
    assert isinstance(block, Block)
    assert [outline.label for outline in block.goal.outlines] == ["1", "2"]
    assert [path.label for path in block.paths] == ["1", "2"]
    assert block.paths[0].children[0].content == "\n1: so: 5\n"
    assert block.conclusion.children == (Text("\nboth\n"),)
    assert block.paths[0].blocks == ()
    assert not block.abandoned
    assert A_BLOCK[block.start :].startswith("<Parallel>")
    assert all(
        A_BLOCK[node.start :].startswith(node.content) for _, node in transcript.walk() if isinstance(node, Text)
    )


def test_labels_of_token_ids():
    tag_ids = list(range(12))
    path, sep, colon = tag_ids[8], 50, 51
    head = [2, sep, 4, sep, 6, sep, 60, colon, 7, sep, 5, sep]
    ids = [*head, path, sep, 60, 61, 60, colon, 70]
    codes_T = np.array([token if token < 12 else -1 for token in ids])
    transcript = parse_tokens(ids, codes_T, np.array(ids) == colon)
    assert transcript.blocks[0].paths[0].label == (60, 61, 60)
    assert transcript.blocks[0].goal.outlines[0].label == (60,)


def test_a_cut_tree_has_open_elements():
    transcript = parse_text(A_BLOCK[: A_BLOCK.index("so: 5")])
    kinds = {type(node): node.closed for _, node in transcript.walk() if not isinstance(node, Text)}
    assert kinds[PathElement] is False
    assert kinds[Block] is False
    assert kinds[Outline] is True


def test_an_abandoned_block():
    text = "<Parallel>\n</Parallel>\nhm"
    assert parse_text(text, engine_output=True).blocks[0].abandoned
    with pytest.raises(TranscriptError, match="without a path"):
        parse_text(text)


def test_render_wants_text():
    with pytest.raises(TypeError, match="render_tokens"):
        render(parse_tokens([1, 2], [-1, -1], [False, False]))


def test_hostile_nesting_does_not_exhaust_the_stack():
    level = "<Parallel>\n<Goal>\n<Outline>\n1: x\n</Outline>\n</Goal>\n<Path>\n1: y\n"
    transcript = parse_text(level * 1500, engine_output=True, max_depth=10**6)
    assert render(transcript) == level * 1500


@pytest.mark.parametrize(
    ("before", "after", "spot", "found", "expected"),
    [
        ("2: or\n</Path>", "2: or</Path>", "</Path>:2", "</Path> in the middle of a line", "a newline before it"),
        ("</Outline>\n<Outline>", "</Outline> <Outline>", "<Outline>:2", "<Outline> in the middle", "newline"),
        ("</Think>\nDone", "</Think> Done", " Done", "text on the line of </Think>", "a newline after"),
        ("<Path>\n2: or", "<Path>\n3: or", "<Path>:2", "<Path> with the label '3'", "'2'"),
        ("2: that", "1.2: that", "<Outline>:2", "<Outline> with the label '1.2'", "'2'"),
        ("</Path>\n<Path>", "</Path>\nnext\n<Path>", "next", "text after </Path>", "<Path> (2 of 2)"),
        ("<Conclusion>\nboth", "<Conclusion>both", "both", "no separator after <Conclusion>", "a newline"),
    ],
)
def test_faults_of_text(before, after, spot, found, expected):
    assert A_BLOCK.count(before) == 1
    text = A_BLOCK.replace(before, after)
    with pytest.raises(TranscriptError) as caught:
        parse_text(text, record="r")
    spot, _, number = spot.partition(":")
    place = -1
    for _ in range(int(number or 1)):
        place = text.index(spot, place + 1)
    assert caught.value.index == place
    assert found in caught.value.found
    assert expected in caught.value.expected
    assert str(caught.value).startswith(f"r: character {place}: ")


def test_labels_inside_a_path_begin_with_its_own():
    def block(label, inside=""):
        return (
            f"<Parallel>\n<Goal>\n<Outline>\n{label}: x\n</Outline>\n</Goal>\n<Path>\n{label}: y\n{inside}</Path>\n"
            "<Conclusion>\nz\n</Conclusion>\n</Parallel>\n"
        )

    text = block("1", block("1.1", block("1.1.1")) + block("1.1"))
    assert [path.label for block in parse_text(text).blocks for path in block.paths] == ["1", "1.1", "1.1.1", "1.1"]
    with pytest.raises(TranscriptError, match=r"label '1'; expected '1\.1'"):
        parse_text(block("1", block("1")))


def test_a_long_run_of_blanks_is_split_in_linear_time():
    text = "a" + " " * 200_000 + "b"
    assert "".join(split_text(text)) == text


def test_piece_facts():
    codes_T, colon_T, separator_T = piece_facts(["<Path>", "\n", "1:", " x"])
    assert codes_T.tolist() == [8, -1, -1, -1]
    assert colon_T.tolist() == [False, False, True, False]
    assert separator_T.tolist() == [False, True, False, False]
