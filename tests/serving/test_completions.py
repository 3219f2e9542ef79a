"""POST /v1/completions: texts and token ids, echo, log-probabilities."""

import numpy as np
import pytest
from served_hash import MODEL, body, serving, tokenizer

from mvjax.engine.prompt_scorer import Scores

pytestmark = pytest.mark.xdist_group("engine/hash_model")

PATH = "/v1/completions"


def fields(prompt="abc", **more):
    its = {name: value for name, value in body(**more).items() if name != "messages"}
    return {**its, "prompt": prompt}


def complete(served, prompt="abc", **more):
    response = served.client.post(PATH, json=fields(prompt, **more))
    assert response.status_code == 200, response.text
    return response.json()


def refused(served, prompt="abc", **more):
    response = served.client.post(PATH, json=fields(prompt, **more))
    assert response.status_code == 400, response.text
    return response.json()["error"]


def joined(events, name="text", index=0):
    choices = [event["choices"][0] for event in events[:-1] if event["choices"]]
    return "".join(choice.get(name) or "" for choice in choices if choice["index"] == index)


def test_texts_and_token_ids_alike(served):
    whole = complete(served)
    by_ids = complete(served, tokenizer().encode("abc"))
    assert by_ids["choices"] == whole["choices"]
    assert whole["usage"]["prompt_tokens"] == 3
    several = complete(served, ["abc", "abd"], n=2, max_tokens=30)
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert several["choices"][0]["text"] == complete(served, max_tokens=30)["choices"][0]["text"]
    assert several["choices"][3]["text"] == complete(served, "abd", seed=2, max_tokens=30)["choices"][0]["text"]
    assert several["usage"]["prompt_tokens"] == 6
    ids = [tokenizer().encode(text) for text in ("abc", "abd")]
    assert complete(served, ids, n=2, max_tokens=30)["choices"] == several["choices"]


def test_a_stream_is_the_same(served):
    for more in ({"seed": 6}, {"seed": 6, "echo": True}, {"seed": 6, "branches": "transcript"}, {"seed": 1, "n": 2}):
        whole, events = complete(served, **more), served.events(PATH, fields(**more))
        for choice in whole["choices"]:
            assert joined(events, index=choice["index"]) == choice["text"]
            assert joined(events, "reasoning", choice["index"]) == choice.get("reasoning", "")
        assert events[-1] == "[DONE]"
    *events, last, _ = served.events(PATH, fields(stream_options={"include_usage": True}))
    assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 3)
    assert all(event["usage"] is None for event in events)


def test_log_probabilities(served):
    more = {"mode": "autoregressive", "ignore_eos": True, "max_tokens": 30, "logprobs": 2}
    (choice,) = complete(served, **more)["choices"]
    its = choice["logprobs"]
    assert {len(values) for values in its.values()} == {30}
    assert all(-9999 <= value <= 0 for value in its["token_logprobs"])
    assert all(name in top for name, top in zip(its["tokens"], its["top_logprobs"]))
    assert its["text_offset"][0] == 0
    streamed = [event["choices"][0]["logprobs"] for event in served.events(PATH, fields(**more))[:-1]]
    for name, values in its.items():
        assert [value for one in streamed if one for value in one[name]] == values


def test_echo(served):
    whole = complete(served, "a€b")
    assert complete(served, "a€b", echo=True)["choices"][0]["text"] == "a€b" + whole["choices"][0]["text"]
    nothing = complete(served, "a€b", echo=True, max_tokens=0)
    assert nothing["choices"] == [{"index": 0, "text": "a€b", "logprobs": None, "finish_reason": "length"}]
    assert nothing["usage"] | {"completion_tokens": 0, "total_tokens": 5} == nothing["usage"]
    events = served.events(PATH, fields("a€b", echo=True, max_tokens=0))
    assert joined(events) == "a€b"


class Halves:
    """A scorer for which every token has probability one half, and the next id the other half."""

    def score(self, tokens):
        ids = np.array(tokens[1:])
        half_T = np.full(len(ids), np.log(0.5), np.float32)
        top_T2 = np.stack([half_T, np.full(len(ids), -np.inf, np.float32)], axis=1)
        return Scores(half_T, np.stack([ids, ids + 1], axis=1), top_T2)


def test_echo_with_log_probabilities(driver):
    """What likelihood tasks ask: the prompt's own, and one new token, which is not read."""
    with serving(driver, scorer=Halves()) as served:
        for more in ({"max_tokens": 0}, {"max_tokens": 1, "ignore_eos": True}, {"max_tokens": 20}):
            more = {"echo": True, "logprobs": 2, **more}
            (choice,) = complete(served, "a€b", **more)["choices"]
            its = choice["logprobs"]
            assert its["tokens"][:5] == ["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "b"]
            assert its["token_logprobs"][0] is its["top_logprobs"][0] is None
            assert its["token_logprobs"][1:5] == [round(np.log(0.5), 6)] * 4
            assert its["top_logprobs"][4] == {"b": round(np.log(0.5), 6), "c": -9999.0}
            assert len(set(map(len, its.values()))) == 1
            assert len(its["tokens"]) >= 5 + (more["max_tokens"] == 1)
            streamed = [event["choices"][0]["logprobs"] for event in served.events(PATH, fields("a€b", **more))[:-1]]
            for name, values in its.items():
                assert [value for one in streamed if one for value in one[name]] == values
        (first, second) = complete(served, ["ab", "cd"], echo=True, logprobs=1, max_tokens=0)["choices"]
        assert (first["logprobs"]["tokens"], second["logprobs"]["tokens"]) == (["a", "b"], ["c", "d"])


def test_what_is_refused(served):
    assert "give 1 or more" in refused(served, max_tokens=0)["message"]
    assert "9 prompts" in refused(served, ["a"] * 9)["message"]
    assert "empty" in refused(served, "")["message"]
    assert refused(served, [])["param"] == "prompt"
    assert "vocabulary has 44" in refused(served, [44])["message"]
    assert refused(served, [-1])["param"].startswith("prompt[0]")
    assert "best_of" in refused(served, best_of=2)["message"]
    assert "maximum context length is 204" in refused(served, "a" * 300)["message"]
    assert "logprobs = 9: 3 alternatives" in refused(served, logprobs=9)["message"]
    assert refused(served, echo=True, logprobs=1)["param"] == "echo"
    assert served.client.post(PATH, json={"model": MODEL}).status_code == 400
