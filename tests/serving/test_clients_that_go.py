"""Clients that go away, read slowly or come in too great a number: nothing runs on for them, others are not touched."""

import threading

import pytest
from served_hash import Gate, RawClient, body, driving, finish_reasons, serving, until

from mvjax.serving.driver import Driver

pytestmark = pytest.mark.xdist_group("engine/hash_model")

LONG = {"mode": "autoregressive", "ignore_eos": True, "max_tokens": 160}


@pytest.fixture(scope="module")
def gate():
    return Gate()


@pytest.fixture(scope="module")
def gated(gate):
    with driving(observers=[gate]) as driver, serving(driver) as served:
        yield served


@pytest.fixture
def dropped(monkeypatch):
    """Tickets that have been dropped, as they are."""
    tickets, cancel = [], Driver.cancel

    def noted(self, ticket, *, drop=False):
        cancel(self, ticket, drop=drop)
        tickets.extend([ticket] if drop else [])

    monkeypatch.setattr(Driver, "cancel", noted)
    return tickets


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_pages_are_back_within_a_stay(gated, gate, dropped, stream, reset):
    with gate.closed():
        client = RawClient(gated, body(**LONG, stream=stream))
        gate.wait()
        gate.let(2)
        assert gate.stats.running == 1
        assert gate.stats.pages_used > 0
        if stream:
            assert b"200 OK" in client.read()
        client.close(reset)
        until(lambda: dropped)
        gate.let(1)
        assert gate.stats.running == gate.stats.pages_used == 0
    gated.idle()


def test_a_client_that_goes_before_its_request_has_begun(gated, gate, dropped):
    with gate.closed():
        running = RawClient(gated, body(**LONG))
        gate.wait()
        before = gate.stats.prompt_tokens
        clients = [RawClient(gated, body(**LONG, n=2, stream=stream)) for stream in (False, True)]
        until(lambda: len(gated.driver._live) == 5)
        for client in clients:
            client.close()
        until(lambda: len(set(dropped)) == 4)
        gate.let(2)
        assert gate.stats.prompt_tokens == before
        running.close()
    gated.idle()


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_resets_between_submission_and_the_first_read(gated, count):
    for number in range(count):
        RawClient(gated, body(seed=number, stream=number % 2 == 0)).close(reset=True)
    gated.idle()
    until(lambda: not gated.driver._live)
    until(lambda: not gated.server.server_state.connections)
    assert gated.chat(max_tokens=20)


def test_a_slow_reader_is_cut(gate, dropped):
    """And only that one: another client reads its whole stream meanwhile."""
    with driving(observers=[gate]) as driver, serving(driver, most_unread=40, send_buffer=4096) as served:
        fields = body(**LONG, n=8, logprobs=True, top_logprobs=3, stream=True)
        slow = RawClient(served, fields, receive_buffer=4096)
        until(lambda: dropped)
        events = served.stream(max_tokens=60, n=1)
        assert events[-1] == "[DONE]"
        assert not slow.rest().endswith(b"\r\n0\r\n\r\n")
        served.idle()


def test_a_client_that_is_behind_before_it_has_read_anything(gate, dropped):
    with driving(observers=[gate]) as driver, serving(driver, most_unread=1) as served:
        client = RawClient(served, body(**LONG, stream=True))
        assert b"[DONE]" not in client.rest()
        assert dropped
        served.idle()


def test_a_full_queue(gate):
    from served_hash import build_engine

    with (
        driving(lambda: build_engine(max_queue=1), observers=[gate]) as driver,
        serving(driver, retry_after=7) as served,
    ):
        with gate.closed():
            clients = [RawClient(served, body(**LONG)) for _ in range(3)]
            gate.wait()
            until(lambda: len(driver._live) == 3)
            for fields in (body(), body(stream=True), body(n=2)):
                response = served.client.post("/v1/chat/completions", json=fields)
                assert response.status_code == 429, response.text
                assert response.headers["retry-after"] == "7"
                assert response.json()["error"]["code"] == "queue_full"
            for client in clients:
                client.close()
        served.idle()
        # What was submitted before the queue was full is not left behind.
        assert served.client.post("/v1/chat/completions", json=body(n=3, max_tokens=20)).status_code == 200
        assert served.client.post("/v1/chat/completions", json=body(n=8, max_tokens=20)).status_code == 429
        served.idle()


def test_a_deadline(gate):
    with driving(observers=[gate]) as driver, serving(driver, deadline=0.05) as served:
        ended = []
        with gate.closed():
            thread = threading.Thread(target=lambda: ended.append(served.stream(**LONG)))
            thread.start()
            gate.wait()
            threading.Event().wait(0.06)
        thread.join()
        assert finish_reasons(ended[0]) == {0: "length"}


def test_comments_keep_a_silent_stream_open(gate):
    with driving(observers=[gate]) as driver, serving(driver, keep_alive=0.02) as served, gate.closed():
        client = RawClient(served, body(**LONG, stream=True))
        gate.wait()
        data = b""
        while data.count(b": keep-alive\n\n") < 3:
            data += client.read()
        client.close()
