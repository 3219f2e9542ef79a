"""A TPU pod slice as gcloud sees it: its commands, and one command on all workers with a log for each."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from common import AGAIN, FINISHED, INTERRUPTED, ROOT, UserError, forwarded_settings, overall_status, say, setting
from processes import CRASH_GRACE, Signals

SHIPPED = ("mvjax", "kernels", "configs", "launch", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
"""What the workers get."""

LOCK = "runs/.launch-lock"
"""On each worker: which start runs there."""

READ_REST = 10.0
"""Seconds (at most) for the rest of the output once gcloud has ended: workers that it lost may hold the pipe open."""

UNREACHABLE = 30.0
"""Seconds after which workers that were to be killed are given up."""

LINE = re.compile(rb"worker (\d+)\| (.*)")
ENDED = re.compile(r"launch: worker ended with status (\d+)$")


@dataclass
class Ended:
    """What a command on all workers left."""

    logs: Path
    """Directory of the logs."""
    status: int = FINISHED
    """The overall status of the workers; that of gcloud where no worker reported one."""
    statuses: dict[int, int] = field(default_factory=dict)
    """Status of each worker that reported it."""
    lines: dict[int, list[str]] = field(default_factory=dict)
    """The last lines of each worker."""
    signalled: bool = False
    """A signal to the launcher asked for the end."""


class Pod:
    """The slice that the options of launch/tpu_pod name."""

    def __init__(self, options):
        self._options = options
        self._place = [f"--zone={options.zone}", *([f"--project={options.project}"] if options.project else [])]
        self._inside = ["--internal-ip"] if options.internal_ip else []

    # Commands, as words after `gcloud`.

    def describe(self) -> list[str]:
        return ["compute", "tpus", "tpu-vm", "describe", self._options.tpu, *self._place, "--format=json"]

    def queue_describe(self) -> list[str]:
        return [*self._queue("describe"), "--format=value(state.state)"]

    def queue_delete(self) -> list[str]:
        return [*self._queue("delete"), "--force", "--quiet"]

    def queue_create(self) -> list[str]:
        options = self._options
        kind = [f"--accelerator-type={options.accelerator_type}", f"--runtime-version={options.runtime_version}"]
        return [*self._queue("create"), f"--node-id={options.tpu}", *kind, *(["--spot"] if options.spot else [])]

    def _queue(self, verb: str) -> list[str]:
        return ["compute", "tpus", "queued-resources", verb, self._options.queued, *self._place]

    def ssh(self, command: str) -> list[str]:
        where = [self._options.tpu, *self._place, "--worker=all", *self._inside]
        return ["compute", "tpus", "tpu-vm", "ssh", *where, f"--command={command}"]

    def copy_command(self, archive: Path) -> list[str]:
        target = f"{self._options.tpu}:{archive.name}"
        return ["compute", "tpus", "tpu-vm", "scp", str(archive), target, *self._place, "--worker=all", *self._inside]

    def install_command(self) -> list[str]:
        """uv brings a Python that is new enough: the images of TPU VMs have older ones."""
        place = shlex.quote(self._options.directory)
        steps = [
            f"mkdir -p {place}",
            f"tar -xzf mvjax-code.tar.gz -C {place}",
            f"cd {place}",
            "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv",
            "(test -x .venv/bin/python || python3 -m uv venv --quiet --python 3.11 .venv)",
            "python3 -m uv pip install --quiet --python .venv/bin/python --editable '.[tpu,gcs]'",
        ]
        return self.ssh(" && ".join(steps))

    # What runs on each worker.

    def check_command(self, token: str, workers: int | str) -> str:
        return self._worker(token, "--check", f"--hosts={workers}")

    def train_command(self, token: str, start: int) -> str:
        return self._worker(token, "--no-check", f"--start={start}", f"--log=runs/logs/{token}.log")

    def stop_command(self, name: str) -> str:
        return self._python(f"--stop={name}", f"--lock={LOCK}", "--prefix")

    def _worker(self, token: str, *words: str) -> str:
        options = self._options
        common = ["--prefix", f"--lock={LOCK}", f"--token={token}", "--platform=tpu", *words]
        return self._python(*common, str(options.config), *options.options)

    def _python(self, *words: str) -> str:
        settings = [f"{name}={value}" for name, value in forwarded_settings().items()]
        command = ["env", "MVJAX_DISTRIBUTED=auto", *settings, *self._options.env, "python3", "launch/worker", *words]
        return f"cd {shlex.quote(self._options.directory)} && . .venv/bin/activate && exec {shlex.join(command)}"

    # Asking and running.

    def gcloud(self, *words: str) -> str:
        """Run a command of gcloud to its end; returns its output, UserError with its last message where it fails."""
        done = subprocess.run(["gcloud", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
            what = next((line for line in lines if line.startswith("ERROR")), lines[-1])
            raise UserError(f"gcloud {' '.join(words[1:4])} failed: {what}")
        return done.stdout

    def _asked(self, words: list[str]) -> str:
        """The answer of a describe command; empty where the thing does not exist."""
        try:
            return self.gcloud(*words)
        except UserError as error:
            if "NOT_FOUND" in str(error) or "was not found" in str(error):
                return ""
            raise

    def queue_state(self) -> str:
        return self._asked(self.queue_describe()).strip()

    def state(self) -> tuple[str, int]:
        """State of the slice (empty: not there) and its number of hosts."""
        node = json.loads(self._asked(self.describe()) or "{}")
        return node.get("state", ""), len(node.get("networkEndpoints", [])) or 1

    def run(self, command: str, logs: Path, *, shown: bool) -> Ended:
        """A command on all workers: logs/worker-N.log for each, logs/gcloud.log for gcloud; worker 0's output is shown.

        When a worker has ended badly the others have MVJAX_GRACE seconds (CRASH_GRACE after a crash) to end as well.
        """
        logs.mkdir(parents=True, exist_ok=True)
        ended, deadline, killed, grace = Ended(logs), None, False, setting("MVJAX_GRACE", 120)
        with Signals() as signals:
            gcloud = subprocess.Popen(
                ["gcloud", *self.ssh(command)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is passed on below, once
            )
            reader = threading.Thread(target=read, args=(gcloud.stdout, ended, shown), daemon=True)
            reader.start()
            while gcloud.poll() is None:
                for number in signals.take():
                    ended.signalled = True
                    self.stop(signal.Signals(number).name.removeprefix("SIG"))
                bad = [status for status in list(ended.statuses.values()) if status]
                if bad and deadline is None:
                    orderly = ended.signalled or all(status in (AGAIN, INTERRUPTED) for status in bad)
                    deadline = time.monotonic() + (grace if orderly else min(grace, CRASH_GRACE))
                if deadline is not None and time.monotonic() > deadline:
                    if killed:  # they cannot be reached; the next start ends what is left there
                        os.killpg(gcloud.pid, signal.SIGKILL)
                    else:
                        say("some workers have not ended in time and are killed")
                        self.stop("KILL")
                    deadline, killed = time.monotonic() + UNREACHABLE, True
                time.sleep(0.05)
            reader.join(min(grace, READ_REST))
        ended.status = overall_status(ended.statuses.values()) or gcloud.returncode
        return ended

    def stop(self, name: str) -> None:
        """Send a signal to the run on all workers."""
        say(f"SIG{name}: passed on to all workers")
        try:
            self.gcloud(*self.ssh(self.stop_command(name)))
        except UserError as error:
            say(str(error))


def read(stream: IO[bytes], ended: Ended, shown: bool) -> None:
    """Sort the lines of all workers into their logs."""
    files: dict[str, IO[bytes]] = {}
    for line in stream:
        match = LINE.match(line.rstrip(b"\r\n"))
        name = f"worker-{int(match[1])}" if match else "gcloud"
        text = match[2] if match else line.rstrip(b"\n")
        if name not in files:
            files[name] = (ended.logs / f"{name}.log").open("ab", buffering=0)
        files[name].write(text + b"\n")
        if match:
            worker, words = int(match[1]), text.decode(errors="replace")
            ended.lines.setdefault(worker, []).append(words)
            del ended.lines[worker][:-20]
            if match := ENDED.match(words):
                ended.statuses[worker] = int(match[1])
            elif worker == 0 and shown:
                sys.stdout.buffer.write(text + b"\n")
                sys.stdout.buffer.flush()
    for file in files.values():
        file.close()


def code_archive(target: Path, config: Path) -> Path:
    """Pack what the workers get: the code, and the configuration wherever it lies in the repository."""

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if entry.name.endswith((".pyc", "__pycache__", ".egg-info")) else entry

    with tarfile.open(target, "w:gz") as archive:
        for name in dict.fromkeys([*SHIPPED, str(config)]):
            if not (ROOT / name).exists():
                raise UserError(f"{ROOT / name} is missing: is this a whole copy of the repository?")
            archive.add(ROOT / name, name, filter=wanted)
    return target
