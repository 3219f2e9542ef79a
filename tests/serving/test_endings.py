"""What ends a server or an engine: faults after the first bytes, signals."""

import signal
import threading

import pytest
from served_hash import Gate, RawClient, body, driving, finish_reasons, joined, serving, until

from mvjax.engine import Engine

pytestmark = pytest.mark.xdist_group("engine/hash_model")

LONG = {"mode": "autoregressive", "ignore_eos": True, "max_tokens": 100}


class Later:
    """A call in a thread of its own."""

    def __init__(self, call):
        self.result = None

        def run():
            self.result = call()

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def get(self):
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.result


@pytest.fixture
def gate():
    return Gate()


def streaming(served, path="/v1/chat/completions", **fields):
    """A stream that is read in a thread."""
    return Later(lambda: served.events(path, body(**LONG, **fields)))


def test_a_failure_after_200_is_an_event(gate, monkeypatch):
    """The engine is built anew, and the next request is answered."""
    step, faults = Engine.step, []

    def fails(self, on_tokens=None):
        if faults:
            raise faults.pop()
        return step(self, on_tokens)

    with driving(observers=[gate]) as driver, serving(driver) as served:
        wanted = served.chat(**LONG)
        monkeypatch.setattr(Engine, "step", fails)
        with gate.closed():
            stream = streaming(served, n=2)
            gate.wait()
            whole = Later(lambda: served.client.post("/v1/chat/completions", json=body(**LONG)))
            responses = Later(lambda: served.events("/v1/responses", {"input": "abc", "max_output_tokens": 100}))
            until(lambda: len(driver._live) == 4)
            faults.append(MemoryError("no more memory for secrets"))
        events = stream.get()
        assert "[DONE]" not in events
        assert events[-1]["error"]["code"] == "engine_failed"
        assert events[-1]["error"]["type"] == "server_error"
        assert joined(events[:-1]) in wanted["choices"][0]["message"]["content"]
        assert whole.get().status_code == 500
        assert whole.get().json()["error"]["code"] == "engine_failed"
        assert [event["type"] for event in responses.get()[-2:]] == ["error", "response.failed"]
        assert "secrets" not in str([events, whole.get().json(), responses.get()])
        assert served.chat(**LONG)["choices"] == wanted["choices"]
        served.idle()


def test_a_signal_lets_streams_end(gate):
    closed = threading.Event()
    with driving(observers=[gate]) as driver, serving(driver, drain=20) as served:
        served.server.closing = closed.set
        wanted = served.chat(**LONG)["choices"][0]["message"]["content"]
        with gate.closed():
            stream = streaming(served)
            gate.wait()
            served.server.handle_exit(signal.SIGTERM)
            until(lambda: driver._draining)
            health = served.client.get("/health")
            assert (health.status_code, health.json()["error"]["code"]) == (503, "shutting_down")
            refused = served.client.post("/v1/chat/completions", json=body())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert refused.headers["retry-after"]
        events = stream.get()
        assert joined(events) == wanted
        assert (events[-1], finish_reasons(events)) == ("[DONE]", {0: "length"})
        served.thread.join(10)
        assert not served.thread.is_alive()
        assert closed.is_set()


def test_streams_that_do_not_end_in_time_are_wound_up(gate):
    with driving(observers=[gate]) as driver, serving(driver, drain=0.0) as served:
        with gate.closed():
            stream = streaming(served)
            gate.wait()
            served.server.handle_exit(signal.SIGTERM)
            until(lambda: any(job.cancelled for job in driver._live.values()))
        events = stream.get()
        assert events[-1]["error"]["code"] == "shutting_down"
        served.thread.join(10)
        assert not served.thread.is_alive()


def test_a_second_signal_ends_at_once(gate):
    with driving(observers=[gate]) as driver, serving(driver) as served, gate.closed():
        stream = RawClient(served, body(**LONG, stream=True))
        gate.wait()
        served.server.handle_exit(signal.SIGTERM)
        served.server.handle_exit(signal.SIGTERM)
        served.thread.join(10)
        assert not served.thread.is_alive()
        stream.close()
