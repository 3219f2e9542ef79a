"""The one-host launch: restarts after pre-emptions and crashes only, signals, mistakes."""

import os
import signal
import time

import pytest

SLEEPER = """
caught = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: (caught.append(number), record(signal=signal.Signals(number).name)))
record(pid=os.getpid())
open(f"{STAGE}/ready", "w").close()
while len(caught) < WANTED:
    time.sleep(0.02)
time.sleep(0.3)
print("saved", flush=True)
sys.exit(STATUS)
"""


def sleeper(stage, *, wanted=1, status=75):
    """A program that waits for signals, saves and ends."""
    stage.program("mvjax", SLEEPER.replace("WANTED", str(wanted)).replace("STATUS", str(status)))


@pytest.mark.parametrize("status", [1, 75, 137])
def test_it_starts_again_and_options_are_passed_on(stage, status):
    stage.script("statuses", status, 0)
    done = stage.launch("host", stage.config, "--steps", "3", "--restart")
    assert done.returncode == 0
    # --restart begins again: the launcher's own second start must not.
    assert [call["words"] for call in stage.calls()] == [
        ["train", str(stage.config), "--steps", "3", "--restart"],
        ["train", str(stage.config), "--steps", "3"],
    ]
    assert "restart 1 of 3" in done.stderr
    logs = sorted(stage.logs.glob("config-*.log"))
    assert [log.stem[-2:] for log in logs] == ["-0", "-1"]
    assert logs[0].read_text() + logs[1].read_text() == done.stdout


def test_a_name_with_dots_keeps_its_logs_apart(stage):
    config = stage.place / "small.v2.py"
    config.write_text("")
    stage.script("statuses", 1, 0)
    assert stage.launch("host", config).returncode == 0
    assert len(list(stage.logs.glob("small.v2-*.log"))) == 2


def test_it_gives_up_with_the_last_status(stage):
    stage.script("statuses", 1, 1, 75)
    done = stage.launch("host", stage.config, MVJAX_RESTARTS="2")
    assert done.returncode == 75
    assert "given up after 2 restart(s)" in done.stderr
    assert len(stage.calls()) == 3


@pytest.mark.parametrize("status", [0, 2, 130])
def test_final_statuses_are_not_retried(stage, status):
    stage.script("statuses", status, 0)
    assert stage.launch("host", stage.config).returncode == status
    assert len(stage.calls()) == 1


def test_a_dry_run_does_nothing(stage):
    done = stage.launch("host", "--dry-run", stage.config, "--steps", "3")
    assert done.returncode == 0
    assert f"would run: mvjax train {stage.config} --steps 3" in done.stdout
    assert not stage.calls()
    assert not stage.logs.exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_is_passed_on_once_and_ends_the_launch(stage, wait_for, name):
    sleeper(stage)
    launch = stage.start("host", stage.config)
    wait_for((stage.place / "ready").exists)
    for _ in range(3):  # a scheduler may send several
        launch.send_signal(signal.Signals[name])
        time.sleep(0.05)
    output, errors = launch.communicate(timeout=20)
    assert launch.returncode == 75
    assert "saved" in output
    assert "SIGTERM: passed on" in errors
    assert [call["signal"] for call in stage.calls() if "signal" in call] == ["SIGTERM"]
    assert len([call for call in stage.calls() if "pid" in call]) == 1  # not started again


def test_each_ctrl_c_is_passed_on(stage, wait_for):
    sleeper(stage, wanted=2, status=130)
    launch = stage.start("host", stage.config)
    wait_for((stage.place / "ready").exists)
    for count in (1, 2):
        launch.send_signal(signal.SIGINT)
        wait_for(lambda count=count: len([call for call in stage.calls() if "signal" in call]) == count)
    launch.communicate(timeout=20)
    assert launch.returncode == 130


def test_a_reader_that_has_gone_changes_no_status(stage, wait_for):
    """`launch/host ... | head`: the run goes on to its end, and nothing is said about the pipe."""
    sleeper(stage, wanted=1, status=2)
    launch = stage.start("host", stage.config)
    wait_for((stage.place / "ready").exists)
    launch.stdout.close()
    launch.send_signal(signal.SIGTERM)
    errors = launch.stderr.read()
    assert launch.wait(20) == 2
    assert "Broken" not in errors
    (log,) = stage.logs.iterdir()
    assert log.read_text() == "saved\n"
    for words in (("--help",), ("--dry-run", stage.config)):
        launch = stage.start("host", *words)
        launch.stdout.close()
        errors = launch.stderr.read()
        assert launch.wait(20) in (0, 141)  # all was written, or not
        assert errors == ""


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="only Linux ends a child with its parent")
def test_a_killed_launcher_takes_the_run_with_it(stage, wait_for, runs):
    sleeper(stage)
    launch = stage.start("host", stage.config)
    wait_for((stage.place / "ready").exists)
    (pid,) = [call["pid"] for call in stage.calls() if "pid" in call]
    launch.kill()
    launch.communicate(timeout=20)
    wait_for(lambda: not runs(pid))


def test_mistakes_are_one_line(stage, mistake):
    mistake(stage.launch("host"), "needs a configuration, such as configs/demo.py")
    mistake(stage.launch("host", "nowhere.py"), "no configuration nowhere.py")
    mistake(stage.launch("host", "--steps", "3"), "--steps", "come after CONFIG", "--help")
    mistake(stage.launch("host", "--platform", "npu", stage.config), "npu")
    mistake(stage.launch("host", stage.config, MVJAX_RESTARTS="many"), "MVJAX_RESTARTS", "many")
    mistake(stage.launch("host", stage.config, MVJAX_RESTARTS="inf"), "MVJAX_RESTARTS", "inf")
    mistake(stage.launch("host", stage.config, MVJAX_SKIP="data"), "no check 'data'", "config, devices")
    mistake(stage.launch("host", stage.config, MVJAX_LOGS=str(stage.config)), "config.py: File exists")
    (stage.bin / "mvjax").unlink()
    mistake(stage.launch("host", stage.config, PATH=str(stage.bin)), "no mvjax command", "activate the environment")
    assert not stage.logs.exists()


def test_help_names_the_usage(stage):
    for launcher in ("host", "local", "tpu_pod", "kubernetes", "slurm", "serve", "serve_kubernetes", "worker"):
        done = stage.launch(launcher, "--help")
        assert done.returncode == 0
        assert f"launch/{launcher}" in done.stdout
        assert "--dry-run" in done.stdout
