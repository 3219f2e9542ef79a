"""Where the time goes, and goodput over starts and crashes."""

import json

import pytest
from fake_clock import FakeTime

from mvjax.training.clock import OTHER, PHASES, Clock


def make(**options):
    time = FakeTime(**options)
    return time, Clock(time.now, time.date)


def test_every_moment_is_charged_to_one_phase():
    wait, clock = make()
    wait(3)
    with clock("compile"):
        wait(5)
    clock.loop_begins()
    wait(1)
    with clock("data"):
        wait(2)
    with clock("step"):
        wait(10)
        with clock("checkpoint"):
            wait(4)
        wait(1)
    with pytest.raises(TypeError), clock("sample"):  # charged even where it fails
        wait(7) + 1
    expected = {"start": 3, "compile": 5, "data": 2, "step": 11, "checkpoint": 4, "sample": 7, OTHER: 1}
    assert clock.seconds == expected | {"profile": 0, "held_out": 0}
    assert {*expected, "profile", "held_out"} == {*PHASES, OTHER}
    assert clock.elapsed == sum(expected.values())
    assert clock.loop == 2 + 11 + 1
    with clock("profile"):
        wait(6)
    assert clock.loop == 14
    wait(2)
    assert clock.seconds[OTHER] == 3


def test_unknown_phase_is_an_error():
    with pytest.raises(ValueError, match="'steps' is none of the phases start, compile"), make()[1]("steps"):
        pass


def step(clock, wait, seconds, good=True):
    with clock("step"):
        wait(seconds)
    return clock.count(good)


def test_steps_are_timed_and_counted_one_by_one(tmp_path):
    wait, clock = make()
    clock.resume(tmp_path / "clock.json")
    wait(6)
    assert step(clock, wait, 3) == 3
    with clock("data"):
        wait(1)
    assert step(clock, wait, 5) == 5
    assert clock.goodput == 8 / 15
    assert step(clock, wait, 5, good=False) == 5  # a skipped step does not count
    assert clock.goodput == 8 / 20


def test_goodput_survives_restarts_and_does_not_count_what_was_lost(tmp_path):
    path = tmp_path / "clock.json"
    wait, clock = make()
    wait(2)  # the file is dated with the process's start, not with this moment
    clock.resume(path)
    for _ in range(3):
        step(clock, wait, 4)
    saved = clock.record()
    for _ in range(5):  # lost with a crash
        step(clock, wait, 4)
    wait(66)  # nobody is there
    later, clock = make(date=wait.date() - 50)
    later(10)
    clock.resume(path, json.loads(json.dumps(saved)))
    assert clock.goodput == 12 / (2 + 32 + 66 + 10)
    step(clock, later, 30)
    assert clock.goodput == 42 / 140


def test_goodput_of_a_run_without_its_file_begins_anew(tmp_path):
    path = tmp_path / "clock.json"
    path.write_text('{"first_st')
    wait, clock = make()
    clock.resume(path, {"counted": 1e6})
    wait(10)
    step(clock, wait, 10)
    assert clock.goodput == 0.5
    assert json.loads(path.read_text()) == {"first_start": 1_000_050.0}


def test_date_set_back_between_starts_does_not_give_more_than_all(tmp_path):
    path = tmp_path / "clock.json"
    make(date=2e6)[1].resume(path)
    wait, clock = make()
    clock.resume(path, {"counted": 100.0})
    wait(10)
    assert clock.goodput == 1.0
