"""A conversation over HTTP: the client sends text, the engine finds what it has made."""

import pytest
from served_hash import body, driving, joined, serving

pytestmark = pytest.mark.xdist_group("engine/hash_model")


@pytest.fixture(scope="module")
def served():
    with driving() as driver, serving(driver) as served:
        yield served


def turn(served, messages, streamed, **fields):
    """The answer's content and its usage."""
    fields = body(**fields) | {"messages": messages, "max_tokens": 60, "prompt_suffix": ""}
    if not streamed:
        response = served.client.post("/v1/chat/completions", json=fields).json()
        return response["choices"][0]["message"]["content"], response["usage"]
    events = served.events("/v1/chat/completions", {**fields, "stream_options": {"include_usage": True}})
    return joined(events), events[-2]["usage"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_next_turn_finds_all_that_is_before_it(served, streamed):
    """Also a third; but not where the client has changed a word."""
    messages, cached, before = [{"role": "user", "content": "abj" if streamed else "ab"}], [], {}
    for number in range(3):
        content, usage = turn(served, messages, streamed, seed=number, max_paths=2)
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        if number:
            assert cached[number] == before["prompt_tokens"] + before["completion_tokens"]
            assert usage["prompt_tokens"] > cached[number]
        before = usage
        messages += [{"role": "assistant", "content": content}, {"role": "user", "content": "c"}]
        if before["prompt_tokens"] + before["completion_tokens"] > 130:
            break
    assert len(cached) > 1
    changed = [{**messages[0], "content": "abd"}, *messages[1:3]]
    assert turn(served, changed, streamed)[1]["prompt_tokens_details"]["cached_tokens"] < 16
