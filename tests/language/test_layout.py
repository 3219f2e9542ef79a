"""Layout against its pairwise definition, on golden files and random trees."""

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_layout import addresses, dense_mask, positions, reachable, visible
from random_trees import TreeConfig, random_transcript, token_facts, transcripts

from mvjax.language import INT32_MAX, PARTS, TAGS, TEXT, TranscriptError, lay_out
from mvjax.language.layout import CONCLUSION, PATH, PROMPT, SEQUENTIAL, TAG

ENGINE = TreeConfig(max_depth=2, max_paths=3, engine_output=True)
SMALL = TreeConfig(max_depth=2, max_paths=3, max_words=2)

A_BLOCK = [
    *("ask", "\n", "<Parallel>", "\n", "<Goal>", "\n", "<Outline>", "\n", "1", ":", " x", "\n", "</Outline>", "\n"),
    *("<Outline>", "\n", "2:", " y", "\n", "</Outline>", "\n", "</Goal>", "\n"),
    *("<Path>", "\n", "1", ":", " a", " b", "\n", "</Path>", "\n", "<Path>", "\n", "2:", " c", "\n", "</Path>", "\n"),
    *("<Conclusion>", "\n", " z", "\n", "</Conclusion>", "\n", "</Parallel>", "\n", "end"),
]


def laid_out(tokens, prompt_length=0, **options):
    codes_T, colon_T, separator_T = token_facts(tokens)
    return lay_out(codes_T, colon_T, prompt_length, separator_T=separator_T, **options)


def golden_records():
    paths = [Path(__file__).parent / "golden" / "synthetic.jsonl"]
    if samples := os.environ.get("MVJAX_GOLDEN_SAMPLES"):
        paths.append(Path(samples))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.mark.skipif(not os.environ.get("MVJAX_GOLDEN_SAMPLES"), reason="MVJAX_GOLDEN_SAMPLES names no file")
def test_golden_samples_are_there():
    assert any(record["name"].startswith("sample") for record in golden_records())


@pytest.mark.parametrize("with_separators", [False, True])
@pytest.mark.parametrize("record", golden_records(), ids=lambda record: record["name"])
def test_golden(record, with_separators):
    codes_T, colon_T, separator_T = token_facts(record["tokens"])
    layout = lay_out(codes_T, colon_T, separator_T=separator_T if with_separators else None, record=record["name"])
    assert layout.segment.tolist() == record["segment"]
    assert layout.parent.tolist() == record["parent"]
    assert layout.position.tolist() == record["position"]
    assert layout.loss.astype(int).tolist() == record["loss"]
    assert layout.open == record["open"]
    n_tokens, runs = len(codes_T), record["hidden_from"]
    for (first, intervals), last in zip(runs, [*(run[0] for run in runs[1:]), n_tokens]):
        for token in range(first, last):
            ends = np.minimum(layout.hide_end[:, token], n_tokens).tolist()
            own = [[s, e] for s, e in zip(layout.hide_start[:, token].tolist(), ends) if s < e]
            assert sorted(own) == sorted(intervals)


@settings(max_examples=60, deadline=None)
@given(transcripts(SMALL) | transcripts(ENGINE), st.data())
def test_equals_the_pairwise_definition(tokens, data):
    tokens = tokens[: data.draw(st.integers(0, len(tokens)))]
    layout = laid_out(tokens, engine_output=True)
    visible_TT = visible(tokens)
    np.testing.assert_array_equal(dense_mask(layout), visible_TT)
    np.testing.assert_array_equal(layout.position, positions(visible_TT))


@settings(max_examples=40, deadline=None)
@given(transcripts(SMALL))
def test_no_chain_leads_from_a_path_to_a_later_sibling(tokens):
    # Two paths of one block see nothing of each other by `visible`, so neither may anything be reached beyond it.
    np.testing.assert_array_equal(reachable(dense_mask(laid_out(tokens))), visible(tokens))


@settings(max_examples=40, deadline=None)
@given(transcripts(SMALL))
def test_positions_rise_strictly_along_visible_pairs(tokens):
    layout = laid_out(tokens)
    query_N, key_N = np.nonzero(dense_mask(layout))
    before = key_N < query_N
    assert (layout.position[key_N[before]] < layout.position[query_N[before]]).all()


@settings(max_examples=40, deadline=None)
@given(transcripts(SMALL), st.data())
def test_segments_are_the_sets_of_equal_addresses(tokens, data):
    tokens = tokens[: data.draw(st.integers(0, len(tokens)))]
    layout, where = laid_out(tokens), addresses(tokens)
    numbers = {}
    for token, address in enumerate(where):
        numbers.setdefault(tuple(address.items()), len(numbers))
        assert layout.segment[token] == numbers[tuple(address.items())]
    for address, segment in numbers.items():
        assert layout.parent[segment] == (numbers[address[:-1]] if address else -1)


@settings(max_examples=40, deadline=None)
@given(transcripts(SMALL))
def test_predecessor_is_the_token_before_in_the_segment(tokens):
    layout = laid_out(tokens)
    last = {}
    for token, segment in enumerate(layout.segment.tolist()):
        assert layout.predecessor[token] == last.get(segment, -1)
        last[segment] = token
    assert (layout.predecessor[layout.loss] >= 0).all()


@pytest.mark.parametrize("seed", [2, 3, 4, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 1, 5))])
def test_every_prefix_lays_out_like_the_whole(seed):
    tokens = random_transcript(random.Random(seed).randint, SMALL)[:400]
    whole = laid_out(tokens)
    mask_TT = dense_mask(whole)
    for cut in range(len(tokens) + 1):
        part = laid_out(tokens[:cut])
        np.testing.assert_array_equal(part.segment, whole.segment[:cut])
        np.testing.assert_array_equal(part.position, whole.position[:cut])
        np.testing.assert_array_equal(part.loss, whole.loss[:cut])
        np.testing.assert_array_equal(dense_mask(part), mask_TT[:cut, :cut])
        assert part.open == (tokens[:cut].count("<Parallel>") > tokens[:cut].count("</Parallel>"))


def test_an_open_block_hides_to_the_end_of_whatever_follows():
    cut = A_BLOCK.index("<Path>", A_BLOCK.index("<Path>") + 1) + 3
    layout = laid_out(A_BLOCK[:cut])
    first = A_BLOCK.index("<Path>")
    assert layout.open
    assert layout.hide_end[0, first] == INT32_MAX
    assert layout.hide_start[0, first] == cut - 3
    assert layout.hide_end[0, cut - 1] == 0


def test_positions_and_loss_of_a_block_by_hand():
    layout = laid_out(A_BLOCK, prompt_length=2)
    at = {tag: A_BLOCK.index(tag) for tag in TAGS if tag in A_BLOCK}
    second = A_BLOCK.index("<Path>", at["<Path>"] + 1)
    end_of_goal, longest = layout.position[at["</Goal>"]], layout.position[at["</Path>"]]
    assert layout.position[at["<Path>"]] == layout.position[second] == end_of_goal + 2
    assert layout.position[at["<Conclusion>"]] == longest + 2
    written = {0, 1, at["</Goal>"] + 1, at["<Conclusion>"], at["<Conclusion>"] + 1}
    written |= {at["<Path>"] + k for k in range(4)} | {at["</Path>"] + 1}
    written |= {second + k for k in range(3)} | {A_BLOCK.index("</Path>", second) + 1}
    assert set(np.flatnonzero(~layout.loss)) == written


def test_measures_and_parts():
    layout = laid_out(A_BLOCK, prompt_length=2)
    hidden = 7  # the second path stands beside the first
    assert layout.new_tokens == len(A_BLOCK) - 2
    assert layout.critical_path == layout.new_tokens - hidden
    assert layout.degree == pytest.approx(layout.new_tokens / layout.critical_path)
    by_token = dict(zip(A_BLOCK, layout.part.tolist()))
    assert by_token["ask"] == PROMPT
    assert by_token[" x"] == by_token["end"] == SEQUENTIAL
    assert by_token[" a"] == by_token[" c"] == PATH
    assert by_token[" z"] == CONCLUSION
    assert by_token["<Path>"] == by_token["</Parallel>"] == TAG
    assert len(PARTS) == 5


def test_no_tokens():
    layout = laid_out([])
    assert (layout.new_tokens, layout.critical_path, layout.degree, layout.depth) == (0, 0, 1.0, 0)


def test_tags_in_a_prompt_are_text():
    prompt = ["</Path>", "<Parallel>", "\n"]
    layout = laid_out(prompt + A_BLOCK, prompt_length=3)
    np.testing.assert_array_equal(layout.position[:3], [0, 1, 2])
    np.testing.assert_array_equal(layout.position[3:], laid_out(A_BLOCK).position + 3)
    assert (layout.part[:3] == PROMPT).all()


def test_earlier_responses_are_laid_out_as_transcripts():
    turn = ["<Think>", "\n", *A_BLOCK, "\n", "</Think>", "\n"]
    tokens = [*turn, "ask", *turn]
    n_prompt = len(turn) + 1
    layout = laid_out(tokens, n_prompt, scan_prompt=True)
    np.testing.assert_array_equal(dense_mask(layout), visible(tokens))
    np.testing.assert_array_equal(layout.position, positions(visible(tokens)))
    assert not layout.loss[:n_prompt].any()
    assert layout.loss[n_prompt:].sum() == laid_out(turn).loss.sum() + 1  # its first token has a predecessor now
    alone = laid_out(turn)
    assert (layout.new_tokens, layout.critical_path) == (alone.new_tokens, alone.critical_path)


def test_an_earlier_response_must_be_whole():
    tokens = [*A_BLOCK[:30], "ask", *A_BLOCK]
    with pytest.raises(TranscriptError, match=r"token 31: end of the prompt; expected .*</Path>"):
        laid_out(tokens, 31, scan_prompt=True)


@pytest.mark.parametrize("known", [True, False])
def test_only_the_first_separator_is_the_interpreters(known):
    """Further ones are text, and the model is trained to produce them."""
    tokens = []
    for token in A_BLOCK:
        tokens += [token, "\n"] if token in ("</Goal>", "</Path>", "<Conclusion>") else [token]
    codes_T, colon_T, separator_T = token_facts(tokens)
    layout = lay_out(codes_T, colon_T, separator_T=separator_T if known else None)
    for tag in ("</Goal>", "</Path>", "<Conclusion>"):
        at = tokens.index(tag)
        assert layout.loss[at : at + 3].tolist() == [tag != "<Conclusion>", False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [False], 0), "do not fit"),
        (([0, 1], [False, False], 3), "do not fit"),
        (([TEXT, 12], [False, False], 0), "codes of tokens"),
        (([TEXT, -2], [False, False], 0), "codes of tokens"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        lay_out(*arguments)
