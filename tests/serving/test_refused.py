"""What is refused, and how: the error shape, the numbers, the field; nothing of it reaches the engine."""

import json

import pytest
from served_hash import MODEL, body

pytestmark = pytest.mark.xdist_group("engine/hash_model")


def error_of(response, status=400):
    """The error of a response."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    return error


def refused(served, **fields):
    """The error of a chat with these fields."""
    return error_of(served.client.post("/v1/chat/completions", json=body(**fields)))


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools", "tools are not served"),
        ({"tool_choice": "required"}, "tool_choice", "tools are not served"),
        ({"response_format": {"type": "json_schema"}}, "response_format.type", "answers are text"),
        ({"presence_penalty": 0.5}, "presence_penalty", "the order in which they run would change the answer"),
        ({"frequency_penalty": -0.5}, "frequency_penalty", "the order"),
        ({"colour": "red"}, "colour", "does not know this field"),
        ({"n": 99}, "n", "n = 99: one call gets at most 8"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"max_tokens": 10**30}, "max_tokens", "less than or equal to"),
        ({"max_tokens": 4000}, "max_tokens", "maximum context length is 204"),
        ({"max_completion_tokens": 4000}, "max_tokens", "4000 more were asked for"),
        ({"messages": [{"role": "user", "content": "a" * 300}], "max_tokens": 10}, "messages", "the prompt has 3"),
        ({"messages": [{"role": "user", "content": "a" * 300}], "max_tokens": None}, "messages", "the prompt has 3"),
        ({"messages": [{"role": "user", "content": "no"}]}, None, "no is no question"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0]", "role"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages", "needs a message of the user"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "string"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type", "text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None, "a lone surrogate"),
        ({"seed": 2**63}, "seed", "9223372036854775807"),
        ({"seed": 1.5}, "seed", "integer"),
        ({"seed": "1"}, "seed", "integer"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": 10**400}, "temperature", ""),
        ({"temperature": True}, "temperature", "number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_k": -2}, "top_k", "greater than or equal to -1"),
        ({"min_p": 2}, "min_p", "less than or equal to 1"),
        ({"logprobs": True, "top_logprobs": 5}, "top_logprobs", "3 alternatives are kept"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"top_logprobs": 2}, "top_logprobs", "set logprobs"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "100"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "pattern"),
        ({"logit_bias": {"44": 1}}, None, "outside the vocabulary of 44"),
        ({"logit_bias": {str(n): 1 for n in range(65)}}, "logit_bias", "64"),
        ({"stop": ""}, "stop", "empty"),
        ({"stop": ["a"] * 17}, "stop", "17 strings; give at most 16"),
        ({"stop_token_ids": [3]}, None, "control tag"),
        ({"min_tokens": 101}, None, "min_tokens = 101 must be at most max_new_tokens, which is 100"),
        ({"max_paths": 100}, None, "max_paths = 100"),
        ({"max_depth": 9}, None, "max_depth = 9"),
        ({"mode": "quick"}, "mode", "parallel"),
        ({"branches": "all"}, "branches", "apart"),
    ],
)  # fmt: skip
def test_fields(served, fields, param, words):
    before = served.driver.stats()
    for stream in (False, True):
        data = json.dumps(body(**{**fields, "stream": stream}))
        response = served.client.post(
            "/v1/chat/completions", content=data, headers={"Content-Type": "application/json"}
        )
        error = error_of(response)
        assert (error["type"], error["param"]) == ("invalid_request_error", param), error
        assert words in error["message"]
    assert served.driver.stats().prompt_tokens == before.prompt_tokens


def test_defaults_of_what_is_not_served(served):
    none = {"tools": None, "stop": None, "seed": None, "n": None, "logprobs": None, "max_completion_tokens": None}
    usual = {
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1,
        "tools": [],
        "tool_choice": "auto",
    }
    usual |= {"response_format": {"type": "text"}, "user": "me", "metadata": {"a": "b"}, "store": False, "top_k": -1}
    for fields in (none, usual):
        assert served.chat(**{"max_tokens": 10, **fields})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "must be a JSON object"),
        (b"[1]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"messages": [', "the body is not valid JSON"),
        (b'{"temperature": NaN}', "NaN is no number of JSON"),
        (b'{"temperature": -Infinity}', "-Infinity is no number"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"user": "\xff"}', "it is not UTF-8"),
        (b'{"error": {"message": "the body of an error"}}', "error: this server does not know this field"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize"])
def test_bodies(served, data, words, path):
    response = served.client.post(path, content=data, headers={"Content-Type": "application/json"})
    assert words in error_of(response)["message"]


def test_a_body_that_is_not_said_to_be_json(served):
    response = served.client.post("/v1/chat/completions", content=json.dumps(body()))
    assert "Content-Type" in error_of(response)["message"]


def test_a_long_body(served):
    response = served.client.post("/v1/chat/completions", json=body("a" * 9_000_000))
    assert "8388608 bytes" in error_of(response, 413)["message"]


def test_no_such_model_or_path(served):
    error = error_of(served.client.post("/v1/chat/completions", json=body(model="gpt-5")), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert MODEL in error["message"]
    assert error_of(served.client.get("/v1/models/none"), 404)
    assert error_of(served.client.get("/v1/nothing"), 404)
    assert error_of(served.client.delete("/v1/chat/completions"), 405)
