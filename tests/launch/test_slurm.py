"""Nodes of a Slurm cluster: the batch script runs for real, its nodes played by this machine."""

import os
import re
import signal
import subprocess
import sys

import pytest

from mvjax.version import __version__

SRUN = """
import subprocess
record()
words = sys.argv[1:]
command = words[next(i for i, word in enumerate(words) if not word.startswith("-")):]
output = next(word.partition("=")[2] for word in words if word.startswith("--output="))
tasks = []
for number in range(int(os.environ["SLURM_JOB_NUM_NODES"])):
    names = {"SLURM_PROCID": str(number), "SLURM_NODEID": str(number), "SLURM_LOCALID": "0"}
    with open(output.replace("%N", f"node{number}"), "ab") as log:
        tasks.append(subprocess.Popen(command, env=os.environ | names, stdout=log, stderr=log))
open(f"{STAGE}/tasks", "w").write(" ".join(str(task.pid) for task in tasks))
def end(*_):
    for task in tasks:
        task.kill()  # as srun does: "forcing job termination"
signal.signal(signal.SIGTERM, end)
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""

SCANCEL = """
record()
for task in open(f"{STAGE}/tasks").read().split():
    os.kill(int(task), signal.SIGTERM)
"""

SCONTROL = """
record()
if sys.argv[1:3] == ["show", "hostnames"]:
    print("node0\\nnode1")
sys.exit(int(next_of("scontrol", "0")))
"""

TRAIN = """
if sys.argv[1:] == ["--version"]:
    print("mvjax", "VERSION")
    sys.exit(0)
number = os.environ["MVJAX_PROCESS"]
fate, asked = next_of("fate-" + number, "0"), []
if fate == "save":
    signal.signal(signal.SIGTERM, lambda *_: asked.append(75))
record(number=number, environment=dict(os.environ))
print("step 1 on", number, flush=True)
while fate == "save" and not asked:
    time.sleep(0.02)
sys.exit(asked[0] if fate == "save" else int(fate))
"""


@pytest.fixture
def cluster(stage):
    """A stage with Slurm's programs; two nodes."""
    stage.program("sbatch", "record()\nprint('Submitted batch job 12345')\n")
    stage.program("srun", SRUN)
    stage.program("scancel", SCANCEL)
    stage.program("scontrol", SCONTROL)
    stage.program("squeue", "record()\nprint(next_of('state', 'RUNNING'))\n")
    stage.program("mvjax", TRAIN.replace("VERSION", __version__))
    return stage


def submit(stage, *words, **more):
    """Submit; returns the batch script."""
    done = stage.launch("slurm", "--nodes=2", "--gpus-per-node=2", *words, cwd=stage.place, **more)
    assert done.returncode == 0, done.stderr
    (call,) = stage.calls("sbatch")
    assert "Submitted batch job 12345" in done.stderr
    return call["words"][0]


def start_job(stage, script, start=0, **more):
    """The job, as Slurm starts it."""
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}
    job |= {"SLURM_RESTART_COUNT": str(start)} if start else {}
    return subprocess.Popen(
        ["bash", script],
        env=stage.environment(**job, **more),
        cwd=stage.place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_job(stage, script, start=0, **more):
    """The job to its end: status and output."""
    job = start_job(stage, script, start, **more)
    output, _ = job.communicate(timeout=100)
    return job.returncode, output


def requeued(stage):
    return [call["words"] for call in stage.calls("scontrol") if call["words"][0] == "requeue"]


def test_the_script(cluster):
    words = ("--partition=gpu", "--account=me", "--time=2:00:00", "--sbatch=--qos=high", "config.py", "--name", "a b")
    done = cluster.launch("slurm", "--dry-run", "--nodes=4", *words, cwd=cluster.place)
    assert done.returncode == 0, done.stderr
    assert not cluster.calls("sbatch")
    flags = dict(re.findall(r"^#SBATCH (--[a-z-]+)(?:=(.*))?$", done.stdout, re.M))
    assert flags == {
        "--job-name": "mvjax-config",
        "--nodes": "4",
        "--ntasks-per-node": "1",
        "--gpus-per-node": "8",
        "--exclusive": "",
        "--time": "2:00:00",
        "--requeue": "",
        "--open-mode": "append",
        "--signal": "B:TERM@120",
        "--output": f"{cluster.logs}/mvjax-config-%j.log",
        "--partition": "gpu",
        "--account": "me",
        "--qos": "high",
    }
    assert done.stdout.index("#SBATCH --qos") < done.stdout.index("set -uo pipefail")
    assert "config.py --name 'a b')" in done.stdout
    assert "JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7" in done.stdout
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0


def test_every_node_trains_and_has_a_log(cluster):
    script = submit(cluster, "config.py", "--steps", "3", MVJAX_DISK="7")
    status, output = run_job(cluster, script)
    assert status == 0, output
    calls = sorted(cluster.calls(), key=lambda call: call["number"])
    assert [call["words"] for call in calls] == [["train", "config.py", "--steps", "3"]] * 2
    for number, call in enumerate(calls):
        seen = call["environment"]
        assert seen["MVJAX_PROCESS"] == str(number)
        assert seen["MVJAX_PROCESSES"] == "2"
        assert seen["MVJAX_COORDINATOR"] == "node0:32345"
        assert seen["JAX_LOCAL_DEVICE_IDS"] == "0,1"
        assert seen["MVJAX_DISK"] == "7"
        assert f"step 1 on {number}" in (cluster.logs / "mvjax-config-12345-0" / f"node{number}.log").read_text()
    assert not requeued(cluster)
    (srun,) = cluster.calls("srun")
    assert {"--kill-on-bad-exit=0", "--wait=1", "--cpu-bind=none"} < set(srun["words"])


@pytest.mark.slow
def test_jax_takes_all_devices_of_a_node(cluster):
    """In a Slurm job JAX would take the device of the task's local number only, also where it is told the rest."""
    cluster.program(
        "mvjax",
        """
import jax
jax.distributed.initialize(
    os.environ["MVJAX_COORDINATOR"].replace("node0", "localhost"),
    int(os.environ["MVJAX_PROCESSES"]), int(os.environ["MVJAX_PROCESS"]),
)
from jax._src.xla_bridge import CUDA_VISIBLE_DEVICES
print("visible", CUDA_VISIBLE_DEVICES.value, "of", jax.process_count(), flush=True)
""",
    )
    job = {"SLURM_STEP_NODELIST": "node[0-1]", "JAX_PLATFORMS": "cpu"}
    status, output = run_job(cluster, submit(cluster, "config.py"), **job)
    assert status == 0, output
    for number in (0, 1):
        assert "visible 0,1 of 2" in (cluster.logs / "mvjax-config-12345-0" / f"node{number}.log").read_text()


@pytest.mark.parametrize(
    ("fates", "status"),
    [((75, 75), 75), ((1, 0), 1), ((75, 137), 75), ((75, 2), 2), ((2, 137), 2), ((130, 75), 75), ((130, 137), 130)],
)
def test_the_job_goes_back_into_the_queue_unless_the_status_is_final(cluster, fates, status):
    for number, fate in enumerate(fates):
        cluster.script(f"fate-{number}", fate)
    ended, output = run_job(cluster, submit(cluster, "config.py"))
    assert ended == status, output
    assert f"ended with status {status}" in output
    assert requeued(cluster) == ([] if status in (2, 130) else [["requeue", "12345"]])


def test_a_later_start_has_logs_of_its_own_and_goes_on(cluster):
    script = submit(cluster, "config.py", "--restart")
    assert run_job(cluster, script)[0] == 0
    assert run_job(cluster, script, start=2)[0] == 0
    assert ["--restart" in call["words"] for call in cluster.calls()] == [True, True, False, False]
    assert (cluster.logs / "mvjax-config-12345-2" / "node1.log").exists()


def test_the_limit(cluster):
    cluster.script("fate-0", 75)
    script = submit(cluster, "config.py", MVJAX_RESTARTS="2")
    status, output = run_job(cluster, script, start=1)
    assert (status, len(requeued(cluster))) == (75, 1)
    status, output = run_job(cluster, script, start=2)
    assert (status, len(requeued(cluster))) == (75, 1)
    assert "given up after 2 restarts" in output


def test_sigterm_lets_all_nodes_save_and_requeues(cluster, wait_for):
    for number in (0, 1):
        cluster.script(f"fate-{number}", "save")
    job = start_job(cluster, submit(cluster, "config.py"))
    wait_for(lambda: len(cluster.calls()) == 2)
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 75, output
    (call,) = cluster.calls("scancel")
    assert call["words"] == ["--signal=TERM", "12345"]
    assert requeued(cluster)


def test_what_keeps_a_job_out_of_the_queue(cluster):
    cluster.script("fate-0", 75)
    script = submit(cluster, "config.py")
    cluster.script("state", "COMPLETING", "RUNNING")
    status, output = run_job(cluster, script)
    assert status == 75
    assert "no restart: the job is COMPLETING" in output
    assert not requeued(cluster)
    cluster.script("scontrol", 0, 1)
    assert "error: scontrol requeue failed" in run_job(cluster, script)[1]


@pytest.mark.slow
def test_checks_run_on_every_node(cluster):
    """No GPU here: each node says so, and the job is over."""
    script = submit(cluster, "config.py", MVJAX_SKIP="config")
    status, output = run_job(cluster, script, MVJAX_SKIP="config", JAX_PLATFORMS="cpu")
    assert status == 2, output
    log = (cluster.logs / "mvjax-config-12345-0" / "node1.log").read_text()
    assert "error: this host should use its gpu, but JAX sees" in log
    assert not requeued(cluster)


def test_mistakes_are_one_line(cluster, mistake):
    def launch(*words, **more):
        return cluster.launch("slurm", *words, cwd=cluster.place, **more)

    mistake(launch(), "needs a configuration")
    mistake(launch("--nodes=0", "config.py"), "1 or more")
    mistake(launch("--time=soon", "config.py"), "--time soon")
    mistake(launch("--name=a b", "config.py"), "--name 'a b'")
    mistake(launch("--sbatch=qos", "config.py"), "must be an option of sbatch")
    mistake(launch("config.py", MVJAX_SKIP=""), "config.py", "has no `config")  # checked where it is submitted
    cluster.program("sbatch", "sys.exit('sbatch: error: invalid partition')\n")
    mistake(launch("config.py"), "invalid partition")
    (cluster.bin / "sbatch").unlink()
    mistake(launch("config.py", PATH=f"{cluster.bin}:{os.path.dirname(sys.executable)}"), "no sbatch command")
