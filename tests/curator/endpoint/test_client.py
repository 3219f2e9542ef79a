"""The chat client against a real local server that plays every misbehaviour."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scripted_endpoint
from chat import CALL, QUICK, Waits, ask, call, echo, talk
from scripted_endpoint import SLOW, fingerprint, serve


def test_a_reply_comes_with_its_tokens():
    with serve(echo) as endpoint:
        (reply,) = ask(endpoint, CALL, temperature=0.5, seed=3, extra={"top_k": 5})
    assert (reply.text, reply.finish) == ("to: What is 1 + 1?", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (3, 5)
    (body,) = endpoint.requests
    assert (body["temperature"], body["seed"], body["top_k"], body["max_tokens"]) == (0.5, 3, 5, 64)
    assert "top_p" not in body
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert endpoint.answered == {fingerprint([dict(message) for message in CALL.messages]): 1}


@pytest.mark.parametrize("kind", QUICK)
def test_what_another_try_may_mend_is_tried_again(kind):
    with serve(echo, script=[kind, kind, "ok", *[kind] * 3]) as endpoint:
        mended, failed = ask(endpoint, CALL, call("And 2 + 2?"), tries=3)
    assert (mended.text, mended.finish) == ("to: What is 1 + 1?", "stop")
    assert failed.finish == "failed"
    assert failed.text.endswith(", 3 tries")
    assert len(endpoint.requests) == 6
    assert sum(endpoint.answered.values()) == 1


@pytest.mark.parametrize("kind", SLOW)
def test_a_reply_that_takes_too_long_is_given_up(kind):
    with serve(echo, script=[kind] * 2) as endpoint:
        (reply,) = ask(endpoint, CALL, tries=2, timeout=0.05)
    assert (reply.text, reply.finish) == ("no reply in time, 2 tries", "failed")


def test_tokens_of_replies_that_held_nothing_count_too():
    with serve(echo, script=["empty", "empty", "ok", "empty", "400"]) as endpoint:
        came, refused = ask(endpoint, CALL, call(schema=False))
    assert (came.prompt_tokens, came.completion_tokens) == (3 * 3, 3 * 5)
    assert (refused.finish, refused.prompt_tokens) == ("refused", 3)


def test_waits_double_at_random():
    waits = Waits()
    with serve(echo, script=["500"] * 8) as endpoint:
        ask(endpoint, CALL, waits=waits, tries=9)
    assert waits.seconds == [1, 2, 4, 8, 16, 32, 60, 60]
    waits = Waits()
    with serve(echo, script=["500"] * 3) as endpoint:
        ask(endpoint, CALL, waits=waits, draw=0.25)
    assert waits.seconds == [0.25, 0.5, 1]


def test_a_storm_is_waited_for_as_long_as_it_asks():
    for asked, waited in [("17", 17.5), ("1000", 90.5)]:
        waits = Waits()
        with serve(echo, script=["429"] * 2, retry_after=asked) as endpoint:
            ask(endpoint, CALL, waits=waits, draw=0.5, max_wait=90)
        assert waits.seconds == [waited, waited]


@pytest.mark.parametrize("status", ["429", "503"])
def test_a_storm_makes_everybody_wait(status):
    class Held(Waits):
        """The first to sleep does so until it is woken, and its sleep takes no time."""

        def __init__(self):
            super().__init__()
            self.asleep, self.woken = asyncio.Event(), asyncio.Event()

        async def __call__(self, seconds):
            if self.asleep.is_set():
                return await super().__call__(seconds)
            self.asleep.set()
            return await self.woken.wait()

    async def conversation(client):
        stormed = asyncio.create_task(client.complete(CALL))
        await waits.asleep.wait()
        other = await client.complete(call("another"))
        waits.woken.set()
        return other, await stormed

    waits = Held()
    with serve(echo, script=[status], retry_after="30") as endpoint:
        replies = talk(endpoint.url, conversation, waits=waits, draw=0.0)
    assert [reply.finish for reply in replies] == ["stop", "stop"]
    assert waits.seconds == [30]


@pytest.mark.parametrize(
    ("kind", "finish", "said"),
    [
        ("refusal", "refused", "I cannot help"),
        ("filter", "refused", "content filter"),
        ("400", "refused", "maximum context length"),
        ("413", "refused", "as scripted"),
        ("length", "length", "to: What is 1 + 1?"),
    ],
)
def test_what_no_further_try_would_mend_comes_back_at_once(kind, finish, said):
    with serve(echo, script=[kind]) as endpoint:
        (reply,) = ask(endpoint, CALL)
    assert reply.finish == finish
    assert said in reply.text
    assert len(endpoint.requests) == 1


def formats(endpoint):
    return [body.get("response_format", {}).get("type") for body in endpoint.requests]


def test_an_endpoint_that_knows_no_schema_is_asked_for_json_and_then_for_nothing():
    with serve(echo, script=["no schema"] * 9) as endpoint:
        replies = ask(endpoint, CALL, CALL, call(schema=False))
    assert {reply.finish for reply in replies} == {"stop"}
    assert formats(endpoint) == ["json_schema", "json_object", None, None, None]
    with serve(echo, script=["422", "ok"]) as endpoint:
        ask(endpoint, CALL, CALL)
    assert formats(endpoint) == ["json_schema", "json_object", "json_object"]
    with serve(echo, script=["no schema"]) as endpoint:
        (reply,) = ask(endpoint, CALL, structured="schema")
    assert reply.finish == "refused"
    with serve(echo) as endpoint:
        ask(endpoint, CALL, structured="off")
    assert formats(endpoint) == [None]


def test_one_bad_call_does_not_make_the_others_less_structured():
    with serve(echo, script=["422"] * 3) as endpoint:
        bad, good = ask(endpoint, CALL, CALL)
    assert (bad.finish, good.finish) == ("refused", "stop")
    assert formats(endpoint) == ["json_schema", "json_object", None, "json_schema"]


def test_calls_that_run_together_learn_it_once():
    async def conversation(client):
        return await asyncio.gather(*(client.complete(call(str(k))) for k in range(12)), client.complete(CALL))

    with serve(echo, script=["no schema"] * 13) as endpoint:
        replies = talk(endpoint.url, conversation)
        assert {reply.finish for reply in replies} == {"stop"}
        assert "json_object" in formats(endpoint)


def test_a_newer_name_for_the_length_is_learnt():
    with serve(echo, script=["no max_tokens"] * 3) as endpoint:
        replies = ask(endpoint, CALL, CALL)
    assert {reply.finish for reply in replies} == {"stop"}
    assert [body.get("max_completion_tokens") for body in endpoint.requests] == [None, 64, 64]


def test_tokens_are_estimated_where_nobody_counts_them():
    async def conversation(client):
        return await client.complete(CALL), await client.complete(CALL)

    with serve(echo, script=["no usage"]) as endpoint:
        guessed, counted = talk(endpoint.url, conversation)
    assert (guessed.prompt_tokens, guessed.completion_tokens) == (8, 5)
    assert (counted.prompt_tokens, counted.completion_tokens) == (3, 5)
    assert (guessed.estimated, counted.estimated) == (True, False)


def test_cancelling_gives_up_a_call_at_once_and_its_tokens():
    async def conversation(client):
        task = asyncio.create_task(client.complete(CALL))
        while not endpoint.requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await client.complete(CALL)

    waits = Waits()
    with serve(echo, script=["hang"]) as endpoint:
        # Room for one call a minute, were the first still counted.
        assert talk(endpoint.url, conversation, waits=waits, tokens_per_minute=100).finish == "stop"
    assert waits.seconds == []


def test_what_a_call_did_not_take_is_room_for_others():
    waits = Waits()
    with serve(echo, script=["500"]) as endpoint:
        ask(endpoint, CALL, CALL, CALL, waits=waits, tokens_per_minute=100)
    assert waits.seconds == [1]
    with serve(echo) as endpoint:
        ask(endpoint, CALL, CALL, waits=waits, requests_per_minute=1)
    assert waits.seconds == [1, 60]


def test_random_faults_lose_no_call():
    async def conversation(client):
        return await asyncio.gather(*(client.complete(call(f"number {k}")) for k in range(60)))

    with serve(echo, faults=0.3, kinds=QUICK, seed=1) as endpoint:
        replies = talk(endpoint.url, conversation, tries=12)
    assert [reply.text for reply in replies] == [f"to: number {k}" for k in range(60)]
    assert set(endpoint.answered.values()) == {1}
    assert len(endpoint.requests) > 70


def test_the_endpoint_runs_as_a_process_of_its_own(tmp_path):
    (tmp_path / "own_replies.py").write_text("def reply(messages, body):\n    return messages[-1]['content'].upper()\n")
    script, log = Path(scripted_endpoint.__file__), tmp_path / "log"
    words = [
        "--port",
        "0",
        "--faults",
        "0.5",
        "--kinds",
        "500",
        "reset",
        "--replies",
        "own_replies:reply",
        "--log",
        log,
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, script, *words]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip()
            replies = talk(url, lambda client: asyncio.gather(*(client.complete(call(f"call {k}")) for k in range(10))))
        finally:
            server.kill()
    assert [reply.text for reply in replies] == [f"CALL {k}" for k in range(10)]
    assert len(set(log.read_text().split())) == len(log.read_text().split()) == 10
