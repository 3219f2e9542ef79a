"""POST /v1/responses: a reasoning item for each branch, one message."""

import pytest
from served_hash import MODEL

pytestmark = pytest.mark.xdist_group("engine/hash_model")

PATH = "/v1/responses"
FIELDS = {"model": MODEL, "input": "abc", "max_output_tokens": 100, "temperature": 2.0, "top_k": 30, "top_p": 0.98}
FIELDS |= {"seed": 6, "min_block_share": 40, "max_paths": 4}


def respond(served, **fields):
    response = served.client.post(PATH, json={**FIELDS, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def text_of(item):
    return "".join(part["text"] for part in item["content"])


def test_a_path_is_a_reasoning_item(served):
    response = respond(served)
    chat = served.chat(seed=6, include_branches=True)["choices"][0]["message"]
    *paths, message = sorted(response["output"], key=lambda item: item["type"] == "message")
    assert text_of(message) == chat["content"]
    assert {path["address"] for path in paths} == {branch["address"] for branch in chat["branches"]}
    texts = {path["address"]: text_of(path) for path in paths}
    for branch in chat["branches"][1:]:
        assert texts[branch["address"]] == branch["text"]
    assert sum(map(len, texts.values())) == len(chat["reasoning"])
    usage = response["usage"]
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]
    assert usage["degree"] > 1
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_a_stream_ends_with_the_same_response(served):
    whole, events = respond(served), served.events(PATH, FIELDS)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    last = events[-1]["response"]
    assert events[-1]["type"] == f"response.{last['status']}"

    def plain(response):
        own = ("id", "created_at", "usage")
        items = [{name: value for name, value in item.items() if name != "id"} for item in response["output"]]
        return {name: value for name, value in response.items() if name not in own} | {"output": items}

    assert plain(last) == plain(whole)
    items = {}
    for event in events:
        kind, place = event["type"], event.get("output_index")
        if kind == "response.output_item.added":
            assert place == len(items)
            items[place] = ""
        elif kind in ("response.output_text.delta", "response.reasoning_text.delta"):
            items[place] += event["delta"]
        elif kind in ("response.output_text.done", "response.reasoning_text.done"):
            assert items[place] == event["text"]
        elif kind == "response.output_item.done":
            assert event["item"] == last["output"][place]
    assert list(items.values()) == [text_of(item) for item in last["output"]]


def test_an_answer_that_ends_by_itself(served):
    response = respond(served, input=[{"role": "user", "content": [{"type": "input_text", "text": "ab"}]}], seed=0,
                       mode="autoregressive", logit_bias={"12": 20}, instructions="c")  # fmt: skip
    assert (response["status"], response["incomplete_details"]) == ("completed", None)
    assert [item["type"] for item in response["output"]] == ["message"]
    assert response["instructions"] == "c"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"input": []}, "input"),
        ({"input": [{"type": "function_call_output"}]}, "input[0].type"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"max_output_tokens": 1000}, "max_tokens"),
    ],
)
def test_what_is_refused(served, fields, param):
    response = served.client.post(PATH, json={**FIELDS, **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param, response.json()
