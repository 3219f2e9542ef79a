"""The driver's thread: every request ends once, cancelled or not, whatever becomes of the engine."""

import threading

import numpy as np
import pytest
from faulty_engine import DRAWN, LIMITS, PROMPTS, answers, shared_engine

from mvjax.serving.driver import Driver

pytestmark = pytest.mark.xdist_group("engine/hash_model")


class Ears:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.told, self.ends, self.done = {}, [], threading.Event()

    def tokens(self, updates):
        for update in updates:
            self.told.setdefault(update.segment, []).extend(update.tokens)

    def ended(self, result):
        self.ends.append(result)
        self.done.set()

    def failed(self, error):
        self.ends.append(error)
        self.done.set()

    def end(self):
        assert self.done.wait(60)
        (end,) = self.ends
        return end


def submit(driver, number, **options):
    ears = Ears()
    ears.ticket = driver.submit(
        PROMPTS[number], limits=LIMITS, sampling=DRAWN[number], mode="parallel", listener=ears, **options
    )
    return ears


@pytest.fixture
def driver():
    wanted = answers()
    assert wanted
    driver = Driver(lambda: shared_engine(True))
    driver.start()
    yield driver
    driver.stop()
    shared_engine(True).reset()


def test_answers_are_those_of_the_engine_and_every_token_is_told(driver):
    for number, ears in enumerate([submit(driver, number) for number in range(len(PROMPTS))]):
        result = ears.end()
        assert result.tokens.tolist() == answers()[number]
        stream = result.stream
        assert ears.told == {n: stream.token[stream.origin == n].tolist() for n in np.unique(stream.origin).tolist()}
    assert driver.healthy
    assert driver.stats().running == driver.stats().waiting == driver.stats().pages_used == 0
