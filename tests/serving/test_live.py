"""The live feed: the same picture from a snapshot and from events, bounded, with ids that readers come back with."""

import asyncio
import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from scripted_answer import Answer, Block, result, updates, vocabulary

from mvjax.engine.stats import EngineStats
from mvjax.serving.live import ENDED_SHOWN, LiveFeed, live_router

NESTED = Block(["a", "b"], [["deep one"], ["deep two is long"]], "both deep")
ANSWER = Answer(
    ["Think. ", Block(["left", "right"], [["go left ", NESTED, "on"], ["go right"]], "merged"), "The end."],
    cuts={2: "tokens"},
)
GIVEN_UP = Answer(["Try ", Block(["none"], []), "alone."], reason="tokens", cuts={0: "tokens"})
TOKENIZER = vocabulary(ANSWER, GIVEN_UP)
STATS = EngineStats(*[0] * len(EngineStats._fields))


def feed(**options):
    return LiveFeed("m", TOKENIZER, interval=0.001, **options)


def told(feed, first=0):
    """Kind and data of the events so far."""
    events = [event.decode().split("\n") for _, event in list(feed._events)[first:]]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for _, kind, data, *_ in events]


def grown(events):
    """Texts between blocks of each address, from events; states."""
    texts, states = {"": [""]}, {"": "running"}
    for kind, data in events:
        if kind != "branch":
            continue
        address = data["address"]
        if data["event"] == "start":
            texts[address] = [""]
        elif data["event"] == "text":
            texts[address][-1] += data["text"]
        elif data["event"] == "fork":
            texts[address].append("")
        states[address] = {"fork": "waiting", "end": "ended"}.get(data["event"], "running")
    return texts, states


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_a_snapshot_is_what_the_events_amount_to_at_every_step(rows):
    live = feed(kept=10**6)
    live.submitted(7, "req", 5)
    for step in updates(ANSWER, TOKENIZER, rows):
        live.tokens(7, step)
        live.advance()
        (request,) = live.snapshot()["requests"]
        texts, states = grown(told(live))
        assert {one["address"]: one["texts"] for one in request["segments"]} == texts
        assert {one["address"]: one["state"] for one in request["segments"]} == states
        assert request["state"] == "running"
    live.ended(7, result(ANSWER), None)
    live.advance()
    assert live.snapshot()["stats"]["running"] == 0
    (request,) = live.snapshot()["requests"]
    segments = {one["address"]: one for one in request["segments"]}
    assert list(segments) == ["", "1.1", "1.1/1.1", "1.1/1.2", "1.2"]
    assert segments[""]["blocks"] == [{"ordinal": 1, "count": 2, "reduced": True}]
    assert (request["state"], request["reason"], request["cuts"]) == ("ended", "stop", {"1.1/1.1": "tokens"})
    assert segments["1.1/1.1"]["cut"] == "tokens"
    # Positions: siblings start alike, and what follows a block stands behind its longest path.
    assert segments["1.1"]["first"] == segments["1.2"]["first"]
    assert segments["1.1/1.2"]["last"] < segments["1.1"]["last"] < segments[""]["last"]
    kind, ending = told(live)[-1] if told(live)[-1][0] == "ended" else told(live)[-2]
    assert (kind, ending["tokens"]) == ("ended", result(ANSWER).new_tokens)


def test_an_abandoned_block_and_a_dead_engine():
    live = feed()
    live.submitted(1, "a", 5)
    for step in updates(GIVEN_UP, TOKENIZER):
        live.tokens(1, step)
    live.ended(1, None, RuntimeError("out of\nmemory"))
    live.advance()
    (request,) = live.snapshot()["requests"]
    (root,) = request["segments"]
    assert (root["abandoned"], root["blocks"], request["reason"]) == (1, [], "failed")
    assert request["error"] == "RuntimeError: out of memory"


def test_texts_can_be_left_out():
    live = feed(texts=False)
    live.submitted(1, "a", 5)
    for step in updates(ANSWER, TOKENIZER):
        live.tokens(1, step)
    live.advance()
    shown = json.dumps([live.snapshot(), told(live)])
    assert "1.1/1.2" in shown
    assert not any(word in shown for word in ("deep", "merged", "<Path>"))


def test_without_viewers_nothing_grows():
    live = feed()
    for ticket in range(50):
        live.submitted(ticket, str(ticket), 5)
        live.tokens(ticket, next(updates(ANSWER, TOKENIZER)))
        live.ended(ticket, result(ANSWER), None)
    assert (len(live._gone), len(live._fresh), len(live._requests), len(live._events)) == (ENDED_SHOWN, 0, 0, 0)


def test_what_one_request_holds_does_not_hide_the_others(caplog):
    live = feed()
    for ticket in (1, 2):
        live.submitted(ticket, str(ticket), 5)
    live.tokens(1, [next(updates(ANSWER, TOKENIZER))[0]._replace(tokens=[10**6])])
    live.tokens(2, next(updates(ANSWER, TOKENIZER)))
    live.advance()
    assert "cannot show request 1" in caplog.text
    assert [data["id"] for kind, data in told(live) if kind == "branch"] == ["2"]


def test_rates():
    now = [10.0]
    live = feed(clock=lambda: now[0])
    live.stay(STATS._replace(generation_tokens=30, rows=5, pages_used=2, pages=9), 0.1)
    live.submitted(1, "a", 5)
    assert live.stats()["tokens_per_second"] == 10
    assert (live.stats()["waiting"], live.stats()["rows"], live.stats()["pages"]) == (1, 5, 9)
    live.stay(STATS._replace(generation_tokens=6), 0.1)  # The engine was built again and counts from 0.
    assert live.stats()["tokens_per_second"] == 12
    now[0] += 4
    assert live.stats()["tokens_per_second"] == 0


async def read(stream, count):
    """Id, kind and data of the next events."""
    found = []
    async for event in stream:
        if event.startswith(b":"):
            continue
        number, kind, data, *_ = event.decode().split("\n")
        found.append((number.removeprefix("id: "), kind.removeprefix("event: "), json.loads(data[6:])))
        if len(found) == count:
            break
    return found


def test_readers_come_back_where_they_were():
    async def story():
        live = feed(kept=20)
        first = live.stream()
        ((start, kind, data),) = await read(first, 1)
        assert (kind, data["requests"]) == ("snapshot", [])
        live.submitted(1, "a", 5)
        live.tokens(1, next(updates(ANSWER, TOKENIZER)))
        seen = await read(first, 3)
        assert [kind for _, kind, _ in seen] == ["request", "branch", "progress"]
        await first.aclose()
        again = await read(live.stream(start), 3)
        assert again == seen
        later = await read(live.stream(seen[0][0]), 2)
        assert later == seen[1:]
        for step in updates(ANSWER, TOKENIZER):  # More than is kept.
            live.tokens(1, step)
            live.advance()
        for last_id in (seen[0][0], "", "x-3", f"{start.split('-')[0]}-99999", "-", f"{start}9" * 9):
            ((_, kind, data),) = await read(live.stream(last_id), 1)
            assert kind == "snapshot", last_id
            assert data["requests"][0]["id"] == "a"
        live.close()

    asyncio.run(story())


def test_a_slow_reader_skips_to_a_snapshot_and_holds_nobody_up():
    async def story():
        live = feed(kept=20)
        slow = live.stream()
        await read(slow, 1)
        live.submitted(1, "a", 5)
        for step in updates(ANSWER, TOKENIZER):
            live.tokens(1, step)
            live.advance()
        ((_, kind, data),) = await read(slow, 1)
        assert kind == "snapshot"
        assert [one["address"] for one in data["requests"][0]["segments"]][-1] == "1.2"
        live.close()

    asyncio.run(story())


def test_silence_gets_comments_and_shutting_down_ends_streams():
    async def story():
        live = feed()
        stream = live.stream(keep_alive=0.01)
        await anext(stream)
        assert await anext(stream) == b": keep-alive\n\n"
        live.close()
        assert [event async for event in stream if not event.startswith(b":")] == []

    asyncio.run(story())


def test_the_route():
    live, app = feed(), FastAPI()
    app.include_router(live_router(live))
    live.close()  # Else it would not end.
    with TestClient(app) as client:
        answer = client.get("/live", headers={"Last-Event-ID": "nonsense"})
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.headers["content-type"].startswith("text/event-stream")
