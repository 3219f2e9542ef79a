"""A TPU pod slice, its workers played by this machine: gcloud is a stand-in, launch/worker is the real one."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from mvjax.version import __version__

ROOT = Path(__file__).parents[2]

GCLOUD = """
import subprocess
words = sys.argv[1:]
record()
verb = words[3] if words[1] == "tpus" else ""
if words[2] == "tpu-vm" and verb == "describe":
    state = next_of("states", "READY")
    if not state:
        sys.exit("ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: no such TPU")
    print(json.dumps({"state": state, "networkEndpoints": [{}] * WORKERS}))
elif words[2] == "queued-resources" and verb == "describe":
    state = next_of("queue", "ACTIVE")
    if not state:
        sys.exit("ERROR: NOT_FOUND: no such queued resource")
    print(state)
elif words[2] == "tpu-vm" and verb == "ssh":
    (command,) = [word.partition("=")[2] for word in words if word.startswith("--command=")]
    lost = next_of("connection", "holds") == "lost" and "--no-check" in command
    running = []
    for number in range(WORKERS):
        home = f"{STAGE}/home-{number}"
        more = {"TPU_WORKER_ID": str(number), "HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
        running.append(subprocess.Popen(["bash", "-c", command], cwd=home, env=os.environ | more))
    print("SSH: Attempting to connect to worker ...", flush=True)
    if lost:
        time.sleep(0.5)
        sys.exit(255)
    statuses = [process.wait() for process in running]
    sys.exit(next((status for status in statuses if status), 0))
elif words[2] == "tpu-vm" and verb == "scp":
    for number in range(WORKERS):
        subprocess.run(["cp", words[4], f"{STAGE}/home-{number}/{words[5].partition(':')[2]}"], check=True)
"""

TRAIN = """
if sys.argv[1:] == ["--version"]:
    print("mvjax", "VERSION")
    sys.exit(0)
worker = os.environ["TPU_WORKER_ID"]
record(worker=worker, auto=os.environ.get("MVJAX_DISTRIBUTED"), extra=os.environ.get("EXTRA"), pid=os.getpid())
print("step 1 on", worker, flush=True)
print("no end" + "x" * 10000, end="", flush=True)
fate, asked = next_of("fate-" + worker, "0"), []
if fate == "save":
    signal.signal(signal.SIGTERM, lambda *_: asked.append(75))
    signal.signal(signal.SIGINT, lambda *_: asked.append(130))
while fate == "hang" or (fate == "save" and not asked):
    time.sleep(0.02)
sys.exit(asked[0] if fate == "save" else int(fate))
"""


class Slice:
    """The stage of a pod with some workers."""

    def __init__(self, stage, workers):
        self.stage, self.workers = stage, workers
        stage.program("gcloud", GCLOUD.replace("WORKERS", str(workers)))
        stage.program("mvjax", TRAIN.replace("VERSION", __version__))
        for number in range(workers):
            code = stage.place / f"home-{number}" / "mvjax"
            (code / ".venv" / "bin").mkdir(parents=True)
            (code / ".venv" / "bin" / "activate").write_text(f"PATH={stage.bin}:{Path(sys.executable).parent}:$PATH")
            (code / "launch").symlink_to(ROOT / "launch")
            (code / "configs").symlink_to(ROOT / "configs")

    def launch(self, *words, start=False, **more):
        run = self.stage.start if start else self.stage.launch
        place = () if "--tpu" in words else ("--tpu=pod", "--zone=here")
        return run("tpu_pod", *place, *words, **({"MVJAX_SKIP": "config,devices"} | more))

    def gcloud(self, verb):
        return [call["words"] for call in self.stage.calls("gcloud") if call["words"][3] == verb]

    def logs(self, name, start=0):
        (place,) = self.stage.logs.glob(f"demo-*-{start}")
        return (place / name).read_text()

    def trained(self):
        return [call for call in self.stage.calls() if "worker" in call]


@pytest.fixture
def two(stage, runs):
    made = Slice(stage, 2)
    yield made
    for call in made.trained():  # what a test left hanging
        if runs(call["pid"]):
            os.kill(call["pid"], signal.SIGKILL)


def test_all_workers_train_and_have_a_log_each(two):
    done = two.launch("--env", "EXTRA=a b", "configs/demo.py", "--steps", "3")
    assert done.returncode == 0, done.stderr
    assert "step 1 on 0" in done.stdout
    assert "step 1 on 1" not in done.stdout
    assert two.logs("worker-0.log").startswith("step 1 on 0\nno end")
    assert two.logs("worker-0.log").count("x") == 10000
    assert "step 1 on 1" in two.logs("worker-1.log")
    assert "Attempting to connect" in two.logs("gcloud.log")
    assert sorted(call["worker"] for call in two.trained()) == ["0", "1"]
    assert all(call["words"] == ["train", "configs/demo.py", "--steps", "3"] for call in two.trained())
    assert {(call["auto"], call["extra"]) for call in two.trained()} == {("auto", "a b")}
    assert all("--worker=all" in words for words in two.gcloud("ssh"))
    assert all("--zone=here" in words for words in two.gcloud("ssh"))
    # The log is on the worker, too, should the connection be lost.
    (log,) = (two.stage.place / "home-1" / "mvjax" / "runs" / "logs").iterdir()
    assert "step 1 on 1" in log.read_text()


def test_75_starts_all_workers_again_with_options_but_not_restart(two):
    two.stage.script("fate-0", 75, 0)
    two.stage.script("fate-1", 75, 0)
    done = two.launch("configs/demo.py", "--restart")
    assert done.returncode == 0, done.stderr
    assert "worker 1 ended with status 75" in done.stderr
    assert ["--restart" in call["words"] for call in two.trained()] == [True, True, False, False]
    assert "step 1 on 1" in two.logs("worker-1.log", start=1)


def test_the_limit(two):
    two.stage.script("fate-1", 75)
    done = two.launch("configs/demo.py", MVJAX_RESTARTS="1")
    assert done.returncode == 75
    assert "given up after 1 restart(s)" in done.stderr
    assert len(two.trained()) == 4


@pytest.mark.parametrize("status", [2, 130])
def test_final_statuses_of_any_worker_end_it(two, status):
    two.stage.script("fate-0", 1)
    two.stage.script("fate-1", status)
    assert two.launch("configs/demo.py").returncode == status
    assert len(two.trained()) == 2


def test_a_worker_that_hangs_when_another_died_is_killed(two):
    two.stage.script("fate-0", "hang", 0)
    two.stage.script("fate-1", 1, 0)
    begin = time.monotonic()
    done = two.launch("configs/demo.py")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 60
    assert "have not ended in time and are killed" in done.stderr
    assert len([words for words in two.gcloud("ssh") if "--stop=KILL" in words[-1]]) == 1
    assert len(two.trained()) == 4


def test_a_lost_connection_starts_again_and_ends_what_was_left(two, runs):
    two.stage.script("connection", "holds", "lost", "holds")
    two.stage.script("fate-0", "hang", 0)
    two.stage.script("fate-1", "hang", 0)
    done = two.launch("configs/demo.py", MVJAX_GRACE="1")
    assert done.returncode == 0, done.stderr
    assert "ended with status 255; restart 1 of 3" in done.stderr
    assert len(two.trained()) == 4
    assert not any(runs(call["pid"]) for call in two.trained())


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_is_passed_on_and_ends_the_launch(two, wait_for, name, status):
    for worker in (0, 1):
        two.stage.script(f"fate-{worker}", "save")
    launch = two.launch("configs/demo.py", start=True, MVJAX_GRACE="30")
    wait_for(lambda: len(two.trained()) == 2)
    time.sleep(0.3)
    launch.send_signal(signal.Signals[name])
    _, errors = launch.communicate(timeout=60)
    assert launch.returncode == status, errors
    assert len(two.trained()) == 2
    assert f"--stop={name[3:]}" in two.gcloud("ssh")[-1][-1]


def test_a_start_that_is_made_twice_is_refused(two, wait_for):
    """gcloud runs its command again on a worker whose connection broke: the first one still runs there."""
    two.stage.script("fate-0", "hang")
    home = two.stage.place / "home-0" / "mvjax"
    words = ["launch/worker", "--lock=lock", "--token=t", "--no-check", "--log=log", "configs/demo.py"]
    environment = two.stage.environment(TPU_WORKER_ID="0")
    first = subprocess.Popen([sys.executable, *words], cwd=home, env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: (home / "lock").exists() and json.loads((home / "lock").read_text())["processes"])
    wait_for(lambda: len(two.trained()) == 1)
    second = subprocess.run([sys.executable, *words], cwd=home, env=environment, capture_output=True, timeout=60)
    assert second.returncode == 75
    assert b"made on this host already" in second.stderr
    assert first.poll() is None
    stop = subprocess.run(
        [sys.executable, "launch/worker", "--stop=KILL", "--lock=lock"], cwd=home, env=environment, capture_output=True
    )
    assert stop.returncode == 0
    assert first.wait(20) != 0


def play_worker(two, number, line, status=0):
    """Put another launch/worker on a worker: it prints a line and ends."""
    place = two.stage.place / f"home-{number}" / "mvjax" / "launch"
    place.unlink()
    place.mkdir()
    text = f"worker {number}| {line}\n".encode()
    (place / "worker").write_text(f"import os, sys; os.write(1, {text!r}); sys.exit({status})")


@pytest.mark.parametrize(
    ("lines", "status", "said"),
    [
        (("launch: checked: mvjax 0.0, jax 8", "launch: checked: mvjax 0.0, jax 9"), 0, "disagree: jax 8 and jax 9"),
        (("launch: checked: mvjax 0.0", "error: data: x is not on b"), 2, "worker 1: data: x is not on b"),
    ],
)
def test_checks_of_the_workers_end_it_before_the_start(two, mistake, lines, status, said):
    play_worker(two, 0, lines[0])
    play_worker(two, 1, lines[1], status)
    mistake(two.launch("configs/demo.py"), said)
    assert not two.trained()


def test_workers_without_the_code(two, mistake):
    (two.stage.place / "home-1" / "mvjax" / ".venv" / "bin" / "activate").unlink()
    mistake(two.launch("configs/demo.py"), "1 of 2 workers passed the checks", "--setup")


@pytest.mark.slow
def test_real_checks_run_on_every_worker(two, mistake):
    """No TPU here: each worker says so."""
    done = two.launch("configs/demo.py", MVJAX_SKIP="config", JAX_PLATFORMS="cpu")
    mistake(done, "worker 0: this host should use its tpu, but JAX sees")


@pytest.mark.parametrize(
    ("words", "states", "queue", "said"),
    [
        ((), ("CREATING", "CREATING", "READY"), (), "pod is CREATING"),
        (
            ("--queued=q",),
            ("", "", "READY"),
            ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"),
            "pod is not there, q WAITING_FOR_RESOURCES",
        ),
    ],
)
def test_it_waits_for_what_will_be_there(two, words, states, queue, said):
    two.stage.script("states", *states)
    two.stage.script("queue", *queue)
    done = two.launch(*words, "configs/demo.py")
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert len([call for call in two.gcloud("describe") if "tpu-vm" in call]) == 3
    assert not two.gcloud("create")


def test_what_has_gone_ends_the_launch(two, mistake):
    two.stage.script("states", "PREEMPTED")
    mistake(two.launch("configs/demo.py"), "pod is PREEMPTED", "--queued")
    two.stage.script("states", "")
    mistake(two.launch("configs/demo.py"), "pod is not there")
    for state in ("SUSPENDED", "FAILED", ""):
        two.stage.script("queue", state)
        mistake(two.launch("--queued=q", "configs/demo.py"), f"q is {state or 'not there'}", "--accelerator-type")
    assert not two.gcloud("delete")


def fake_python(two):
    """On a fresh worker: a system Python whose uv makes an environment."""
    for number in range(two.workers):
        place = two.stage.place / f"home-{number}" / "bin"
        place.mkdir()
        (place / "python3").write_text(
            f'#!/bin/sh\necho "$@" >> {place}/called\n'
            f'case "$2 $3" in "uv venv") mkdir -p .venv/bin; ln -s {sys.executable} .venv/bin/python; '
            f"echo 'PATH=$PWD/.venv/bin:$PATH; ln -sf {sys.executable} .venv/bin/python3' > .venv/bin/activate;; esac\n"
        )
        (place / "python3").chmod(0o755)


def test_a_pre_empted_slice_is_asked_for_again_and_set_up(two):
    fake_python(two)
    two.stage.script("fate-0", 75, 0)
    two.stage.script("fate-1", 75, 0)
    two.stage.script("states", "READY", "PREEMPTED", "", "READY")
    two.stage.script("queue", "ACTIVE", "SUSPENDING", "SUSPENDED", "PROVISIONING")
    kind = ("--accelerator-type=v5p-16", "--runtime-version=v2-alpha-tpuv5", "--spot")
    done = two.launch("--queued=q", *kind, "configs/demo.py")
    assert done.returncode == 0, done.stderr
    (delete,), (create,) = two.gcloud("delete"), two.gcloud("create")
    assert delete[2:5] == ["queued-resources", "delete", "q"]
    assert {"--force", "--quiet"} < set(delete)
    assert {*kind, "--node-id=pod", "--zone=here"} < set(create)
    assert len(two.gcloud("scp")) == 1  # the first slice was set up before


def test_setup_brings_the_code_to_all_workers(two, tmp_path):
    fake_python(two)
    for number in (0, 1):
        code = two.stage.place / f"home-{number}" / "mvjax"
        subprocess.run(["rm", "-r", str(code)], check=True)
    done = two.launch("--setup", "configs/demo.py")
    assert done.returncode == 0, done.stderr
    for number in (0, 1):
        home = two.stage.place / f"home-{number}"
        assert (home / "mvjax" / "launch" / "worker").stat().st_mode & 0o100
        called = (home / "bin" / "called").read_text()
        assert "-m uv venv --quiet --python 3.11 .venv" in called
        assert "--editable .[tpu,gcs]" in called
        with tarfile.open(home / "mvjax-code.tar.gz") as archive:
            names = set(archive.getnames())
    assert {"setup.cfg", "pyproject.toml", "mvjax/cli/train.py", "configs/demo.py", "kernels/mvjax_kernels"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", "runs", ".git"))]


def test_a_dry_run_calls_nothing(two):
    done = two.launch("--dry-run", "--setup", "configs/demo.py", "--steps", "3")
    assert done.returncode == 0
    assert not two.stage.calls("gcloud")
    assert not two.stage.logs.exists()
    commands = [line for line in done.stdout.splitlines() if line.startswith("gcloud")]
    assert [command.split()[4] for command in commands] == ["describe", "scp", "ssh", "ssh", "ssh"]
    assert "configs/demo.py --steps 3" in commands[-1]


def test_mistakes_are_one_line(two, mistake, tmp_path):
    mistake(two.stage.launch("tpu_pod", "configs/demo.py"), "--tpu", "--zone")
    mistake(two.launch("nowhere.py"), "no configuration nowhere.py")
    outside = tmp_path / "mine.py"
    outside.write_text("")
    mistake(two.launch(outside), "mine.py must lie in")
    mistake(two.launch("--env", "EXTRA", "configs/demo.py"), "--env EXTRA must be NAME=VALUE")
    mistake(two.launch("--accelerator-type=v5p-16", "configs/demo.py"), "--queued ID", "--runtime-version")
    two.stage.program("gcloud", "sys.exit('ERROR: (gcloud) you are not logged in')\n")
    mistake(two.launch("configs/demo.py"), "gcloud tpus tpu-vm describe failed", "not logged in")
    (two.stage.bin / "gcloud").unlink()
    mistake(two.launch("configs/demo.py", PATH=str(two.stage.bin)), "no gcloud command", "Google Cloud CLI")
