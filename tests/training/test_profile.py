"""The window of steps under the profiler."""

import jax
import jax.numpy as jnp
import pytest
from fake_clock import FakeTime

from mvjax.training.clock import Clock
from mvjax.training.profile import Profile


@pytest.fixture
def calls(monkeypatch):
    """What the profiler was told, in order, beside the steps."""
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda directory: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def walk(profile, numbers, calls):
    for number in numbers:
        with profile(number):
            calls.append(number)


def test_a_window_of_steps_is_recorded_once(tmp_path, calls):
    said = []
    profile = Profile(tmp_path / "profile", 3, 2, Clock(), said.append)
    walk(profile, range(1, 7), calls)
    profile.close()
    assert calls == [1, 2, "start", 3, 4, "stop", 5, 6]
    assert said == [f"profile: recorded in {tmp_path / 'profile'}"]


@pytest.mark.parametrize(("first", "count", "numbers"), [(0, 3, range(4)), (3, 2, range(5, 8)), (9, 2, range(3))])
def test_nothing_is_recorded_outside_the_window(tmp_path, calls, first, count, numbers):
    profile = Profile(tmp_path, first, count, Clock())
    walk(profile, numbers, calls)
    profile.close()
    assert calls == list(numbers)


def test_start_within_the_window_records_the_rest(tmp_path, calls):
    walk(Profile(tmp_path, 3, 3, Clock()), range(4, 7), calls)
    assert calls == ["start", 4, 5, "stop", 6]


def test_end_of_the_run_and_errors_keep_what_is_recorded(tmp_path, calls):
    profile = Profile(tmp_path, 1, 10, Clock())
    with pytest.raises(KeyboardInterrupt), profile(1):
        raise KeyboardInterrupt
    profile.close()
    profile.close()
    assert calls == ["start", "stop"]


@pytest.mark.parametrize("broken", ["start_trace", "stop_trace"])
def test_profiler_that_fails_does_not_end_the_run(tmp_path, calls, monkeypatch, broken):
    def fail(*_):
        raise RuntimeError("Only one profile\nmay be run at a time.")

    monkeypatch.setattr(jax.profiler, broken, fail)
    said = []
    profile = Profile(tmp_path, 1, 2, Clock(), said.append)
    walk(profile, range(1, 5), calls)
    profile.close()
    assert [call for call in calls if call not in ("start", "stop")] == [1, 2, 3, 4]
    assert said == ["profile: none could be recorded (Only one profile may be run at a time.)"]


def test_what_it_costs_is_no_part_of_the_step(tmp_path, monkeypatch):
    wait = FakeTime()
    clock = Clock(wait.now, wait.date)
    monkeypatch.setattr(jax.profiler, "start_trace", lambda directory: wait(5))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: wait(20))
    profile = Profile(tmp_path, 1, 1, clock, lambda text: None)
    clock.loop_begins()
    with clock("step"), profile(1):
        wait(2)
    assert clock.seconds["step"] == clock.loop == 2
    assert clock.seconds["profile"] == 25


def test_a_real_trace_is_written(tmp_path):
    profile = Profile(tmp_path / "profile", 1, 1, Clock(), lambda text: None)
    with profile(1):
        jnp.ones(3).sum().block_until_ready()
    assert list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))
