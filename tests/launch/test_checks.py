"""Checks before a start: real configurations and devices, and everything that can be wrong with them."""

import importlib
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"

CONFIG = """
from mvjax.training.config import TrainConfig
config = TrainConfig(name="a").replace(
    output={{"directory": {output!r}}}, model={{"path": {model!r}}}, data={{"files": ({data!r},)}}
)
"""


@pytest.fixture
def good(stage):
    """A stage with a configuration that passes."""
    for name in ("model.gguf", "data.jsonl"):
        (stage.place / name).write_text("x")
    paths = {"output": "out/runs", "model": "model.gguf", "data": "data.jsonl"}
    stage.config.write_text(CONFIG.format(**{name: str(stage.place / path) for name, path in paths.items()}))
    return stage


def check(stage, *words, launcher="host", **more):
    quick = {"MVJAX_SKIP": "devices", "JAX_PLATFORMS": "cpu"}
    return stage.launch(launcher, "--check", *words, cwd=stage.place, **(quick | more))


def test_what_is_there_is_told_and_nothing_is_started(good):
    done = check(good, "config.py", "--steps.total", "3", "--restart", MVJAX_SKIP="")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "checked:" in line]
    assert all(word in line for word in ("python 3.", "mvjax 0.", "jax 0.", "(cpu)", str(good.place / "out/runs")))
    assert (good.place / "out/runs").is_dir()
    assert not list((good.place / "out/runs").iterdir())
    assert not good.calls()


def test_virtual_devices_are_counted(good):
    done = check(good, "--processes", "2", "--devices", "3", "config.py", launcher="local", MVJAX_SKIP="")
    assert done.returncode == 0, done.stderr
    assert "3 x cpu (cpu)" in done.stderr


def test_what_was_left_out_is_told(good):
    assert "not checked (MVJAX_SKIP): devices" in check(good, "config.py").stderr


def test_configurations(good, mistake):
    mistake(check(good, "config.py", "--stesp.total", "3"), "--stesp.total", "did you mean --steps.total")
    (good.place / "key.py").write_text(good.config.read_text().replace("name=", "nmae="))
    mistake(check(good, "key.py"), "key.py", "nmae")
    mistake(check(good, "config.py", MVJAX_CHECK_TIME="0.01"), "not read within 0.01 s")


@pytest.fixture(scope="module")
def checks():
    """The module of the launchers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(LAUNCH))
        return importlib.import_module("checks")


def test_model_and_data(good, mistake, checks):
    here = socket.gethostname()
    mistake(check(good, "config.py", "--data.files", "a.jsonl"), "data: a.jsonl is not on", here)
    empty = good.place / "empty.jsonl"
    empty.write_text("")
    for field, path, said in (
        ("model", "m.gguf", f"model: m.gguf is not on {here}"),
        ("tokenizer", "t", f"tokenizer: t is not on {here}"),
        ("data", str(empty), "empty.jsonl is empty"),
    ):
        with pytest.raises(checks.UserError, match=re.escape(said)):
            checks.input_files({"missing": [], "files": {field: [path]}})
    (good.place / "bare.py").write_text(
        "from mvjax.training.config import TrainConfig\nconfig = TrainConfig().replace(output={'directory': 'gs://bucket/runs'})\n"
    )
    mistake(check(good, "bare.py"), "model and data not set")


def test_a_bucket_for_the_output(good, mistake, gcs_bucket):
    there = gcs_bucket.environment
    words = ("--output.directory", f"{gcs_bucket.address}/runs", "--model.path", "OWNER/NAME")
    found = check(good, "config.py", *words, **there)
    assert f"output {gcs_bucket.address}/runs" in found.stderr
    assert not (good.place / "gs:").exists()
    mistake(check(good, "config.py", "--output.directory", "gs://absent/runs", **there), "there is no bucket absent")
    absent = f"{gcs_bucket.address}/x"
    mistake(check(good, "config.py", "--data.files", absent, **there), f"data: {absent}: nothing is there")


def test_room_for_the_output(good, mistake):
    (good.place / "file").write_text("")
    mistake(check(good, "config.py", "--output.directory", "file/runs"), "output: file/runs cannot be written")
    mistake(check(good, "config.py", MVJAX_DISK="1000000000"), "GB free", "1e+09", "MVJAX_DISK")


def test_another_mvjax_on_the_path(good, mistake):
    good.program("mvjax", "print('mvjax 0.0.0')\n")
    mistake(check(good, "config.py"), "mvjax 0.0.0", "activate one environment")
    good.program("mvjax", "sys.exit(3)\n")
    mistake(check(good, "config.py"), "status 3")


def jax_that(stage, text):
    """Another jax for the checks: devices of a kind, or none."""
    (stage.place / "jax.py").write_text(text)
    # Two texts of the same length, written in the same second, have the same compiled file for Python.
    return {
        "MVJAX_SKIP": "config",
        "PYTHONPATH": str(stage.place),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_PLATFORMS": "",
    }


def devices_of(stage, platform):
    return jax_that(
        stage, f"class Device:\n    platform = device_kind = {platform!r}\ndef local_devices():\n    return [Device]\n"
    )


def test_devices(good, mistake):
    cpu = devices_of(good, "cpu")
    mistake(check(good, "--platform", "tpu", "config.py", **cpu), "use its tpu", "1 cpu", "'.[tpu]'")
    mistake(check(good, "--devices", "8", "config.py", launcher="worker", **cpu), "1 cpu device", "wanted are 8")
    two = (good.place / "jax.py").read_text().replace("[Device]", "[Device, Device]")
    mistake(check(good, "--devices", "1", "config.py", launcher="worker", **jax_that(good, two)), "wanted are 1")
    none = jax_that(good, "def local_devices():\n    raise RuntimeError('no backend\\nat all')\n")
    mistake(check(good, "config.py", **none), "JAX finds no devices: no backend at all")
    hang = jax_that(good, "import time\ntime.sleep(60)\n") | {"MVJAX_CHECK_TIME": "0.5"}
    mistake(check(good, "config.py", **hang), "did not answer within 0.5 s", "another process")
    broken = jax_that(good, "import os\nos._exit(9)\n")
    mistake(check(good, "config.py", **broken), "the check of devices failed: status 9")


def test_gpus_that_jax_does_not_see(good, mistake):
    good.program("nvidia-smi", "print('GPU 0: NVIDIA H100\\nGPU 1: NVIDIA H100')\n")
    mistake(check(good, "config.py", **devices_of(good, "cpu")), "use its gpu", "1 cpu", "'.[gpu]'")
    mistake(check(good, "config.py", **devices_of(good, "gpu")), "JAX sees 1 of the 2 GPUs")
    assert check(good, "config.py", **devices_of(good, "gpu"), CUDA_VISIBLE_DEVICES="0").returncode == 0
    assert check(good, "config.py", **(devices_of(good, "cpu") | {"JAX_PLATFORMS": "cpu"})).returncode == 0


MEET = f"""
import sys
sys.path.insert(0, {str(LAUNCH)!r})
import json, checks
from pathlib import Path
from common import UserError
output, hosts, versions, fault = sys.argv[1:]
wanted = checks.Requirements(Path("config.py"), hosts=int(hosts), token="t")
try:
    checks.rendezvous(wanted, {{"output": output, "versions": json.loads(versions)}}, fault)
except UserError as error:
    sys.exit(f"error: {{error}}")
"""


def meet(*hosts, seconds="10"):
    """Hosts (output, versions, fault) that meet at the same time; returns status and message of each."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MEET, str(output), str(len(hosts)), json.dumps(versions), fault],
            stderr=subprocess.PIPE,
            text=True,
            env={"MVJAX_CHECK_TIME": seconds},
        )
        for output, versions, fault in hosts
    ]
    errors = [process.communicate(timeout=60)[1] for process in running]
    return [(process.returncode, text) for process, text in zip(running, errors)]


def test_hosts_that_agree_meet_and_clear_up(tmp_path):
    same = (tmp_path, {"jax": "1"}, "")
    assert [status for status, _ in meet(same, same, same)] == [0, 0, 0]
    assert not list(tmp_path.iterdir())


def test_hosts_that_disagree_on_versions(tmp_path):
    ended = meet((tmp_path, {"jax": "1"}, ""), (tmp_path, {"jax": "2"}, ""))
    assert [status for status, _ in ended] == [1, 1]
    assert all("hosts disagree on jax" in message for _, message in ended)
    ended = meet((tmp_path, {"jax": "1"}, ""), (tmp_path, {"jax": "1", "libtpu": "3"}, ""))
    assert all("libtpu" in message and "none" in message for _, message in ended)
    assert not list(tmp_path.iterdir())


def test_a_fault_of_one_host_ends_the_others(tmp_path):
    ended = meet((tmp_path, {}, ""), (tmp_path, {}, "data: x is not on b"), (tmp_path, {}, ""))
    assert [status for status, _ in ended] == [1, 0, 1]  # the faulty one raises its own error
    assert all("data: x is not on b" in ended[host][1] for host in (0, 2))
    assert not list(tmp_path.iterdir())


def test_a_path_that_only_some_hosts_see(tmp_path):
    begin = time.monotonic()
    ended = meet((tmp_path / "one", {}, ""), (tmp_path / "other", {}, ""), seconds="0.3")
    assert time.monotonic() - begin < 20
    assert all("1 of 2 hosts" in message and "share" in message for _, message in ended)


def test_the_worker_of_a_faulty_host_tells_the_others(good):
    """End to end: one host lacks the data, and the other ends with that message instead of waiting for it."""
    words = ("--check", "--hosts=2", "--token=t", "config.py")
    first = good.start("worker", *words, cwd=good.place, MVJAX_SKIP="devices")
    second = good.launch("worker", *words, "--data.files", "gone.jsonl", cwd=good.place, MVJAX_SKIP="devices")
    _, errors = first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (2, 2)
    assert "gone.jsonl is not on" in second.stderr
    assert "gone.jsonl is not on" in errors
