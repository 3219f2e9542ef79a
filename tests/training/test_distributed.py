"""What several processes of a run agree on; played by threads around a store."""

import threading
import time

import pytest

from mvjax.errors import UserError
from mvjax.training import distributed, interrupt
from mvjax.training.distributed import HostSync, start


class Store:
    """The key-value store that the processes share."""

    def __init__(self):
        self.values, self.changed, self.lost = {}, threading.Condition(), False

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            self.check()
            assert allow_overwrite or key not in self.values, key
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, milliseconds / 1000):
                raise TimeoutError(key)
            return self.values[key]

    def check(self):
        """Process 0 hosts the store."""
        if self.lost:
            raise RuntimeError("UNAVAILABLE: connection refused")

    def key_value_dir_get(self, prefix):
        with self.changed:
            self.check()
            return [(key, value) for key, value in self.values.items() if key.startswith(prefix)]


@pytest.fixture
def play(monkeypatch):
    """play(part, count): what `part(process)` returns or raises in each of so many processes."""

    def run(part, count=3):
        store, here, found = Store(), threading.local(), [None] * count
        for module in (distributed, interrupt):
            monkeypatch.setattr(module, "client", lambda: store)
            monkeypatch.setattr(module, "is_first", lambda: here.process == 0)
        monkeypatch.setattr(distributed.jax, "process_index", lambda: here.process)
        monkeypatch.setattr(distributed.jax, "process_count", lambda: count)

        def one(process):
            here.process = process
            try:
                found[process] = part(process)
            except UserError as error:
                found[process] = error

        threads = [threading.Thread(target=one, args=(process,), daemon=True) for process in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        return found

    return run


def test_values_of_all_processes_come_in_order(play):
    def part(process):
        sync = HostSync(5)
        return sync.gather("first", process), sync.gather("second", 10 * process)

    assert play(part) == [([0, 1, 2], [0, 10, 20])] * 3


def test_a_difference_is_told_to_all_alike(play):
    found = play(lambda process: HostSync(5).same("the data", "abc" if process < 2 else "abd", "copy the files"))
    for error in found:
        assert str(error) == "the data differs: process 0 has abc, process 2 has abd; copy the files"


def test_a_process_that_fails_is_named_to_those_who_wait(play):
    def part(process):
        sync = HostSync(5)
        if process == 1:
            error = UserError("no such file")
            sync.fail(error)
            raise error
        sync.gather("the data", None)

    found = play(part)
    assert str(found[0]) == str(found[2]) == "process 1 failed: no such file"


def test_a_process_that_does_not_come_ends_the_wait(play):
    def part(process):
        if process == 2:
            return "gone"
        return HostSync(0.2).gather("the data", None)

    found = play(part)
    assert "process 2 did not come to 'the data' within" in str(found[0])


def test_a_process_elsewhere_is_noticed(play):
    found = play(lambda process: HostSync(5).gather("here" if process else "there", None), 2)
    assert "process 1 is at 'here', this one at 'there'" in str(found[0])


def test_one_process_agrees_with_itself():
    assert HostSync().gather("anything", 7) == [7]
    HostSync().same("anything", 7, "")


def test_all_processes_stop_after_the_same_step(play):
    """Each step ends for all before the next ends for any; the signal reaches process 2 in its step 4."""
    barrier = threading.Barrier(3)

    def part(process):
        asks = interrupt.Interrupt(lambda text: None)
        for step in range(1, 20):
            barrier.wait()  # The collective operation of a step.
            if process == 2 and step == 4:
                asks._handle(interrupt.signal.SIGTERM, None)
            if asks.stops(step):
                return step, asks.asked

    found = play(part)
    assert len(set(found)) == 1
    assert found[0][0] <= 4 + 1 + interrupt.MARGIN
    assert found[0][1] == interrupt.signal.SIGTERM


def test_all_processes_save_after_the_same_steps(play):
    """Two processes hear of maintenance, one of them twice."""
    barrier = threading.Barrier(3)

    def part(process):
        asks, saved = interrupt.Interrupt(lambda text: None), []
        for step in range(1, 20):
            barrier.wait()
            if (process, step) in ((1, 3), (2, 9), (1, 10)):
                asks.save("maintenance")
            assert not asks.stops(step)
            if asks.saves(step):
                saved.append(step)
        return saved

    first, *others = play(part)
    assert others == [first] * 2
    assert 2 <= len(first) <= 3
    assert 3 < first[0] <= 4 + 1 + interrupt.MARGIN
    assert first[-1] >= 10


class Beats:
    """Stands in for the event that ends a heartbeat: so many beats of a process, then none."""

    def __init__(self, count):
        self.left = count

    def wait(self, seconds):
        time.sleep(0.02)
        self.left -= 1
        return self.left < 0

    def is_set(self):
        return False


def test_a_lost_process_ends_the_others(play, monkeypatch):
    told = []

    def leave(status):
        raise UserError(f"status {status}")

    monkeypatch.setattr(distributed.os, "_exit", leave)

    def part(process):
        heartbeat = distributed.Heartbeat(told.append, beat=0.02, silence=0.3)
        heartbeat._stop = Beats(5 if process else 500)
        heartbeat._run()

    found = play(part, 2)
    assert str(found[0]) == f"status {distributed.EXIT_AGAIN}"
    assert "process 1 has not answered for 0 s and counts as lost" in told[0]


def test_the_loss_of_process_0_is_noticed_though_the_store_goes_with_it(play, monkeypatch):
    said = []

    def leave(status):
        raise UserError(f"status {status}")

    monkeypatch.setattr(distributed.os, "_exit", leave)

    def part(process):
        heartbeat = distributed.Heartbeat(said.append, beat=0.02, silence=0.3)
        heartbeat._stop = Beats(500 if process else 5)
        heartbeat._run()
        distributed.client().lost = True

    found = play(part, 2)
    assert found[0] is None
    assert str(found[1]) == f"status {distributed.EXIT_AGAIN}"
    assert "process 0 has not answered" in said[0]


def test_processes_that_answer_are_left_alone(play, monkeypatch):
    monkeypatch.setattr(distributed.os, "_exit", lambda status: pytest.fail("nobody is lost"))

    def part(process):
        heartbeat = distributed.Heartbeat(print, beat=0.02, silence=5.0)
        heartbeat._stop = Beats(10)
        heartbeat._run()

    play(part)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MVJAX_COORDINATOR": "localhost:1"}, "MVJAX_PROCESSES = ''"),
        ({"MVJAX_COORDINATOR": "h:1", "MVJAX_PROCESSES": "2", "MVJAX_PROCESS": "x"}, "MVJAX_PROCESS = 'x'"),
        ({"MVJAX_COORDINATOR": "h:1", "MVJAX_PROCESSES": "2", "MVJAX_PROCESS": "2"}, "none of the 2 processes"),
        ({"MVJAX_DISTRIBUTED": "yes"}, "MVJAX_DISTRIBUTED = 'yes'; the only value is auto"),
    ],
)
def test_an_environment_that_makes_no_sense(environment, message):
    with pytest.raises(UserError, match=message):
        start(environment)


def test_nothing_set_is_one_process():
    start({})
