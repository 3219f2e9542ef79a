"""The device's interpreter against the one in plain Python, on random logits: every legal stream of tokens.

The hash model's logits depend on exactly what a row sees, so agreement also proves visibility, positions and slots.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hash_model import SpoiledHashModel, forward
from random_requests import (
    CODES,
    SEPARATOR,
    TABLES,
    VOCABULARY,
    WORDS,
    limits_of,
    random_bias,
    random_prompt,
    random_rules,
    random_wishes,
    sampling_of,
)
from reference_interpreter import Interpreter, Rules

from mvjax.engine import Engine, EngineConfig
from mvjax.engine.interpreter import allowed_kinds, read_label
from mvjax.engine.state import READING_FIRST, Branch, Sizes, empty_branch, empty_request
from mvjax.engine.tables import bits, build_tables
from mvjax.files import atomic_path
from mvjax.language import lay_out, tags


@functools.cache
def compiled_engine(requests: int, rows: int) -> Engine:
    """Two row counts, so that the loop changes between programs and little is compiled; one for a single request."""
    model = SpoiledHashModel(np.zeros(VOCABULARY))
    counts = (rows, requests * rows) if requests > 1 else (rows,)
    config = EngineConfig(requests=requests, max_branches=rows, row_counts=counts, max_slots=1280, sync_steps=64)
    return Engine(model, model.params, TABLES, config)


def make_engine(bias_V, requests=4, rows=4, spoil=0) -> Engine:
    """An engine of that size whose model has that taste; one per size, so that programs are compiled once."""
    engine = compiled_engine(requests, rows)
    engine.params = jnp.asarray(bias_V), jnp.uint32(spoil)
    return engine


def check_equal(result, reference: Interpreter) -> None:
    """Token by token: what was written, where it stands, who made it, and how it ended."""
    transcript = reference.transcript()
    assert result.tokens.tolist() == [token for token, _, _, _ in transcript]
    assert result.position.tolist() == [position for _, position, _, _ in transcript]
    assert result.written.tolist() == [written for _, _, written, _ in transcript]
    addresses = list(dict.fromkeys(address for *_, address in transcript))
    assert result.segment.tolist() == [addresses.index(address) for *_, address in transcript]
    assert result.reason == reference.reason
    assert sorted(result.cuts.values()) == sorted(reason for _, reason in reference.cuts)
    assert (result.abandoned, result.barred) == (reference.abandoned, reference.barred)


def check_layout(result, prompt, bias_V, reference) -> None:
    """The finished transcript is well-formed; one pass of the model over its layout gives the same logits."""
    tokens_T = np.array([*prompt, *result.tokens.tolist()])
    codes_T = CODES[tokens_T].copy()
    codes_T[: len(prompt)] = -1
    layout = lay_out(codes_T, TABLES.colon[tokens_T], len(prompt), engine_output=True)
    assert not layout.open
    new = slice(len(prompt), None)
    np.testing.assert_array_equal(layout.position[new], result.position)
    np.testing.assert_array_equal(layout.segment[new], result.segment)
    np.testing.assert_array_equal(layout.parent, result.parent if len(result.tokens) else [-1])
    visible_TT = np.tril(np.ones((len(tokens_T), len(tokens_T)), bool))
    for start_T, end_T in zip(layout.hide_start, layout.hide_end):
        rows_TT = np.arange(len(tokens_T))[:, None]
        visible_TT &= ~((rows_TT >= start_T) & (rows_TT < end_T))
    if reference is None:
        return
    logits_TV = forward(tokens_T, layout.position, visible_TT, bias_V)
    addresses = list(dict.fromkeys(address for *_, address in reference.transcript())) or [()]
    last_prompt = len(prompt) - 1
    for address, index, logits_V in reference.logits:
        segment = addresses.index(address)
        own = np.flatnonzero(layout.segment[len(prompt) :] == segment) + len(prompt)
        place = own[index - 1] if index else last_prompt
        np.testing.assert_array_equal(logits_TV[place], logits_V)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_random_requests_agree_with_the_reference(seed):
    rng = np.random.default_rng(seed)
    bias_V = random_bias(rng)
    engine = make_engine(bias_V)
    kinds = set()
    for _ in range(4):
        batch = [(random_prompt(rng), random_rules(rng)) for _ in range(8)]
        batch = [(prompt, rules) for prompt, rules in batch if not rules.autoregressive]
        results = engine.generate([p for p, _ in batch], limits=[limits_of(rules) for _, rules in batch])
        for (prompt, rules), result in zip(batch, results, strict=True):
            rules.rows = 4
            reference = Interpreter(WORDS, rules, bias_V, prompt).run()
            check_equal(result, reference)
            check_layout(result, prompt, bias_V, reference)
            kinds |= {result.reason, *result.cuts.values(), f"{result.parent.max() + 1 > 1}"}
    assert kinds >= {"tokens", "True"}  # Cuts and nested or several blocks really happened.


@pytest.mark.parametrize("seed", [20, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(21, 30))])
def test_wishes_for_single_tokens_agree_with_the_reference(seed):
    """Biases, stop ids, ignore_eos and min_tokens, together and alone, in every mode."""
    rng = np.random.default_rng(seed)
    bias_V = random_bias(rng)
    engine = make_engine(bias_V)
    ends = []
    for mode, rows in (("parallel", 4), ("sequential", 1), ("autoregressive", 1)):
        batch = [(random_prompt(rng), random_wishes(rng, random_rules(rng))) for _ in range(5)]
        settings = {
            "limits": [limits_of(rules) for _, rules in batch],
            "sampling": [sampling_of(rules) for _, rules in batch],
        }
        for (prompt, rules), result in zip(batch, engine.generate([p for p, _ in batch], **settings, mode=mode)):
            rules.rows, rules.autoregressive = rows, mode == "autoregressive"
            reference = Interpreter(WORDS, rules, bias_V, prompt).run()
            check_equal(result, reference)
            check_layout(result, prompt, bias_V, reference)
            assert result.new_tokens >= rules.min_tokens or result.reason != "stop"
            assert result.reason != "stop" or not rules.ignore_eos
            ends.append(result.reason)
    assert {"stop", "tokens"} <= set(ends)


@pytest.mark.parametrize(
    ("rows", "mode"),
    [
        (1, "sequential"),
        pytest.param(1, "parallel", marks=pytest.mark.slow),
        pytest.param(3, "parallel", marks=pytest.mark.slow),
    ],
)
def test_the_number_of_rows_does_not_change_the_answer(rows, mode):
    """One row at a time on the engine of the other tests, or an engine that has no more."""
    rng = np.random.default_rng(77)
    bias_V = random_bias(rng)
    batch = [(random_prompt(rng), random_rules(rng)) for _ in range(12)]
    engine = make_engine(bias_V) if mode == "sequential" else make_engine(bias_V, requests=1, rows=rows)
    results = engine.generate([p for p, _ in batch], limits=[limits_of(rules) for _, rules in batch], mode=mode)
    for (prompt, rules), result in zip(batch, results, strict=True):
        rules.rows, rules.autoregressive = rows, False
        reference = Interpreter(WORDS, rules, bias_V, prompt).run()
        check_equal(result, reference)
        assert result.decode_steps == reference.steps


def test_autoregressive_mode_opens_no_block_and_gives_every_token_asked_for():
    rng = np.random.default_rng(5)
    bias_V = random_bias(rng)
    engine = make_engine(bias_V)
    batch = [(random_prompt(rng), random_rules(rng)) for _ in range(6)]
    # Nothing is reserved but </Think> and its separator while <Think> is open, which is barred where they do not fit.
    batch += [(random_prompt(rng), Rules(max_new_tokens=total)) for total in (*range(1, 9), 1, 2, 3, 4)]
    results = engine.generate(
        [p for p, _ in batch], limits=[limits_of(rules) for _, rules in batch], mode="autoregressive"
    )
    for (prompt, rules), result in zip(batch, results, strict=True):
        rules.autoregressive = True
        check_equal(result, Interpreter(WORDS, rules, bias_V, prompt).run())
        assert result.degree == 1.0
        assert result.new_tokens == rules.max_new_tokens or result.reason != "tokens"


def test_sequential_mode_equals_parallel_mode():
    rng = np.random.default_rng(11)
    bias_V = random_bias(rng)
    engine = make_engine(bias_V)
    batch = [(random_prompt(rng), random_rules(rng)) for _ in range(8)]
    limits = [limits_of(rules) for _, rules in batch]
    prompts = [prompt for prompt, _ in batch]
    parallel = engine.generate(prompts, limits=limits)
    sequential = engine.generate(prompts, limits=limits, mode="sequential")
    for one, other in zip(parallel, sequential, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert one.position.tolist() == other.position.tolist()
        assert one.decode_steps <= other.decode_steps


@functools.cache
def short_stays() -> Engine:
    """An engine of three rows that comes out of the loop every five steps."""
    model = SpoiledHashModel(np.zeros(VOCABULARY))
    config = EngineConfig(requests=1, max_branches=3, row_counts=(3,), max_slots=1280, sync_steps=5)
    return Engine(model, model.params, TABLES, config)


def check_cancelled(rng, stays, **changes):
    """Cancel a random request after so many stays in the loop; the result, and the reference's run of it."""
    bias_V, prompt, rules = random_bias(rng), random_prompt(rng), random_rules(rng)
    rules = replace(rules, rows=3, autoregressive=False, max_new_tokens=600, max_depth=3, **changes)
    engine = short_stays()
    engine.params = jnp.asarray(bias_V), jnp.uint32(0)
    number, results = engine.submit(prompt, limits=limits_of(rules)), []
    for _ in range(stays):
        results += engine.step()
    engine.cancel(number)
    while engine.busy:
        results += engine.step()
    (result,) = results
    reference = Interpreter(WORDS, rules, bias_V, prompt, cancel_after=5 * stays).run()
    check_equal(result, reference)
    return result, reference


def test_cancelled_requests_agree_with_the_reference():
    """At any step: before the first, inside a map, while paths run, at a fork."""
    rng, seen = np.random.default_rng(8), set()
    for stays in (0, 1, 2, 3, 4, 6, 9, 14, 20, 30):
        result, _ = check_cancelled(rng, stays)
        seen |= {result.reason, f"{len(result.parent) > 1} {result.abandoned > 0}"}
    assert seen >= {"cancelled", "True False", "True True"}


@pytest.mark.parametrize(("seed", "stays", "left_out"), [(0, 13, 2), (7, 17, 4), (41, 20, 4)])
def test_waiting_paths_of_a_cancelled_block_are_left_out(seed, stays, left_out):
    """Several at once while other paths run, and in two blocks at a time (the last)."""
    _, reference = check_cancelled(np.random.default_rng(seed), stays, max_paths=12)
    assert (reference.reason, reference.left_out) == ("cancelled", left_out)


SIZES = Sizes(requests=1, slots=1, max_branches=1, max_depth=1, max_paths=2, number_length=1)


def test_labels_of_up_to_16_tokens_are_kept():
    """What stands before the first colon; longer ones, empty ones and those with a line break become the default."""
    text, newline, colon, length = 20, 27, 26, 20

    def outline(label, begin):
        return [*begin, *label, colon, *[text] * (length - len(begin) - len(label) - 1)]

    labels = [[], [text], [text] * 15, [text] * 16, [text] * 17, [text, newline]]
    tokens_CT = np.array([outline(label, begin) for label in labels for begin in ([], [SEPARATOR])])
    kinds_T = np.array([tags.TEXT] * length + [tags.OUTLINE_CLOSE])
    tables = jax.tree.map(jnp.asarray, build_tables(TABLES, TABLES.eos_ids, 2))
    begun = empty_branch(SIZES)._replace(reading=jnp.int32(READING_FIRST), outlines=jnp.int32(1))

    @jax.jit
    @jax.vmap
    def read(tokens_T) -> Branch:
        step = lambda branch, one: (read_label(branch, *one, tables), None)  # noqa: E731
        return jax.lax.scan(step, begun, (kinds_T, jnp.append(tokens_T, 0)))[0]

    branch = read(tokens_CT)
    kept = [0, 0, 1, 1, 15, 15, 16, 16, 0, 0, 0, 0]
    np.testing.assert_array_equal(branch.read_length, np.stack([np.zeros(12), kept], axis=1))
    for length, label in zip(kept, branch.read_label[:, 1]):
        assert (label[:length] == text).all()


def test_think_opens_only_where_it_can_be_closed():
    """It takes </Think> and the separator behind it, and itself; tokens and positions count alike."""
    tables = jax.tree.map(jnp.asarray, build_tables(TABLES, TABLES.eos_ids, 2))
    settings, share_C = empty_request(SIZES).settings, jnp.arange(5)

    @jax.jit
    @jax.vmap
    def allowed(tokens_left, max_pos):
        branch = empty_branch(SIZES)._replace(tokens_left=tokens_left, next_pos=jnp.int32(7), max_pos=7 + max_pos)
        return allowed_kinds(branch, settings, tables) & bits(tags.THINK_OPEN) > 0

    for opens_C in (allowed(share_C, jnp.full(5, 9)), allowed(jnp.full(5, 9), share_C)):
        assert opens_C.tolist() == [False, False, False, True, True]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_logits_that_are_not_finite_end_the_request_and_no_other(seed):
    """Wound up like a cancelled one: the transcript is well-formed, and the requests beside it go on."""
    rng = np.random.default_rng(500 + seed)
    bias_V = random_bias(rng)
    reasons, nested = [], 0
    for spoil in (20, 150, 700):
        engine = make_engine(bias_V, spoil=spoil)
        batch = [(random_prompt(rng), random_rules(rng)) for _ in range(16)]
        results = engine.generate([p for p, _ in batch], limits=[limits_of(rules) for _, rules in batch])
        for (prompt, rules), result in zip(batch, results, strict=True):
            rules.rows, rules.autoregressive = 4, False
            reference = Interpreter(WORDS, rules, bias_V, prompt, spoil=spoil).run()
            check_equal(result, reference)
            check_layout(result, prompt, bias_V, None)
            assert (result.reason == "not finite") == reference.failed
            reasons.append(result.reason)
            nested += reference.failed and len(result.parent) > 1
    assert nested
    assert {"not finite"} < set(reasons)  # Some in the middle of a block, and some requests none at all.


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_million_tokens_agree():
    """Both interpreters over a million tokens of random requests. Where MVJAX_PROGRESS names a directory, a run that
    was interrupted goes on there."""
    place = os.environ.get("MVJAX_PROGRESS")
    log = None if place is None else Path(place) / "a_million_tokens.json"
    tokens, seed = json.loads(log.read_text()) if log is not None and log.exists() else (0, 1000)
    while tokens < 1_000_000:
        rng = np.random.default_rng(seed)
        bias_V = random_bias(rng)
        engine = make_engine(bias_V, requests=16, rows=8)
        for _ in range(4):
            batch = [(random_prompt(rng), random_rules(rng)) for _ in range(64)]
            results = engine.generate([p for p, _ in batch], limits=[limits_of(rules) for _, rules in batch])
            for (prompt, rules), result in zip(batch, results, strict=True):
                rules.rows, rules.autoregressive = 8, False
                check_equal(result, Interpreter(WORDS, rules, bias_V, prompt).run())
                tokens += result.new_tokens
        seed += 1
        if log is not None:
            with atomic_path(log) as path:
                path.write_text(json.dumps([tokens, seed]))
