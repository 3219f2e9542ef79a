"""A stage for launchers: programs that stand in for mvjax, gcloud, kubectl and Slurm, and how they were called."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvjax.version import __version__

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
OUTSIDE = ("gcloud", "kubectl", "sbatch", "srun", "scontrol", "scancel", "squeue", "ssh", "nvidia-smi")
"""Programs that no test may really call."""

RECORD = f"""#!{sys.executable} {{flags}}
import json, os, signal, sys, time
STAGE = {{stage!r}}
NAME = os.path.basename(sys.argv[0])

def record(**more):
    with open(f"{{{{STAGE}}}}/calls.jsonl", "a") as file:
        file.write(json.dumps({{{{"program": NAME, "words": sys.argv[1:], **more}}}}) + "\\n")

def next_of(name, default):
    '''The next line of a script of the stage; the last one stays.'''
    file = f"{{{{STAGE}}}}/{{{{name}}}}"
    lines = open(file).read().split("\\n") if os.path.exists(file) else [default]
    if len(lines) > 1:
        open(file, "w").write("\\n".join(lines[1:]))
    return lines[0]

"""

MVJAX = """
if sys.argv[1:] == ["--version"]:
    print("mvjax", "VERSION")
    sys.exit(0)
record(environment={name: value for name, value in os.environ.items() if name.startswith(("MVJAX", "JAX", "XLA"))})
print("train", *sys.argv[2:], flush=True)
sys.exit(int(next_of("statuses", "0")))
"""


class Stage:
    """A directory with stand-ins first on the PATH."""

    def __init__(self, place: Path):
        self.place, self.bin, self.logs = place, place / "bin", place / "logs"
        self.bin.mkdir()
        for name in OUTSIDE:
            self.program(name, "record()\nsys.exit(f'{NAME} is not part of this test')\n")
        self.program("mvjax", MVJAX.replace("VERSION", __version__))
        self.path = f"{self.bin}:{Path(sys.executable).parent}:/usr/bin:/bin"
        self.config = place / "config.py"
        self.config.write_text("")
        self.started: list[subprocess.Popen] = []

    def program(self, name: str, body: str, packages: bool = False) -> None:
        """A program in Python; it may use record(...) and next_of(SCRIPT, DEFAULT), and packages where it says so."""
        flags = "-u" if packages else "-IS"
        (self.bin / name).write_text(RECORD.format(stage=str(self.place), flags=flags) + body)
        (self.bin / name).chmod(0o755)

    def script(self, name: str, *lines: object) -> None:
        """What next_of(name) gives, in turn."""
        (self.place / name).write_text("\n".join(map(str, lines)))

    def calls(self, program: str = "mvjax") -> list[dict]:
        """How a program was called, in order."""
        file = self.place / "calls.jsonl"
        calls = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [call for call in calls if call["program"] == program]

    def environment(self, **more: str) -> dict[str, str]:
        quick = {"MVJAX_PAUSE": "0", "MVJAX_POLL": "0.05", "MVJAX_GRACE": "1", "MVJAX_SKIP": "config,devices"}
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MVJAX_", "SLURM_", "TPU_", "PYTHONUNBUFFERED"))
        }
        return kept | quick | {"PATH": self.path, "MVJAX_LOGS": str(self.logs)} | more

    def start(self, launcher: str, *words: object, cwd: Path = ROOT, **more: str) -> subprocess.Popen:
        """Start a launcher; it has the standard library alone."""
        process = subprocess.Popen(
            [sys.executable, "-S", str(LAUNCH / launcher), *map(str, words)],
            env=self.environment(**more),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def close(self) -> None:
        """End what has been started, and close its pipes."""
        for process in self.started:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                stream.close()

    def launch(self, launcher: str, *words: object, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess:
        """Run a launcher to its end."""
        process = self.start(launcher, *words, cwd=cwd, **more)
        try:
            output, errors = process.communicate(timeout=100)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.fixture(scope="session", autouse=True)
def heed_signals():
    """As from a terminal: tests that run in the background may have been started with these ignored, and whatever they
    start would ignore them too."""
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def wait_for(condition, seconds=30) -> None:
    """Until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether a process is alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(name="wait_for")
def _wait_for():
    return wait_for


@pytest.fixture(name="runs")
def _runs():
    return runs


@pytest.fixture(scope="session")
def stocked_bucket(gcs_bucket, tmp_path_factory):
    """The bucket with a model and data in it."""
    from bucket_host import put_inputs

    put_inputs(gcs_bucket, tmp_path_factory.mktemp("inputs"))
    return gcs_bucket


@pytest.fixture
def stage(tmp_path):
    with contextlib.closing(Stage(tmp_path)) as stage:
        yield stage


def error_lines(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.fixture
def mistake():
    """Asserts that a launch ended with status 2 and one line that has these words, and no traceback."""

    def check(done: subprocess.CompletedProcess, *words: str) -> None:
        assert done.returncode == 2, done.stderr
        (line,) = error_lines(done)
        assert all(word in line for word in words), line
        assert "Traceback" not in done.stderr

    return check
