"""Many clients at once, some of whom do harm: no answer is lost, doubled or another's, and nothing is left over."""

import collections
import random
import threading

import pytest
from driven import Ears, Watch, fresh_engine
from faulty_engine import shared_engine

from mvjax.engine import Engine, Limits, SamplingParams
from mvjax.errors import UserError
from mvjax.serving.driver import Driver

pytestmark = [pytest.mark.xdist_group("engine/hash_model"), pytest.mark.slow]
REQUESTS, CLIENTS, KINDS = 400, 64, 40
FAULTS = ("cancel", "drop", "deafness", "bad", "deadline", "late cancel")
LIMITS = Limits(max_new_tokens=70, min_block_share=30, max_paths=4)
MODES = ("parallel", "sequential", "autoregressive")


def request(kind):
    """Prompt, sampling and mode of one of the kinds of requests."""
    rng = random.Random(kind)
    prompt = [rng.randrange(20, 40) for _ in range(rng.choice([3, 10, 50, 90]))]
    return prompt, SamplingParams(temperature=2.0, top_k=30, seed=kind), MODES[kind % 3]


@pytest.fixture(scope="module")
def wanted():
    """Of each kind, what an engine without pages answers."""
    engine, found = shared_engine(False), []
    engine.reset()
    for kind in range(KINDS):
        prompt, sampling, mode = request(kind)
        (result,) = engine.generate([prompt], limits=LIMITS, sampling=sampling, mode=mode)
        found.append(result.tokens.tolist())
    return found


@pytest.mark.parametrize("dies", [False, True], ids=["engine lives", "engine dies twice"])
def test_a_soak(wanted, monkeypatch, dies):
    watch = Watch()
    driver = Driver(fresh_engine, observers=[watch])
    driver.start()
    todo, outcomes, wrong = collections.deque(range(REQUESTS)), collections.Counter(), []
    if dies:
        step, steps = Engine.step, []

        def sometimes(engine, on_tokens=None):
            steps.append(1)
            if len(steps) in (150, 400):
                raise RuntimeError("the device is gone")
            return step(engine, on_tokens)

        monkeypatch.setattr(Engine, "step", sometimes)

    def client(number):
        rng = random.Random(number)
        while todo:
            try:
                work = todo.popleft()
            except IndexError:
                return
            try:
                once(rng, work)
            except BaseException as error:
                wrong.append(error)

    def once(rng, work):
        kind = work % KINDS
        fault = rng.choice(FAULTS) if rng.random() < 0.1 else None
        prompt, sampling, mode = request(kind)
        while True:
            ears = Ears(on_tokens=hurt if fault == "deafness" else None)
            options = {"limits": LIMITS, "sampling": sampling, "mode": mode, "listener": ears, "request_id": str(work)}
            if fault == "bad":
                with pytest.raises(UserError):
                    driver.submit([*prompt, 10**6], **options)
                outcomes["bad"] += 1
                return
            deadline = rng.uniform(0.0, 0.5) if fault == "deadline" else None
            ticket = driver.submit(prompt, deadline=deadline, **options)
            if fault in ("cancel", "drop"):
                ears.heard.wait(rng.uniform(0.0, 0.2))
                driver.cancel(ticket, drop=fault == "drop")
            if fault == "deafness":
                outcomes["deafness"] += 1
                return
            result = ears.end()
            if isinstance(result, RuntimeError):
                outcomes["again"] += 1
                continue
            assert not isinstance(result, Exception)
            if fault == "late cancel":
                driver.cancel(ticket)
            if fault in (None, "late cancel") or result.reason not in ("cancelled", "deadline"):
                assert result.tokens.tolist() == wanted[kind]
                assert sum(map(len, ears.told.values())) == result.new_tokens
            outcomes[result.reason] += 1
            return

    def hurt(ears):
        raise ConnectionError

    threads = [threading.Thread(target=client, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert driver.drain(60)
    assert sum(outcomes.values()) - outcomes["again"] == REQUESTS
    assert outcomes["cancelled"] > 2
    assert outcomes["bad"] > 0
    assert (outcomes["again"] > 0) == dies
    watch.check()
    stats = driver.stats()
    assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)
    engine = shared_engine(True)
    assert engine._cache.pool.free == 13
    assert not engine._requests
    assert not driver._live
    assert not driver._by_number
    driver.stop()
