"""The one-host launch of a server: restarts with growing pauses, health, signals, mistakes."""

import importlib.util
import signal
import socket
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"

SERVER = """
from http.server import BaseHTTPRequestHandler, HTTPServer
record(signal=None)
class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(next_of("health", "200")))
        self.end_headers()
    def log_message(self, *_):
        pass
server = HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health)
def ended(number, frame):
    record(signal=signal.Signals(number).name)
    print("drained", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, ended)
server.serve_forever()
"""
"""A server that is healthy as the script of the stage says, and ends with 0 once it is asked to."""


@pytest.fixture(scope="module")
def launcher():
    """The program as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(LAUNCH))
        loader = SourceFileLoader("launch_serve", str(LAUNCH / "serve"))
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
        loader.exec_module(module)
        return module


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_crash_starts_it_again_with_its_options(stage):
    stage.script("statuses", 1, 0)
    done = stage.launch("serve", "--platform", "cpu", "--model", "m", "--port", free_port())
    assert done.returncode == 0, done.stderr
    words = [call["words"] for call in stage.calls()]
    assert words[0] == words[1]
    assert words[0][:3] == ["serve", "--model", "m"]
    assert "ended with status 1; restart 1 of 3 in 0 s" in done.stderr
    assert [log.stem[-2:] for log in sorted(stage.logs.glob("serve-*.log"))] == ["-0", "-1"]


def test_pauses_double_and_a_steady_start_begins_anew(launcher, monkeypatch, capsys):
    now, pauses, lasted = [0.0], [], iter([1, 1, 1, 1, 700, 1, 1, 1, 1])
    monkeypatch.setattr(launcher.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(launcher.time, "sleep", pauses.append)

    def once(start):
        now[0] += next(lasted)
        return 1, True

    assert launcher.kept_up(once, pause=20, steady=600, limit=4) == 1
    assert pauses == [20, 40, 60, 60, 20, 40, 60, 60]
    assert "given up after 4 restart(s)" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "may_follow"), [(0, True), (2, True), (130, True), (75, False)])
def test_what_ends_a_launch(launcher, status, may_follow):
    assert launcher.kept_up(lambda start: (status, may_follow), pause=0, steady=1, limit=3) == status


def test_bad_health_starts_it_again_and_a_signal_ends_it(stage, wait_for):
    """Not while it has never been good: it is still loading."""
    stage.program("mvjax", SERVER)
    stage.script("health", 503, 503, 200, 503, 503, 503, 200)
    process = stage.start("serve", "--port", free_port(), MVJAX_UNHEALTHY="0.05", MVJAX_POLL="0.03", MVJAX_RESTARTS="1")
    wait_for(lambda: len(stage.calls()) == 3)  # started, ended by the watch, started
    wait_for(lambda: (stage.place / "health").read_text() == "200")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert [call["signal"] for call in stage.calls()] == [None, "SIGTERM", None, "SIGTERM"]
    assert "has not been good" in errors
    assert "ready: http://127.0.0.1:" in errors
    assert output.count("drained") == 2


def test_mistakes_are_one_line(stage, mistake, launcher):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        mistake(stage.launch("serve", "--port", port), f"127.0.0.1:{port} cannot be taken", "another --port")
    assert not stage.calls()
    for words, said in ((["--port", "70000"], "'70000' must be"), (["--port=x"], "'x' must be"), (["--port"], "''")):
        with pytest.raises(launcher.UserError, match=said):
            launcher.main(words)


def test_addresses(launcher):
    assert launcher.address([]) == ("127.0.0.1", 8000)
    assert launcher.address(["--model", "m", "--host=::", "--port", "81"]) == ("::", 81)
    assert [launcher.reachable(host) for host in ("0.0.0.0", "::", "::1", "a.b")] == [
        "127.0.0.1",
        "[::1]",
        "[::1]",
        "a.b",
    ]
