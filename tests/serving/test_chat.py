"""POST /v1/chat/completions: text, reasoning and branches, whole and as a stream."""

import pytest
from served_hash import body, finish_reasons, joined, tokenizer

from mvjax.data.encode import with_suffix

pytestmark = pytest.mark.xdist_group("engine/hash_model")


def branchy(served, **fields):
    """An answer with blocks, whole and as events."""
    fields = {"seed": 6, **fields}
    return served.chat(**fields), served.stream(**fields)


def counts(usage):
    """Without what depends on the requests before."""
    return {name: value for name, value in usage.items() if name != "prompt_tokens_details"}


def test_a_stream_is_the_same_text(served):
    for seed in range(4):
        whole = served.chat(seed=seed)
        choice, events = whole["choices"][0], served.stream(seed=seed)
        assert events[-1] == "[DONE]"
        assert joined(events) == choice["message"]["content"]
        assert joined(events, "reasoning") == choice["message"].get("reasoning", "")
        assert finish_reasons(events) == {0: choice["finish_reason"]}
        assert choice["finish_reason"] in ("stop", "length")
        assert all(event["id"] == events[0]["id"] for event in events[:-1])


def test_branches_as_events_and_as_a_tree(served):
    whole, events = branchy(served, stream_options={"include_branches": True})
    (message,) = (choice["message"] for choice in whole["choices"])
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    branches = [delta["branch"] for delta in deltas if "branch" in delta]
    assert {tuple(delta) for delta in deltas} <= {("branch",), ("content",), ("reasoning",), ("role", "content"), ()}
    assert {branch["event"] for branch in branches} == {"fork", "start", "text", "end", "reduce"}
    tree = {branch["address"]: branch["text"] for branch in message["branches"]}
    assert len(tree) > 2
    for address, text in tree.items():
        assert "".join(branch["text"] for branch in branches if branch["address"] == address) == text
    assert sum(branch["tokens"] for branch in message["branches"]) == whole["usage"]["completion_tokens"]
    assert joined(events) == message["content"]


def test_a_transcript_as_content(served):
    apart, _ = branchy(served)
    whole, events = branchy(served, branches="transcript")
    text = whole["choices"][0]["message"]["content"]
    assert "reasoning" not in whole["choices"][0]["message"]
    assert joined(events) == text
    assert "<Parallel>" in text
    assert "<Parallel>" not in apart["choices"][0]["message"]["content"]
    assert "<Parallel>" in apart["choices"][0]["message"]["reasoning"]


def test_usage(served):
    whole = served.chat(seed=6)
    usage = whole["usage"]
    messages = with_suffix([{"role": "user", "content": "abc"}], "multiverse")
    assert usage["prompt_tokens"] == len(tokenizer().render_chat(messages))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["critical_path_tokens"] < usage["completion_tokens"]
    assert usage["degree"] == round(usage["completion_tokens"] / usage["critical_path_tokens"], 4)
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0


def test_usage_in_a_stream_only_where_asked_for(served):
    assert not any("usage" in event for event in served.stream(max_tokens=20)[:-1])
    *events, last, done = served.stream(max_tokens=20, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert last["choices"] == []
    assert counts(last["usage"]) == counts(served.chat(max_tokens=20)["usage"])
    assert all(event["usage"] is None and event["choices"] for event in events)


def test_counts_so_far_in_every_chunk(served):
    options = {"include_usage": True, "continuous_usage_stats": True}
    *events, last, _ = served.stream(seed=6, stream_options=options)
    counted = [event["usage"]["completion_tokens"] for event in events]
    assert counted[0] == 0
    assert counted == sorted(counted)
    assert counted[-1] == last["usage"]["completion_tokens"]
    assert {event["usage"]["prompt_tokens"] for event in events} == {last["usage"]["prompt_tokens"]}
    its = body(stream=True, stream_options={"continuous_usage_stats": True})
    assert served.client.post("/v1/chat/completions", json=its).status_code == 400


def test_several_answers_have_seeds_of_their_own(served):
    several = served.chat(n=3, seed=5, max_tokens=60)
    events = served.stream(n=3, seed=5, max_tokens=60)
    for index, choice in enumerate(several["choices"]):
        alone = served.chat(seed=5 + index, max_tokens=60)["choices"][0]
        assert (choice["index"], choice["message"]) == (index, alone["message"])
        assert joined(events, choice=index) == alone["message"]["content"]
    assert len(finish_reasons(events)) == 3
    assert several["usage"]["prompt_tokens"] == served.chat(max_tokens=20)["usage"]["prompt_tokens"]


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63)])
def test_any_seed(served, seed):
    assert len(served.chat(seed=seed, n=2, max_tokens=20)["choices"]) == 2


def test_autoregressive_answers_have_every_token(served):
    fields = {"mode": "autoregressive", "ignore_eos": True, "max_tokens": 37}
    whole, events = branchy(served, **fields, stream_options={"include_usage": True})
    assert whole["usage"]["completion_tokens"] == 37
    assert counts(events[-2]["usage"]) == counts(whole["usage"])
    assert whole["choices"][0]["finish_reason"] == finish_reasons(events)[0] == "length"
    parallel, events = branchy(served, ignore_eos=True, max_tokens=37)
    assert 37 - 9 <= parallel["usage"]["completion_tokens"] <= 37
    assert parallel["choices"][0]["finish_reason"] == finish_reasons(events)[0] == "length"


def test_few_tokens_need_no_mode(served):
    """Parallel answers keep 8 tokens for closing: one that may have fewer has no blocks."""
    assert served.chat(max_tokens=1, ignore_eos=True)["usage"]["completion_tokens"] == 1
    response = served.client.post("/v1/chat/completions", json=body(max_tokens=3, mode="parallel"))
    assert response.status_code == 400
    assert "9 or more" in response.json()["error"]["message"]


def test_characters_over_tokens(served):
    """The euro sign is three tokens; a limit may cut it."""
    euro = tokenizer().encode("€")
    bias = {str(token): 100 for token in euro} | {str(tokenizer().encode("b")[0]): 100}
    fields = {"mode": "autoregressive", "ignore_eos": True, "logit_bias": bias, "max_tokens": 60}
    for limit in (60, 61, 62):
        whole, events = branchy(served, **{**fields, "max_tokens": limit})
        text = whole["choices"][0]["message"]["content"]
        assert joined(events) == text
        assert "�" in text or "€" in text
        for event in events[:-1]:
            assert "\udc80" not in (event["choices"][0]["delta"].get("content") or "")


def test_stop_strings(served):
    fields = {"mode": "autoregressive", "ignore_eos": True, "max_tokens": 80}
    text = served.chat(seed=6, **fields)["choices"][0]["message"]["content"]
    stop = text[30:35]
    whole, events = branchy(served, **fields, stop=[stop, text[50:60], "never"])
    assert whole["choices"][0]["message"]["content"] == joined(events) == text[: text.index(stop)]
    assert whole["choices"][0]["finish_reason"] == finish_reasons(events)[0] == "stop"
    whole, events = branchy(served, **fields, stop=text[-4:] + "€")  # It never completes.
    assert whole["choices"][0]["message"]["content"] == joined(events) == text
    assert whole["choices"][0]["finish_reason"] == "length"


def test_log_probabilities(served):
    whole, events = branchy(served, logprobs=True, top_logprobs=3)
    content = whole["choices"][0]["logprobs"]["content"]
    streamed = [event["choices"][0]["logprobs"] for event in events[:-1]]
    assert [one for its in streamed if its for one in its["content"]] == content
    assert content
    for its in content:
        assert its["token"].encode() == bytes(its["bytes"]) or "�" in its["token"]
        assert -9999 <= its["logprob"] <= 0
        assert len(its["top_logprobs"]) == 3
        assert [one["logprob"] for one in its["top_logprobs"]] == sorted(
            (one["logprob"] for one in its["top_logprobs"]), reverse=True
        )
    # The model likes tags, and the grammar bars most of them: minus infinity is a number here.
    assert any(one["logprob"] == -9999 for its in content for one in its["top_logprobs"])
    assert served.chat(logprobs=True, max_tokens=20)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_what_the_template_is_given(served):
    plain, calm = (served.chat(max_tokens=20, chat_template_kwargs=its)["usage"] for its in (None, {"calm": True}))
    assert calm["prompt_tokens"] == plain["prompt_tokens"] + 1
    parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]
    assert served.chat(parts, max_tokens=20)["usage"]["prompt_tokens"] == plain["prompt_tokens"] + 1
    assert served.chat(max_tokens=20, prompt_suffix="")["usage"]["prompt_tokens"] == len("abc\n")


def test_the_next_turn_prefills_what_is_new(served):
    """The first answer has blocks; only its content comes back, and its tokens are found, as they were generated."""
    for stream in (False, True):
        first = served.chat(seed=6, max_tokens=80)
        message = first["choices"][0]["message"]
        if stream:
            message["content"] = joined(served.stream(seed=6, max_tokens=80))
        messages = [{"role": "user", "content": "abc"}, message, {"role": "user", "content": "d"}]
        usage = served.chat(messages=messages, max_tokens=20)["usage"]
        before = first["usage"]["total_tokens"]
        assert usage["prompt_tokens"] > before
        assert usage["prompt_tokens_details"]["cached_tokens"] >= before - 16
    messages[1] = {**message, "content": "hij"}
    usage = served.chat(messages=messages, max_tokens=20)["usage"]
    assert usage["prompt_tokens"] < before
