"""Engines of the hash model whose requests do not all fit at once, their answers, and faults in any of their parts."""

import functools

import numpy as np
from hash_model import HashModel, PagedHashModel
from random_requests import TABLES, VOCABULARY

from mvjax.engine import Engine, EngineConfig, Limits, SamplingParams
from mvjax.language import tags

LIMITS = Limits(max_new_tokens=150, min_block_share=40, max_paths=4)
DRAWN = [SamplingParams(temperature=2.0, top_k=30, top_p=0.98, seed=seed) for seed in range(5)]
PROMPTS = [[20, 21, 22, 23, 24, 30 + n] for n in range(5)]
SIZES = {"requests": 2, "max_branches": 4, "row_counts": (8,), "max_slots": 256, "sync_steps": 16}
SIZES |= {"logprobs": 3, "prefill_chunks": (64,)}


def bias():
    """Blocks are likely, the end of the text is not."""
    bias_V = np.zeros(VOCABULARY, np.float32)
    bias_V[: len(tags.TAGS)] = 3
    bias_V[[tags.PATH_CLOSE, tags.THINK_CLOSE, tags.THINK_OPEN, *TABLES.eos_ids]] = -5
    return bias_V


@functools.cache
def shared_engine(paged: bool) -> Engine:
    """Room for two requests at a time; in pages, 13 of them, for one and a half."""
    if not paged:
        return Engine(HashModel(bias()), bias(), TABLES, EngineConfig(**SIZES))
    return Engine(PagedHashModel(bias(), 16), bias(), TABLES, EngineConfig(**SIZES, pages=13))


@functools.cache
def answers():
    """Of each prompt, undisturbed."""
    return [result.tokens.tolist() for result in shared_engine(False).generate(PROMPTS, limits=LIMITS, sampling=DRAWN)]


class Faults:
    """Makes the n-th call of a method, counted over all of its uses, raise."""

    def __init__(self, monkeypatch, owner, name, at, error, after=False, match=lambda *_: True):
        self.calls, self.raised, self.method = 0, 0, getattr(owner, name)

        def call(instance, *args, **kwargs):
            if not match(*args):
                return self.method(instance, *args, **kwargs)
            self.calls += 1
            if self.calls - 1 not in at:
                return self.method(instance, *args, **kwargs)
            self.raised += 1
            if after:
                self.method(instance, *args, **kwargs)
            raise error

        monkeypatch.setattr(owner, name, call)


def submit_all(engine):
    return [engine.submit(prompt, limits=LIMITS, sampling=drawn) for prompt, drawn in zip(PROMPTS, DRAWN)]


def run(engine, numbers, on_tokens=None, most=400):
    """Results by index; interruptions are survived."""
    results = {}
    for _ in range(most):
        if not engine.busy:
            break
        try:
            found = engine.step(on_tokens)
        except KeyboardInterrupt:
            continue
        for result in found:
            assert numbers.index(result.request) not in results
            results[numbers.index(result.request)] = result
    assert not engine.busy
    assert sorted(results) == list(range(len(numbers)))
    return results


def check(results, failed=None):
    """Own tokens or own error; `failed`: how many may have failed."""
    wrong = [number for number, result in results.items() if result.reason == "failed"]
    for number, result in results.items():
        if number in wrong:
            assert isinstance(result.error, Exception)
            assert result.new_tokens == 0
            assert result.parent.tolist() == [-1]
        else:
            assert result.error is None
            assert result.tokens.tolist() == answers()[number]
    if failed is not None:
        assert len(wrong) == failed, wrong
    return wrong


def usable(engine):
    """Nothing is left over: pages are free, and the next requests get their answers."""
    cache = engine._cache
    if cache.pool is not None:
        assert cache.pool.free == 13
    assert [result.tokens.tolist() for result in engine.generate(PROMPTS[:2], limits=LIMITS, sampling=DRAWN[:2])] == (
        answers()[:2]
    )
