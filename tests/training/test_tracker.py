"""Metrics at a service: every step once over all starts, and nothing that happens there ends or delays a run."""

import io
import json
import sys
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console
from tiny_training import RandomBatches, make_simple_model

from mvjax.training import tracker
from mvjax.training.mesh import make_placement
from mvjax.training.train import fit


class Service:
    """Stands for `trackio`."""

    def __init__(self):
        self.begun, self.lines, self.finished, self.fault = [], [], 0, None

    def init(self, **settings):
        if self.fault == "init":
            raise SystemExit("no such server")
        self.begun.append(settings)
        return self

    def log(self, numbers, step):
        if self.fault == "log" and step == 2:
            raise ConnectionError("the line is dead")
        if self.fault == "hang":
            threading.Event().wait()
        self.lines.append((step, numbers))

    def finish(self):
        self.finished += 1


@pytest.fixture
def service(monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "trackio", service)
    monkeypatch.setattr(tracker, "PATIENCE", 0.2)
    return service


def run(config, steps=4):
    said = io.StringIO()
    console = Console(file=said, width=500)
    result = fit(config, make_simple_model(), make_placement(config.mesh), RandomBatches(), steps, console=console)
    assert result.finished == (not config.steps.stop_after)
    return result.directory, said.getvalue()


def test_every_step_is_sent_once_over_all_starts_under_one_id(service, make_config, monkeypatch):
    monkeypatch.setattr(tracker, "PATIENCE", 60)
    config = make_config(output={"tracker": "trackio"}, checkpoints={"every": 2})
    directory, said = run(config.replace(steps={"stop_after": 2}))
    with open(directory / "metrics.jsonl", "a") as file:  # a start that was killed had come further
        file.write(json.dumps({"step": 3, "loss": 1.0}) + "\n")
    assert "warning" not in said
    run(config)
    assert [step for step, _ in service.lines] == [1, 2, 4]
    assert all(numbers["loss"] > 0 and "mfu" not in numbers for _, numbers in service.lines)
    first, second = service.begun
    assert {**first, "config": {}} == {**second, "config": {}}
    assert first["name"].startswith("run-")
    assert (first["project"], first["resume"]) == ("mvjax", "allow")
    assert first["config"]["checkpoints"]["every"] == 2
    assert service.finished == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("init", "warning: trackio: no such server; the run goes on"),
        ("log", "warning: trackio: the line is dead; the run goes on"),
        ("hang", "warning: trackio: not all was sent within"),
    ],
)
def test_faults_of_the_service_end_no_run(service, make_config, fault, message):
    service.fault = fault
    directory, said = run(make_config(output={"tracker": "trackio"}))
    assert said.count("warning") == said.count(message) == 1
    assert len((directory / "metrics.jsonl").read_text().splitlines()) == 4


def test_an_absent_package_is_named(make_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    _, said = run(make_config(output={"tracker": "wandb"}))
    assert "pip install 'mvjax[wandb]'; the run goes on without it" in said


def test_lines_that_nobody_takes_are_left_out(service, make_config, monkeypatch):
    monkeypatch.setattr(tracker, "ROOM", 1)
    service.fault = "hang"
    _, said = run(make_config(output={"tracker": "trackio"}), 8)
    assert said.count("warning: trackio: 1 lines wait to be sent") == 1


def test_wandb_asks_for_no_key(make_config, tmp_path, monkeypatch):
    begun, keys = [], []
    double = SimpleNamespace(
        Settings=lambda **settings: SimpleNamespace(**settings),
        login=lambda prompt: prompt or bool(keys),
        init=lambda **settings: begun.append(settings),
    )
    monkeypatch.setitem(sys.modules, "wandb", double)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.raises(RuntimeError, match="no key; use `wandb login`"):
        tracker.begin("wandb", make_config(), tmp_path, "12ab")
    keys.append("secret")
    tracker.begin("wandb", make_config(), tmp_path, "12ab")
    assert (begun[0]["id"], begun[0]["resume"]) == ("12ab", "allow")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_the_real_packages_keep_a_run_without_a_server(make_config, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip(kind)
    config = make_config(output={"tracker": kind})
    directory, said = run(config.replace(steps={"stop_after": 2}))
    _, more = run(config)
    assert "warning" not in said + more
    kept = directory / "wandb" if kind == "wandb" else tmp_path / "trackio"
    assert any(path.stat().st_size > 1000 for path in kept.rglob("*") if path.is_file())
