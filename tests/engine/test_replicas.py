"""Several engines behind one queue answer as one does."""

import numpy as np
import pytest
from hash_model import PagedHashModel
from random_requests import TABLES, VOCABULARY

from mvjax.engine import EngineConfig, Limits, QueueFull, Replicas, SamplingParams, engine_over
from mvjax.errors import UserError

SIZES = EngineConfig(requests=2, max_branches=4, row_counts=(8,), max_slots=256, pages=200, max_queue=9)
SHORT = Limits(max_new_tokens=20, min_block_share=16)


@pytest.fixture(scope="module")
def engines():
    """One engine, and three behind one queue."""
    bias_V = np.zeros(VOCABULARY, np.float32)
    bias_V[:12] = 2
    return [engine_over([PagedHashModel(bias_V, 16)] * count, TABLES, SIZES) for count in (1, 3)]


def requests(count):
    """Prompts, some of which begin alike, and their settings."""
    rng = np.random.default_rng(3)
    alike = rng.integers(20, 40, 40).tolist()
    prompts = [[*alike[: 40 * (number % 2)], *rng.integers(20, 40, 5 + number).tolist()] for number in range(count)]
    limits = [Limits(max_new_tokens=int(rng.integers(20, 90)), min_block_share=16) for _ in prompts]
    return prompts, limits, [SamplingParams(temperature=1.5, seed=number) for number in range(count)]


def test_replicas_answer_as_one_engine_does(engines):
    one, three = engines
    assert isinstance(three, Replicas)
    assert three.config.requests == 6
    prompts, limits, sampling = requests(20)
    streamed = [{} for _ in prompts]

    def hear(updates):
        for update in updates:
            streamed[update.request].setdefault(update.segment, []).extend(update.tokens)

    wanted = one.generate(prompts, limits=limits, sampling=sampling)
    found = three.generate(prompts, limits=limits, sampling=sampling, on_tokens=hear)
    assert [result.tokens.tolist() for result in found] == [result.tokens.tolist() for result in wanted]
    assert [result.request for result in found] == list(range(20))
    assert not three.busy
    assert [sum(map(len, heard.values())) for heard in streamed] == [len(result.stream.token) for result in found]
    served = [engine.stats().generation_tokens for engine in three.engines]
    assert min(served) > 0
    assert sum(served) == sum(result.new_tokens for result in found)
    assert three.stats().running == three.stats().waiting == 0
    last = three.next_turn(prompts[0], found[0], [21, 22, 23])
    assert max(engine.known(last) for engine in three.engines) > len(prompts[0])
    again = three.generate([last], limits=SHORT)[0]
    assert again.found > len(prompts[0])  # It went where its pages are.


def test_requests_that_wait_are_cancelled_expire_and_are_limited(engines):
    three = engines[1]
    prompts, _, sampling = requests(11)
    long = Limits(max_new_tokens=150)
    numbers = [three.submit(prompt, limits=long, sampling=draw) for prompt, draw in zip(prompts[:6], sampling)]
    three.step()
    waiting = [three.submit(prompt, limits=long, sampling=draw) for prompt, draw in zip(prompts[6:9], sampling)]
    late = three.submit(prompts[9], limits=SHORT, deadline=0.0)
    three.cancel(waiting[0])
    three.cancel(numbers[1])
    while three.stats().waiting < 9:
        three.submit(prompts[10], limits=SHORT)
    with pytest.raises(QueueFull, match="9 requests wait"):
        three.submit(prompts[10], limits=SHORT)
    with pytest.raises(UserError, match="more than the 252 slots"):
        three.check(prompts[10], Limits(max_new_tokens=4000))
    results = {}
    while three.busy:
        results |= {result.request: result for result in three.step()}
    assert [results[number].reason for number in (waiting[0], numbers[1], late)] == ["cancelled"] * 2 + ["deadline"]
    assert results[waiting[0]].new_tokens == results[late].new_tokens == 0
    assert {results[number].reason for number in (numbers[0], waiting[1])} <= {"stop", "tokens", "positions"}
    assert three.stats().running == three.stats().pages_used == 0


def test_a_listener_that_raises_drops_all_and_leaves_the_engines_usable(engines):
    one, three = engines
    prompts, limits, sampling = requests(8)

    def raises(updates):
        raise RuntimeError("the listener is gone")

    with pytest.raises(RuntimeError, match="listener is gone"):
        three.generate(prompts, limits=limits, sampling=sampling, on_tokens=raises)
    assert not three.busy
    assert three.stats().running == 0
    found, wanted = (engine.generate(prompts[:3], limits=SHORT, sampling=sampling[0]) for engine in (three, one))
    assert [result.tokens.tolist() for result in found] == [result.tokens.tolist() for result in wanted]
