"""Drivers in tests: listeners that keep what they hear, steps that wait to be let through."""

from __future__ import annotations

import threading

from faulty_engine import DRAWN, LIMITS, PROMPTS, shared_engine


class Ears:
    """A listener that keeps what it hears."""

    def __init__(self, on_tokens=None):
        self.told, self.ends, self.done, self.on_tokens = {}, [], threading.Event(), on_tokens
        self.heard = threading.Event()
        self.ticket = 0

    def tokens(self, updates):
        assert not self.ends
        for update in updates:
            self.told.setdefault(update.segment, []).extend(update.tokens)
        self.heard.set()
        if self.on_tokens is not None:
            self.on_tokens(self)

    def ended(self, result):
        self.ends.append(result)
        self.done.set()

    failed = ended

    def end(self):
        """How it ended."""
        assert self.done.wait(60)
        (end,) = self.ends
        return end


class Watch:
    """An observer that keeps what it hears, in order."""

    def __init__(self):
        self.events, self.stays = [], []

    def submitted(self, ticket, request_id, prompt_tokens):
        self.events.append(("submitted", ticket))

    def tokens(self, ticket, updates):
        self.events.append(("tokens", ticket))

    def ended(self, ticket, result, error):
        assert (result is None) != (error is None)
        self.events.append(("ended", ticket))

    def stay(self, stats, seconds):
        assert seconds > 0
        self.events.append(("stay", len(self.stays)))
        self.stays.append(stats)

    def check(self):
        """Each request came first and ended last, once."""
        for ticket in {ticket for name, ticket in self.events if name != "stay"}:
            names = [name for name, its in self.events if its == ticket and name != "stay"]
            assert (names[0], names[-1]) == ("submitted", "ended")
            assert set(names[1:-1]) <= {"tokens"}


class Gate:
    """Lets an engine's steps through one by one, once it is shut."""

    def __init__(self, engine, monkeypatch):
        self.shut, self.permits, self.step = False, threading.Semaphore(0), type(engine).step
        self.engine, self.at_gate = engine, threading.Semaphore(0)
        monkeypatch.setattr(engine, "step", self)

    def __call__(self, on_tokens=None):
        if self.shut:
            self.at_gate.release()
            assert self.permits.acquire(timeout=60)
        return self.step(self.engine, on_tokens)

    def let(self, steps=1):
        """Let some steps through, and wait until the next one is asked for."""
        assert self.at_gate.acquire(timeout=60)
        for _ in range(steps):
            self.permits.release()
            assert self.at_gate.acquire(timeout=60)
        self.at_gate.release()

    def open(self):
        self.shut = False
        self.permits.release(1000)


def submit(driver, number, ears=None, **options):
    ears = ears or Ears()
    settings = {"limits": LIMITS, "sampling": DRAWN[number], "mode": "parallel"} | options
    prompt = settings.pop("prompt", PROMPTS[number])
    ears.ticket = driver.submit(prompt, listener=ears, **settings)
    return ears


def fresh_engine():
    """The shared engine in pages, with nothing in it."""
    engine = shared_engine(True)
    engine.reset()
    return engine
