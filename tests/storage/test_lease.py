"""The lease: one of many wins, a stale one is replaced, and who was replaced may not write."""

import multiprocessing
import threading
import time
from pathlib import Path

import pytest

from mvjax.errors import UserError
from mvjax.storage import Lease, LeaseLost, StoragePath


class Date:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    """Where the lease is."""
    where = StoragePath(str(tmp_path) if request.param == "file" else f"memory://{tmp_path.name}-{id(tmp_path)}")
    return where / "run/lease.json"


def test_the_second_is_refused_until_the_first_gives_back(place):
    date = Date()
    with Lease(place, "run", date=date) as first:
        first.check()
        date.now += 12
        with pytest.raises(UserError, match=r"another process is training this run .* 12 s ago\); .* in 78 s"):
            Lease(place, "run", date=date).take()
        first.check()
    with Lease(place, "run", date=date) as second:
        second.check()


def test_a_stale_one_is_replaced_and_its_holder_may_not_write(place):
    date = Date()
    lost = Lease(place, "run", date=date)
    lost.take()
    date.now += 91
    winner = Lease(place, "run", date=date)
    winner.take()
    for _ in range(2):
        with pytest.raises(LeaseLost, match="has taken over this run"):
            lost.check()
    lost.release()
    winner.check()


def test_a_start_of_the_same_launch_takes_over_at_once(place):
    date = Date()
    before, after = (Lease(place, "run", launch="a", date=date) for _ in range(2))
    before.take()
    with pytest.raises(UserError, match="another process"):
        Lease(place, "run", launch="b", date=date).take()
    after.take()
    with pytest.raises(LeaseLost):
        before.check()
    after.check()


def test_signs_of_life_keep_it(place):
    """In real time: without them it would be stale long before the end."""
    with Lease(place, "run", beat=0.02, stale=0.5) as lease:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            with pytest.raises(UserError, match="another process"):
                Lease(place, "run", stale=0.5).take()
            time.sleep(0.05)
        lease.check()


def test_an_answer_that_was_lost_does_not_lose_the_lease(place):
    lease = Lease(place, "run")
    lease.take()
    before = lease._generation
    lease.check()
    lease._generation = before  # as if the answer to the last write had not come
    lease.check()
    lease.check()


def test_without_atomic_writes_it_says_so_and_refuses_whom_it_sees(place, monkeypatch, caplog):
    monkeypatch.setattr(StoragePath, "is_atomic", False)
    first = Lease(place, "run", settle=0.0)
    first.take()
    assert caplog.text.count("does not promise") == 1
    with pytest.raises(UserError, match="another process"):
        Lease(place, "run", settle=0.0).take()
    thief = Lease(place, "run", settle=0.0, stale=0.0)
    thief.take()
    with pytest.raises(LeaseLost):
        first.check()


def test_what_is_no_lease_is_replaced(place):
    place.write_bytes(b"{half")
    Lease(place, "run").take()


def test_of_sixteen_threads_one_wins():
    place, barrier, won = StoragePath("memory://sixteen-threads/lease.json"), threading.Barrier(16), []

    def start(number: int) -> None:
        barrier.wait()
        try:
            Lease(place, "run").take()
        except UserError:
            return
        won.append(number)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def take_in_process(paths: list[str], barrier, won) -> None:
    """What each of the processes does."""
    for number, path in enumerate(paths):
        barrier.wait()
        try:
            Lease(StoragePath(path), "run").take()
        except UserError:
            continue
        with won.get_lock():
            won[number] += 1


def test_of_sixteen_processes_one_wins(tmp_path):
    """On TensorStore's driver for files, whose conditional writes are atomic: a new lease, then a stale one."""
    paths = [str(tmp_path / name / "lease.json") for name in ("new", "stale")]
    Lease(StoragePath(paths[1]), "run", date=lambda: 0.0).take()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mvjax.storage", "pytest", "tensorstore"])  # once, not sixteen times
    barrier, won = context.Barrier(16), context.Array("i", 2)
    processes = [context.Process(target=take_in_process, args=(paths, barrier, won)) for _ in range(16)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert list(won) == [1, 1]
