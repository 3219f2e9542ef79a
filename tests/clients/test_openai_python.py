"""OpenAI's client for Python."""

import openai
import pytest

pytestmark = pytest.mark.clients

QUESTION = [{"role": "user", "content": "What is 1+1?"}]
OWN = {"mode": "autoregressive", "ignore_eos": True}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0) as client:
        yield client


def test_models(client, server):
    assert [model.id for model in client.models.list()] == [server.model]
    assert client.models.retrieve(server.model).owned_by == "mvjax"


def test_chats(client, server):
    its = {"model": server.model, "messages": QUESTION, "max_tokens": 40, "seed": 3, "extra_body": OWN}
    whole = client.chat.completions.create(**its, n=2, logprobs=True, top_logprobs=2)
    assert [choice.finish_reason for choice in whole.choices] == ["length", "length"]
    assert whole.usage.completion_tokens == 80
    assert whole.usage.degree == 1.0
    assert all(len(one.top_logprobs) == 2 for one in whole.choices[0].logprobs.content)
    chunks = list(client.chat.completions.create(**its, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == 40
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    with client.chat.completions.stream(**its) as stream:
        for _ in stream:
            pass
        assert stream.current_completion_snapshot.choices[0].message.content == whole.choices[0].message.content


def test_branches(client, server):
    """A loop that knows nothing of branches, and one that does."""
    bias = {"260": 30, "262": 0}
    its = {"model": server.model, "messages": QUESTION, "max_tokens": 200, "seed": 4, "logit_bias": bias}
    whole = client.chat.completions.create(**its, extra_body={"include_branches": True})
    options = {"include_branches": True}
    chunks = list(client.chat.completions.create(**its, stream=True, stream_options=options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    reasoning = "".join(getattr(chunk.choices[0].delta, "reasoning", None) or "" for chunk in chunks)
    message = whole.choices[0].message
    assert (text, reasoning) == (message.content, getattr(message, "reasoning", ""))
    branches = [branch for chunk in chunks if (branch := getattr(chunk.choices[0].delta, "branch", None))]
    assert {branch["address"] for branch in branches} == {branch["address"] for branch in message.branches}


def test_a_conversation(client, server):
    messages = list(QUESTION)
    for _ in range(3):
        answer = client.chat.completions.create(model=server.model, messages=messages, max_tokens=30).choices[0].message
        messages += [answer.model_dump(), {"role": "user", "content": "And then?"}]


def test_completions(client, server):
    its = {"model": server.model, "max_tokens": 20, "seed": 3, "extra_body": OWN}
    texts = [choice.text for choice in client.completions.create(**its, prompt=["a", "b"], logprobs=2).choices]
    chunks = client.completions.create(**its, prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == texts[0]
    assert client.completions.create(**its, prompt=[70, 71]).usage.prompt_tokens == 2


def test_responses(client, server):
    its = {"model": server.model, "input": "What is 1+1?", "max_output_tokens": 200, "extra_body": {"seed": 4}}
    whole = client.responses.create(**its)
    events = list(client.responses.create(**its, stream=True))
    assert events[0].type == "response.created"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens
    with client.responses.stream(**its) as stream:
        assert stream.get_final_response().output_text == text


def test_errors(client, server):
    its = {"model": server.model, "messages": QUESTION}
    with pytest.raises(openai.BadRequestError, match="tools are not served") as caught:
        client.chat.completions.create(**its, tools=[{"type": "function", "function": {"name": "f"}}])
    assert caught.value.param == "tools"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**its, max_tokens=100_000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="none", messages=QUESTION)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
