"""What is compiled, and that nothing is compiled again."""

import numpy as np
import pytest
from hash_model import HashModel
from random_requests import TABLES
from watchful_engine import DRAWN, LIMITS, PROMPTS, WatchfulModel, answers, plain_taste, same, shared_engine, taste

from mvjax.engine import Engine, EngineConfig, Limits, Prompt, SamplingParams, program_cache
from mvjax.engine.program_cache import Program, ProgramCache
from mvjax.engine.state import Sizes
from mvjax.errors import UserError


@pytest.fixture
def engine():
    """The shared engine, idle, with its usual parameters."""
    engine = shared_engine()
    engine.params = taste()
    return engine


def test_nothing_is_compiled_again_whatever_the_settings(engine):
    answers()
    before = engine.compilations
    engine.generate(PROMPTS[:3], limits=Limits(max_new_tokens=60, max_positions=50, max_paths=2, min_block_share=10))
    engine.generate(PROMPTS[:2], limits=LIMITS, sampling=SamplingParams(temperature=0.3, top_p=0.5), mode="sequential")
    engine.generate([PROMPTS[0][1:], PROMPTS[1]], limits=LIMITS, mode="autoregressive")
    assert engine.compilations == before


@pytest.mark.parametrize("row_counts", [(2,), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_nothing_is_compiled_after_warm_up(row_counts):
    """For prompts of one piece or several, plain and laid out; also where the loop gets wider."""
    config = EngineConfig(
        requests=1, max_branches=2, row_counts=row_counts, max_slots=256, prefill_chunks=(32, 64), prompt_levels=2
    )
    engine = Engine(HashModel(taste()), taste(), TABLES, config)
    assert engine.cold_compilations == 0
    warm = engine.warm_up()
    laid_out = Prompt([24] * 40, hide_start=np.full((1, 40), 2), hide_end=np.full((1, 40), 3))
    limits = Limits(max_new_tokens=60, min_block_share=20)
    results = engine.generate([[20, 35], [23] * 125, laid_out], limits=limits)
    number = engine.submit([20, 35], limits=limits)
    engine.step()
    engine.cancel(number)
    while engine.busy:
        engine.step()
    assert any(len(result.parent) > 2 for result in results)
    # Loops; pieces of prompts, two sizes; empty arrays and state; start, cancel, evict.
    assert warm.programs == engine.compilations == len(row_counts) + 2 + 2 + 3
    assert warm.seconds > 0
    assert engine.cold_compilations == 0
    assert all(result.timings.compile == 0 for result in results)


def test_warming_up_a_busy_engine_is_refused(engine):
    engine.submit(PROMPTS[0])
    with pytest.raises(UserError, match="busy"):
        engine.warm_up()
    engine.reset()


def test_an_engine_that_is_built_again_compiles_nothing(monkeypatch):
    """Nor does one of another model that computes the same; its weights are its own."""
    Engine(WatchfulModel(taste()), taste(), TABLES, shared_engine().config).generate(PROMPTS[:2], limits=LIMITS)
    added = []
    monkeypatch.setattr(program_cache.SHARED, "add", lambda key, compiled: added.append(key))
    again = Engine(WatchfulModel(taste()), taste(), TABLES, shared_engine().config)
    for one, other in zip(again.generate(PROMPTS[:2], limits=LIMITS, sampling=DRAWN[:2]), answers()):
        same(one, other)
    again.params = plain_taste()
    assert again.generate(PROMPTS[:2], limits=LIMITS)[0].tokens.tolist() != answers()[0].tokens.tolist()
    assert not added


def test_programs_are_shared_where_all_that_decides_them_is_equal(monkeypatch):
    shared = program_cache.SharedPrograms(most=2)
    monkeypatch.setattr(program_cache, "SHARED", shared)
    key = program_cache.AllocateKey(Sizes(1, 8, 2, 1, 2, 1))

    def run(arithmetic, factor, argument, key=key):
        return int(ProgramCache(arithmetic).run(Program(key, lambda x: factor * x.sum(), (argument,))))

    one_N, two_N = np.ones(3, np.int32), np.ones(4, np.int32)
    assert run("twice", 2, one_N) == 6
    assert run("twice", 99, one_N) == 6  # the program of before
    assert run("thrice", 3, one_N) == 9
    assert run(None, 5, one_N) == 15
    assert run(None, 7, one_N) == 21
    assert run("twice", 4, two_N) == 16  # another shape; two programs are kept at most
    assert run("thrice", 99, one_N) == 9
    assert run("twice", 10, one_N) == 30  # had gone
    assert run("twice", 11, one_N, program_cache.EvictKey(key.sizes)) == 33
