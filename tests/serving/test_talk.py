"""Both ends of a conversation in a terminal: an engine of this process and a server say the same."""

import pytest
from served_hash import KEY, build_engine, serving

from mvjax.engine import Limits, SamplingParams
from mvjax.errors import UserError
from mvjax.serving.talk import LocalTalk, RemoteTalk, chunks

pytestmark = pytest.mark.xdist_group("engine/hash_model")

DRAWN = {"temperature": 2.0, "top_k": 30, "top_p": 0.98, "seed": 10}
LIMITS = {"min_block_share": 30, "max_paths": 4}
FIRST = [{"role": "user", "content": "abc"}]


@pytest.fixture(scope="module")
def local():
    limits = Limits(max_new_tokens=60, **LIMITS)
    return LocalTalk(build_engine(), mode="parallel", limits=limits, sampling=SamplingParams(**DRAWN))


@pytest.fixture
def remote(served):
    return RemoteTalk(served.url, fields={"max_tokens": 60, **DRAWN, **LIMITS})


def heard(talk, messages):
    """What is said, and the texts of the branches."""
    texts = {}

    def on_events(events):
        for event in events:
            texts.setdefault(event.address, []).append(event.text)

    said = talk.answer(messages, on_events)
    return said, {address: "".join(text) for address, text in texts.items()}


def test_both_say_the_same_in_two_turns(local, remote):
    assert remote.model == "hash"
    messages, most = list(FIRST), 0
    for words in ("abc", "bca"):
        here, branches = heard(local, messages)
        there, branches_there = heard(remote, messages)
        assert (here.content, branches) == (there.content, branches_there)
        assert (here.tokens, here.critical_path) == (there.tokens, there.critical_path)
        assert here.degree == pytest.approx(there.degree, abs=1e-4)
        assert (here.reason, there.reason) in [("stop", "stop"), ("tokens", "length")]
        most = max(most, len(branches))
        messages += [{"role": "assistant", "content": here.content}, {"role": "user", "content": words}]
    assert most > 1


def test_an_interrupted_answer_is_wound_up(local):
    def on_events(events):
        assert local.interrupt()

    said = local.answer(FIRST, on_events)
    assert said.reason == "cancelled"
    assert not local.interrupt()
    assert not local.engine.busy


def test_an_answer_that_is_broken_off_leaves_the_engine_usable(local):
    def on_events(events):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.answer(FIRST, on_events)
    assert local.answer(FIRST, lambda events: None).tokens


def test_a_conversation_that_has_grown_too_long(local):
    with pytest.raises(UserError, match="begin a new one"):
        local.answer([{"role": "user", "content": "a" * 400}], lambda events: None)


def test_a_stream_that_is_interrupted_keeps_what_came(remote, served):
    def on_events(events):
        raise KeyboardInterrupt

    assert remote.answer(FIRST, on_events).reason == "interrupted"
    served.idle()


def test_what_a_server_refuses_is_one_line(driver, served):
    with serving(driver, api_key=KEY) as locked:
        for key in ("", "wrong"):
            with pytest.raises(UserError, match=r"answered 401: .*; give --api-key"):
                RemoteTalk(locked.url, key=key).model  # noqa: B018
        talk = RemoteTalk(f"{locked.url}/v1/", key=KEY, fields={"max_tokens": 8})
        assert talk.answer(FIRST, lambda events: None).tokens <= 8
    with pytest.raises(UserError, match="answered 404: the model 'other' is not served"):
        RemoteTalk(served.url, model="other").answer(FIRST, lambda events: None)
    for url in ("http://127.0.0.1:9", "127.0.0.1:8000", "http://[", "ftp://a"):
        with pytest.raises(UserError) as caught:
            RemoteTalk(url).model  # noqa: B018
        assert "\n" not in str(caught.value)


def test_streams_of_other_servers():
    told = ['data: {"choices": []}', "", ": comment", "event: x", "data: [DONE]"]
    assert list(chunks(iter(told))) == [{"choices": []}]
    with pytest.raises(UserError, match="is no JSON"):
        list(chunks(iter(["data: <html>"])))
    with pytest.raises(UserError, match="could not go on: dead"):
        list(chunks(iter(['data: {"error": {"message": "dead"}}'])))


def test_a_server_without_branches_is_shown_as_text(remote, monkeypatch):
    events = ['data: {"choices": [{"delta": {"content": "Hel"}}]}', 'data: {"choices": [{"delta": {"content": "lo"}}]}']
    monkeypatch.setattr("httpx.Response.iter_lines", lambda response: iter(events))
    said, texts = heard(remote, FIRST)
    assert (said.content, texts) == ("Hello", {"": "Hello"})
    assert said.critical_path == 0
