"""Answers as text while they grow: the same text however they are told, in order, as early as it is final."""

import codecs
import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import TreeConfig
from told_branches import VOCABULARY, Told, random_tokens

from mvjax.engine import LogProbs, TokenUpdate
from mvjax.language import tags
from mvjax.serving.answer_text import AnswerText

TREES = TreeConfig(engine_output=True, max_depth=2, max_paths=3)
SEPARATOR = VOCABULARY.tables().separator_id
FAILED = SimpleNamespace(stream=SimpleNamespace(fork=np.zeros(0, int), origin=np.zeros(0, int)), cuts={0: "failed"})
SEEDS = st.integers(0, 2**32)


def told(seed):
    rng = random.Random(seed)
    return Told(random_tokens(rng, TREES), rng, rng.choice([1, 2, 3, 8]))


def chunks(tokens):
    """Kind and tokens of the text and tags of a transcript, by its definition: in order, one by one."""
    depth, think, last, found = 0, False, tags.TEXT, []
    for token in tokens:
        code = token if token < len(tags.TAGS) else tags.TEXT
        depth += (code == tags.PARALLEL_OPEN) - (code == tags.PARALLEL_CLOSE)
        think = {tags.THINK_OPEN: True, tags.THINK_CLOSE: False}.get(code, think)
        kind = "reasoning" if depth or think or code != tags.TEXT else "content"
        behind = code == tags.TEXT and last != tags.TEXT and token == SEPARATOR
        if code in (0, 1) or (behind and last in (0, 1)):
            kind = "mark"
        elif behind and last == tags.PARALLEL_CLOSE:
            kind = "reasoning"
        if found and code == last == tags.TEXT and found[-1][0] == kind:
            found[-1][1].append(token)
        else:
            found.append((kind, [token]))
        last = code
    return found


def whole(tokens, wanted, stop=()):
    """All text of a kind up to where the content holds a stop string, and that string."""
    content, text = "", ""
    for kind, its in chunks(tokens):
        piece = VOCABULARY.decode(its)
        if kind == "content":
            content += piece
            ends = [(content.find(one) + len(one), content.find(one), one) for one in stop if one in content]
            if ends:
                _, at, met = min(ends)
                return (content[:at] if wanted == "content" else text), met
        text += piece if kind == wanted else ""
    return text, None


def joined(pieces, kind):
    return "".join(piece.text for piece in pieces if piece.kind == kind)


def tell(answer, stays, result):
    pieces, events = [], []
    for updates in stays:
        if answer.stopped is None:
            more, happened = answer.add(updates)
            pieces, events = pieces + more, events + happened
    more, happened = answer.finish(result)
    return pieces + more, events + happened


STOPS = st.sampled_from(["nd.", "a", "日本日本", " 🙂 al", "βn", "\n\n", "e\n", "zz"])


@settings(max_examples=120)
@given(seed=SEEDS, stop=st.lists(STOPS, max_size=3))
def test_any_division_and_any_order_give_the_same_text(seed, stop):
    """Streamed, not streamed, and by definition."""
    one = told(seed)
    streamed, quiet = (AnswerText(VOCABULARY, 0, stop=stop) for _ in range(2))
    pieces, _ = tell(streamed, one.stays(), one.result())
    at_once, _ = quiet.finish(one.result())
    for kind in ("content", "reasoning"):
        wanted, met = whole(one.tokens, kind, stop)
        assert joined(pieces, kind) == joined(at_once, kind) == wanted
        assert streamed.stopped == quiet.stopped == met


@settings(max_examples=60)
@given(seed=SEEDS)
def test_what_is_final_is_given_at_once_and_never_anything_else(seed):
    """The text of the longest beginning of the transcript that has been told, but for an incomplete character."""
    one = told(seed)
    answer, text, made = AnswerText(VOCABULARY, 0, branches="transcript"), "", set()
    for updates in one.stays():
        more, _ = answer.add(updates)
        text += joined(more, "content")
        made |= {place for _, place in one.made[len(made) : len(made) + sum(len(each.tokens) for each in updates)]}
        first = next(place for place in range(len(one.tokens) + 1) if place not in made)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        assert text == decoder.decode(b"".join(map(VOCABULARY.token_bytes, one.tokens[:first])))
    more, _ = answer.finish(one.result())
    assert text + joined(more, "content") == VOCABULARY.decode(one.tokens) == one.result().text


@settings(max_examples=60)
@given(seed=SEEDS)
def test_events_tell_what_the_tree_shows(seed):
    """By address: the text, the positions of the layout; in an order that makes sense."""
    one = told(seed)
    answer, result, position_T = AnswerText(VOCABULARY, 0), one.result(), np.array(one.positions())
    _, events = tell(answer, one.stays(), result)
    tree = answer.tree(result)
    assert [branch["tokens"] for branch in tree] == np.bincount(result.segment).tolist()
    starts = {event.address: place for place, event in enumerate(events) if event.event == "start"}
    ends = {event.address: place for place, event in enumerate(events) if event.event == "end"}
    assert starts.keys() == ends.keys() == {branch["address"] for branch in tree} - {""}
    for number, branch in enumerate(tree):
        address, own_T = branch["address"], position_T[result.segment == number]
        its = [event for event in events if event.address == address]
        assert "".join(event.text for event in its) == branch["text"]
        assert [event.position for event in its] == sorted(event.position for event in its)
        assert {event.position for event in its} <= {*own_T, 0}
        conclusions_T = own_T[result.tokens[result.segment == number] == tags.CONCLUSION_OPEN]
        assert [event.position for event in its if event.event == "reduce"] == conclusions_T.tolist()
        if address:
            assert (its[0].event, its[0].position) == ("start", own_T[0])
            assert (its[-1].event, its[-1].position) == ("end", own_T[-1])
            holder = address.rpartition("/")[0]
            forks = [place for place, event in enumerate(events) if event[:2] == (holder, "fork")]
            joins = [place for place, event in enumerate(events) if event[:2] == (holder, "reduce")]
            assert sum(place < starts[address] for place in forks) == 1 + sum(p < starts[address] for p in joins)
            assert sum(place < ends[address] for place in joins) == sum(place < starts[address] for place in joins)


@settings(max_examples=40)
@given(seed=SEEDS)
def test_an_answer_that_breaks_off_shows_all_that_was_told(seed):
    """A failed engine: each branch up to where it came, in the order of the transcript."""
    one = told(seed)
    answer, streamed, whole_result = AnswerText(VOCABULARY, 0, branches="transcript"), [], one.result()
    stays = one.stays()
    stays = stays[: one.rng.randint(0, len(stays))]
    for updates in stays:
        streamed += answer.add(updates)[0]
    more, _ = answer.finish(FAILED)
    made = sum(len(update.tokens) for updates in stays for update in updates)
    places = sorted(place for _, place in one.made[:made])
    segments = whole_result.segment[places]
    parts = np.split(np.array(places, int), np.flatnonzero(np.diff(segments)) + 1) if places else []
    decoded = [VOCABULARY.decode([one.tokens[place] for place in part]) for part in parts]
    if all("\ufffd" not in text for text in decoded):  # Else a character may go on behind a block that is not there.
        assert joined(streamed + more, "content") == "".join(decoded)
    assert sum(branch["tokens"] for branch in answer.tree(FAILED)) == made


def test_tokens_are_read_once(monkeypatch):
    """So that a call costs what is new."""
    one, read = told(3), []
    token_bytes = VOCABULARY.token_bytes
    monkeypatch.setattr(type(VOCABULARY), "token_bytes", lambda self, token: read.append(token) or token_bytes(token))
    tell(AnswerText(VOCABULARY, 0), one.stays(), one.result())
    assert sorted(read) == sorted(one.tokens)


def single(text_tokens, **options):
    """Pieces of a plain answer, a token at a time, and whether it was stopped."""
    answer, given_ = AnswerText(VOCABULARY, 0, **options), []
    for token in text_tokens:
        pieces, _ = answer.add([TokenUpdate(0, 0, -1, [token])])
        given_.append(joined(pieces, "content"))
    pieces, _ = answer.finish(FAILED)
    return [*given_, joined(pieces, "content")], answer.stopped


def test_a_stop_string_that_never_completes_is_held_only_as_long_as_it_may():
    tokens = [*VOCABULARY.spelt(" alpha"), *VOCABULARY.spelt("nd"), *VOCABULARY.spelt("1"), *VOCABULARY.spelt("nd")]
    assert single(tokens, stop=["nd."]) == ([" alpha", "", "nd1", "", "nd"], None)
    assert single(tokens, stop=["phand"]) == ([" al", "", "", "", ""], "phand")


def test_a_character_cut_off_at_the_end_is_shown_alike():
    tokens = [VOCABULARY.id_of(bytes([byte])) for byte in "🙂🙂".encode()][:-2]
    assert single(tokens) == (["", "", "", "🙂", "", "", "\ufffd"], None)
    assert single(tokens, branches="transcript")[0][-1] == "\ufffd"


def test_think_tags_are_in_no_text_and_autoregressive_answers_are_content():
    spelt = [tags.THINK_OPEN, SEPARATOR, *VOCABULARY.spelt("e"), tags.THINK_CLOSE, SEPARATOR, *VOCABULARY.spelt("nd")]
    answer = AnswerText(VOCABULARY, 0)
    pieces, _ = answer.add([TokenUpdate(0, 0, -1, spelt)])
    assert [(piece.kind, piece.text) for piece in pieces] == [("reasoning", "e"), ("content", "nd")]
    assert single(VOCABULARY.spelt("123")) == (["1", "2", "3", ""], None)


def numbered(tokens, written=()):
    """Log-probabilities that name their token: -0.5 for the first, -1.5, ..."""
    token = np.array([np.nan if at in written else -0.5 - at for at in range(len(tokens))], np.float32)
    top = np.repeat(token[:, None], 2, axis=1)
    return LogProbs(token, token, np.array([[t, t + 1] for t in tokens], np.int32), top, top)


@pytest.mark.parametrize("stop", [(), ("d.",)])
def test_logprobs_come_with_the_text_in_which_their_tokens_end(stop):
    """Also where the text is held back; those of tokens that reach into a stop string go with it."""
    tokens = [*VOCABULARY.spelt(" alpha"), *VOCABULARY.spelt("nd"), VOCABULARY.id_of(b"nd."), *VOCABULARY.spelt("1")]
    answer, pieces = AnswerText(VOCABULARY, 0, stop=stop, logprobs=True), []
    logprobs = numbered(tokens)
    for at, token in enumerate(tokens):
        pieces += answer.add([TokenUpdate(0, 0, -1, [token], logprobs.take(slice(at, at + 1)))])[0]
    pieces += answer.finish(FAILED)[0]
    if not stop:
        assert [[one.token for one in piece.logprobs] for piece in pieces] == [[token] for token in tokens]
        assert [piece.logprobs[0].logprob for piece in pieces] == [-0.5, -1.5, -2.5, -3.5]
        assert pieces[0].logprobs[0].top == ((tokens[0], -0.5), (tokens[0] + 1, -0.5))
        return
    assert joined(pieces, "content") == " alphandn"
    assert [one.token for piece in pieces for one in piece.logprobs] == tokens[:2]


def test_tokens_that_were_written_have_no_logprobs():
    tokens = [tags.THINK_OPEN, SEPARATOR, *VOCABULARY.spelt("e")]
    answer = AnswerText(VOCABULARY, 0, branches="transcript", logprobs=True)
    pieces, _ = answer.add([TokenUpdate(0, 0, -1, tokens, numbered(tokens, written=[1]))])
    assert [one.token for piece in pieces for one in piece.logprobs] == [tokens[0], tokens[2]]
