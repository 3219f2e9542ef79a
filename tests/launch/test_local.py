"""Several processes on this machine: the same program as on a pod, and what happens when one of them dies."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"

PSUM = """
    import os
    import jax, jax.numpy as jnp
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

    number = int(os.environ["MVJAX_PROCESS"])
    jax.distributed.initialize(os.environ["MVJAX_COORDINATOR"], int(os.environ["MVJAX_PROCESSES"]), number)
    count = jax.device_count()
    mesh = jax.make_mesh((count,), ("x",), axis_types=(AxisType.Auto,))
    numbers = jax.make_array_from_callback(
        (count,), NamedSharding(mesh, P("x")), lambda index: jnp.arange(count, dtype=jnp.float32)[index]
    )
    add = jax.jit(jax.shard_map(lambda part: jax.lax.psum(part, "x"), mesh=mesh, in_specs=P("x"), out_specs=P()))
    total = float(add(numbers)[0])
    print("process", number, "devices", jax.local_device_count(), "of", count, "sum", total, flush=True)
"""

STATUS_OF_EACH = "import os, sys; sys.exit(int(sys.argv[1 + int(os.environ['MVJAX_PROCESS'])]))"

HANG = """
    import os, signal, sys, time
    if os.environ["MVJAX_PROCESS"] == "1":
        while not os.path.exists({ready!r}):
            time.sleep(0.02)
        {fate}
    {before}
    print("waiting", flush=True)
    open({ready!r}, "w").close()
    {first}
    time.sleep(60)
"""


def python(stage, text):
    """A program as a command."""
    file = stage.place / "program.py"
    file.write_text(textwrap.dedent(text))
    return "--", sys.executable, file


def hang(stage, fate, first="pass", before="pass"):
    return python(stage, HANG.format(fate=fate, first=first, before=before, ready=str(stage.place / "ready")))


def logs_of(stage, start=0):
    (place,) = stage.logs.glob(f"*-{start}")
    return [file.read_text() for file in sorted(place.glob("process-*.log"))]


def test_the_program_of_a_pod(stage):
    done = stage.launch("local", "--processes", 2, "--devices", 2, *python(stage, PSUM))
    assert done.returncode == 0, done.stderr
    assert "process 0 devices 2 of 4 sum 6.0" in done.stdout
    assert "process 1" not in done.stdout  # it has a log
    assert "process 1 devices 2 of 4 sum 6.0" in logs_of(stage)[1]


@pytest.mark.slow
def test_a_peer_that_is_killed_in_a_collective(stage):
    die = PSUM.replace("total =", "number and os.kill(os.getpid(), 9)\n    total =")
    begin = time.monotonic()
    done = stage.launch("local", "--processes", 2, "--devices", 2, *python(stage, die), MVJAX_RESTARTS="0")
    assert done.returncode != 0
    assert time.monotonic() - begin < 60
    assert "given up after 0 restart(s)" in done.stderr
    if "process 0 of 2 must end within" in done.stderr:  # unless it saw the loss at the same moment
        assert "process 1 of 2 was killed by SIGKILL" in done.stderr


def test_the_environment_of_each_process(stage):
    show = "import os; print({n: v for n, v in os.environ.items() if n[:5] in ('MVJAX', 'XLA_F', 'JAX_P', 'JAX_C')})"
    done = stage.launch(
        *("local", "--processes", 3, "--devices", 5, "--", "python3", "-c", show),
        XLA_FLAGS="--xla_force_host_platform_device_count=9 --xla_other=1",
        MVJAX_DISTRIBUTED="auto",
    )
    assert done.returncode == 0
    seen = [eval(log) for log in logs_of(stage)]
    assert [process["MVJAX_PROCESS"] for process in seen] == ["0", "1", "2"]
    assert len({process["MVJAX_COORDINATOR"] for process in seen}) == 1
    host, port = seen[0]["MVJAX_COORDINATOR"].split(":")
    assert host == "localhost"
    assert 0 < int(port) < 65536
    assert seen[0]["MVJAX_PROCESSES"] == "3"
    assert "MVJAX_DISTRIBUTED" not in seen[0]
    assert seen[0]["JAX_PLATFORMS"] == "cpu"
    assert sorted(seen[0]["XLA_FLAGS"].split()) == [
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
        "--xla_force_host_platform_device_count=5",
        "--xla_other=1",
    ]


@pytest.mark.parametrize(
    ("statuses", "status"),
    [((0, 0), 0), ((75, 2), 2), ((130, 75), 75), ((1, 130), 130), ((3, 0), 3), ((0, 75, 130, 2, 1), 2)],
)
def test_the_overall_status(stage, statuses, status):
    words = ("--processes", len(statuses), "--", "python3", "-c", STATUS_OF_EACH, *statuses)
    assert stage.launch("local", *words, MVJAX_RESTARTS="0", MVJAX_GRACE="10").returncode == status


def test_it_starts_again_after_75_only_and_within_the_limit(stage):
    command = ("--processes", 2, "--", "python3", "-c", STATUS_OF_EACH)
    done = stage.launch("local", *command, 75, 75, MVJAX_RESTARTS="2")
    assert done.returncode == 75
    assert "given up after 2 restart(s)" in done.stderr
    assert len(list(stage.logs.iterdir())) == 3
    for statuses in ((1, 1), (2, 75), (130, 130)):
        assert "restart 1" not in stage.launch("local", *command, *statuses).stderr


def test_a_killed_process_is_a_lost_peer_and_is_started_again(stage):
    once = "import os, sys; os.path.exists(sys.argv[1]) or (open(sys.argv[1], 'w'), os.kill(os.getpid(), 9))"
    done = stage.launch("local", "--processes", 1, "--", "python3", "-c", once, stage.place / "mark")
    assert done.returncode == 0, done.stderr
    assert "restart 1 of 3" in done.stderr


@pytest.mark.parametrize(
    ("fate", "status", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "process 1 of 2 was killed by SIGKILL"),
        ("os.abort()", 134, "process 1 of 2 was killed by SIGABRT"),
        ("sys.exit('error: the mesh does not divide')", 1, "status 1: error: the mesh does not divide"),
        ("print('error: no data'); sys.exit(2)", 2, "process 1 of 2 ended with status 2: error: no data"),
        ("sys.exit(75)", 75, "process 1 of 2 ended with status 75"),
    ],
)
def test_when_one_dies_the_others_are_ended(stage, fate, status, words):
    begin = time.monotonic()
    done = stage.launch("local", "--processes", 2, *hang(stage, fate), MVJAX_RESTARTS="0", MVJAX_GRACE="0.3")
    assert time.monotonic() - begin < 30
    assert done.returncode == status
    (line,) = [line for line in done.stderr.splitlines() if "of 2" in line]
    assert words in line
    assert "process 0 of 2 must end within 0 s" in line
    assert "process-1.log" in line
    assert "waiting" in done.stdout


def test_one_that_ignores_sigterm_is_killed(stage):
    begin = time.monotonic()
    words = hang(stage, "sys.exit(1)", before="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert stage.launch("local", "--processes", 2, *words, MVJAX_GRACE="0.3").returncode == 1
    assert time.monotonic() - begin < 30


IMPATIENT = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
import processes
processes.CRASH_GRACE = 0.1
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("status", "saved"), [(75, True), (130, True), (1, False)])
def test_an_orderly_end_gives_the_others_time_to_save(stage, status, saved):
    """And a crash only a moment: they wait for it in vain."""
    first = f"time.sleep(1); print('saved', flush=True); sys.exit({status})"
    words = ["local", "--processes", 2, *hang(stage, f"sys.exit({status})", first)]
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, str(LAUNCH), *map(str, [LAUNCH / words[0], *words[1:]])],
        env=stage.environment(MVJAX_RESTARTS="0", MVJAX_GRACE="20"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert ("saved" in done.stdout) == saved


def test_children_of_a_killed_process_are_ended(stage, wait_for, runs):
    fate = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); os.kill(os.getpid(), 9)"
    stage.launch("local", "--processes", 2, *hang(stage, fate), MVJAX_RESTARTS="0", MVJAX_GRACE="0.3")
    child = int(logs_of(stage)[1].splitlines()[-1])
    wait_for(lambda: not runs(child))


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_reaches_all_and_all_are_waited_for(stage, wait_for, name, status):
    program = f"""
        import os, signal, sys, time
        def save(number, frame):
            time.sleep(0.2 * (1 + int(os.environ["MVJAX_PROCESS"])))
            print("saved", flush=True)
            sys.exit({status})
        signal.signal(signal.{name}, save)
        print("ready", flush=True)
        time.sleep(60)
    """
    launch = stage.start("local", "--processes", 3, *python(stage, program), MVJAX_GRACE="20")
    wait_for(lambda: list(stage.logs.glob("*")) and sum("ready" in log for log in logs_of(stage)) == 3)
    launch.send_signal(signal.Signals[name])
    output, errors = launch.communicate(timeout=30)
    assert launch.returncode == status, errors
    assert "saved" in output
    assert all("saved" in log for log in logs_of(stage))
    assert "restart 1" not in errors


def test_a_configuration_is_trained_after_the_checks(stage):
    done = stage.launch("local", "--processes", 2, "--devices", 3, "--port", 4321, stage.config, "--steps", 3)
    assert done.returncode == 0, done.stderr
    assert sorted(call["environment"]["MVJAX_PROCESS"] for call in stage.calls()) == ["0", "1"]
    assert {call["environment"]["MVJAX_COORDINATOR"] for call in stage.calls()} == {"localhost:4321"}
    assert all(call["words"] == ["train", str(stage.config), "--steps", "3"] for call in stage.calls())


def test_restart_counts_for_the_first_start_only(stage):
    stage.script("statuses", 75, 0)
    assert stage.launch("local", "--processes", 1, stage.config, "--restart").returncode == 0
    assert ["--restart" in call["words"] for call in stage.calls()] == [True, False]


def test_a_dry_run_does_nothing(stage):
    done = stage.launch("local", "--dry-run", "--processes", 2, "--devices", 4, stage.config)
    lines = done.stdout.splitlines()
    assert sum("would run: env JAX_PLATFORMS=cpu" in line for line in lines) == 2
    assert "MVJAX_PROCESS=1" in lines[1]
    assert lines[1].endswith(f"mvjax train {stage.config}")
    assert "localhost:4321" in stage.launch("local", "--dry-run", "--port", 4321, "--", "ls").stdout
    assert not stage.calls()
    assert not stage.logs.exists()


def test_mistakes_are_one_line(stage, mistake):
    mistake(stage.launch("local"), "needs a configuration")
    mistake(stage.launch("local", "--"), "needs a configuration")
    mistake(stage.launch("local", "--processes", "0", "--", "ls"), "--processes", "1 or more")
    mistake(stage.launch("local", "--", "no-such-command"), "no command no-such-command")
    mistake(stage.launch("local", "--check", "--", "ls"), "--check")
    mistake(stage.launch("local", "--processes", "two", "--", "ls"), "two")
