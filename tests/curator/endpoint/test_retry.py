"""Reading responses: whatever an endpoint sends is a reply or an Unusable that says why."""

import email.utils
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.curator.endpoint.retry import Unusable, asked_wait, read
from mvjax.curator.production import Call

CALL = Call("tree", "", ({"role": "user", "content": "What is 1 + 1?"},))


def response(finish="stop", error=None, usage=None, **message):
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": usage, "error": error}


def test_messages_are_read():
    reply = read(CALL, response(content="two", usage={"prompt_tokens": 7, "completion_tokens": 1}))
    assert (reply.text, reply.finish, reply.prompt_tokens, reply.completion_tokens) == ("two", "stop", 7, 1)
    assert not reply.estimated
    parts = [{"type": "thinking", "thinking": "..."}, {"type": "text", "text": "t"}, {"type": "text", "text": "wo"}]
    assert read(CALL, response(content=parts)).text == "two"
    assert read(CALL, response("length", content=None)).finish == "length"
    assert read(CALL, response("tool_calls", content="two")).finish == "stop"
    refused = read(CALL, response(content="", refusal="No."))
    assert (refused.text, refused.finish) == ("No.", "refused")
    assert read(CALL, response("content_filter", content="tw")).finish == "refused"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (response(content=" \n"), "an empty message"),
        (response(), "an empty message"),
        (response("error", content="tw"), "the endpoint broke it off"),
        (response("abort", content="tw"), "the endpoint broke it off"),
        (response(content="two", error={"message": "over\nloaded"}), "over loaded"),
        ({"error": {"code": 502}}, "502"),
        ({"error": "down"}, "down"),
        ({"detail": "?"}, "no choices"),
        ({"choices": {}}, "no choices"),
        ({"choices": ["two"]}, "no choices"),
        ({"choices": [{"message": "two"}]}, "no choices"),
        ({"choices": [{"error": {"message": "upstream"}}]}, "upstream"),
        ([], "no choices"),
        (None, "no choices"),
    ],
)
def test_what_holds_no_message_says_why(body, said):
    with pytest.raises(Unusable, match=said):
        read(CALL, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "message": JSON | st.fixed_dictionaries({}, optional={"content": JSON, "refusal": JSON}),
        "finish_reason": JSON | st.sampled_from(["stop", "length", "content_filter", "error"]),
        "error": JSON,
    },
)
USAGE = st.fixed_dictionaries({}, optional={"prompt_tokens": JSON, "completion_tokens": JSON})
BODY = st.fixed_dictionaries(
    {}, optional={"choices": JSON | st.lists(CHOICE, max_size=2), "usage": JSON | USAGE, "error": JSON}
)


@settings(max_examples=100, deadline=None)
@given(JSON | BODY)
def test_any_response_is_a_reply_or_unusable(body):
    try:
        reply = read(CALL, body)
    except Unusable as error:
        tokens = error.usage
    else:
        assert reply.text.strip() or reply.finish == "length"
        assert reply.finish in ("stop", "length", "refused")
        json.dumps(reply.text)
        tokens = reply
    for count in (tokens.prompt_tokens, tokens.completion_tokens):
        assert type(count) is int
        assert count >= 0


def test_retry_after_is_read_in_seconds_and_as_a_date():
    assert asked_wait({"retry-after": "2.5"}) == 2.5
    assert asked_wait({"retry-after": "-3"}) == 0
    assert asked_wait({"retry-after": "nan"}) == 0
    assert asked_wait({"retry-after": "inf"}) == math.inf
    assert asked_wait({"retry-after": "soon"}) is None
    assert asked_wait({}) is None
    now = 1_700_000_000.0
    assert asked_wait({"retry-after": email.utils.formatdate(now + 30, usegmt=True)}, now) == 30
    assert asked_wait({"retry-after": email.utils.formatdate(now - 30, usegmt=True)}, now) == 0
    assert asked_wait({"retry-after": "Mon, 99 Foo 2026 99:00:00 GMT"}) is None
