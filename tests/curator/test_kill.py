"""The curator is killed at random moments: each record ends once, as if nothing had been, and nothing is paid twice."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import flaky_model
import pytest
from model_replies import drive, problem

from mvjax.curator import llm
from mvjax.curator.checks import content
from mvjax.curator.ready import checked
from mvjax.curator.store import Store
from mvjax.curator.store.counts import count

ROOT = Path(__file__).parents[2]
RUN = "import sys; from mvjax.cli.main import run; run()"
KINDS = ("malformed", "429", "500", "503", "reset", "cut", "error body", "no choices", "empty")


def traces(number):
    """Made-up traces of several shapes; one in 25 does not reach its answer."""
    made = [problem(k, farms=2 + k % 2, nested=int(k % 3 == 0), attempt=k % 5 == 0) for k in range(number)]
    return [replace(entry, answer="-1") if k % 25 == 7 else entry for k, entry in enumerate(made)]


class Stage:
    """An endpoint in a process of its own, and curators that work with it."""

    def __init__(self, place: Path, problems, faults: float, kinds, concurrency: int):
        self.place, self.concurrency, self.total = place, concurrency, len(problems)
        self.environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
        self.log, self.store = place / "answered.log", place / "s.sqlite"
        self.log.touch()
        fields = ("id", "question", "reasoning", "answer", "attempt")
        lines = [json.dumps({name: getattr(entry, name) for name in fields}) for entry in problems]
        (place / "traces.jsonl").write_text("\n".join(lines))
        script = ROOT / "tests" / "support" / "scripted_endpoint.py"
        words = ["--faults", str(faults), "--kinds", *kinds, "--replies", "flaky_model:reply", "--log", self.log]
        endpoint = subprocess.Popen(
            [sys.executable, script, *words], env=self.environment, stdout=subprocess.PIPE, text=True
        )
        self.started = [endpoint]
        self.url = endpoint.stdout.readline().strip()

    def start(self) -> subprocess.Popen:
        """A curator at work."""
        words = ["curate", "llm", "traces.jsonl", "--store", self.store, "--base-url", self.url, "--model", "scripted"]
        curator = subprocess.Popen(
            [sys.executable, "-c", RUN, *words, "--concurrency", str(self.concurrency)],
            cwd=self.place,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(curator)
        return curator

    def answered(self) -> int:
        """Calls that the endpoint has answered."""
        return self.log.read_bytes().count(b"\n")

    def kill_after(self, calls: int) -> None:
        """Start a curator, and kill it once the endpoint has answered so many calls more."""
        aim, curator = self.answered() + calls, self.start()
        while self.answered() < aim:
            assert curator.poll() is None, curator.stdout.read()
            time.sleep(0.01)
        curator.kill()
        curator.wait()

    def finish(self) -> str:
        """Let a curator come to its end; what it said."""
        curator = self.start()
        said, _ = curator.communicate()
        assert curator.returncode == 0, said
        return said

    def close(self) -> None:
        """End whatever still runs."""
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def stage(tmp_path, request):
    made = Stage(tmp_path, **request.param)
    yield made
    made.close()


def check(stage: Stage, problems, kills: int) -> Counter:
    """Everything that must hold in the end; how records ended."""
    settings, states, asked = llm.Settings(), Counter(), 0
    with Store.read(stage.store) as store:
        counts = count(store)
        assert (counts.total, counts.pending) == (stage.total, 0)
        for entry, (kept, outcome) in zip(problems, store.outcomes(), strict=True):
            assert kept.id == entry.id
            states[outcome.state] += 1
            expected, calls = drive(llm.curate(kept, settings), flaky_model.answer)
            assert outcome == expected
            stored = store.calls(entry.id)
            assert [call.fingerprint for call in stored] == [call.fingerprint for call, _ in calls]
            assert [call.number for call in stored] == list(range(len(calls)))
            asked += len(calls)
            if outcome.record is None:
                assert outcome.check
                assert outcome.reason
                continue
            assert checked(outcome.record).findings == ()
            written = outcome.record.autoregressive.removesuffix(f"\n</Think>\n\nAnswer: {entry.attempt}")
            assert content.distance(entry.reasoning, written.removeprefix("<Think>\n")) < 0.05
    # What was answered and is not in the store was in flight at a kill.
    assert 0 <= stage.answered() - asked <= kills * stage.concurrency
    return states


SMALL = {"problems": traces(16), "faults": 0.08, "kinds": KINDS, "concurrency": 8}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [SMALL], indirect=True, ids=["small"])
def test_one_kill(stage):
    stage.kill_after(random.Random(1).randint(40, 150))
    with Store.read(stage.store) as store:
        assert count(store).pending
        before = store.spent()[:2]
    said = stage.finish()
    assert "16 that the store has already" in said
    assert "16 of 16 records are done" in said
    with Store.read(stage.store) as store:
        assert store.spent()[:2] > before
    assert check(stage, SMALL["problems"], kills=1)["rejected"] >= 1


LARGE = {"problems": traces(1000), "faults": 0.1, "kinds": (*KINDS, "hang"), "concurrency": 32}


@pytest.mark.slow
@pytest.mark.timeout(1700)
@pytest.mark.parametrize("stage", [LARGE], indirect=True, ids=["large"])
def test_three_kills(stage):
    rng = random.Random(2)
    for _ in range(3):
        stage.kill_after(rng.randint(100, 2500))
    assert "1,000 of 1,000 records are done" in stage.finish()
    states = check(stage, LARGE["problems"], kills=3)
    assert states["parallel"] > 500
    assert states["sequential"] > 10
    assert states["rejected"] >= 40
