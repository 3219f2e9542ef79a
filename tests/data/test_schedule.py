"""The sequence of batches from the index alone: a pure function, full rows, true numbers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.data.corpus import Corpus
from mvjax.data.curriculum import SHARES
from mvjax.data.encode import FORMS
from mvjax.data.schedule import Document, PipelineConfig, Position, Schedule
from mvjax.data.store import Index

CONFIG = PipelineConfig(row_length=1200, rows=3, levels=3, window=4, seed=5, shares=(0.0, 0.5, 1.0))

GSM8K = (
    (91, 124, 134, 142, 150, 157, 165, 173, 182, 191, 202, 215, 227, 240, 254, 270, 290, 313, 344, 394, 780),
    (88, 121, 130, 138, 145, 151, 157, 163, 169, 175, 181, 188, 196, 205, 213, 224, 235, 250, 269, 299, 497),
)
"""Every twentieth part of GSM8K's solutions: tokens of SmolLM2 in the two forms (suffixes and chat included)."""


def index_of(lengths_NF):
    lengths_NF = np.asarray(lengths_NF, np.int32)
    numbers_N = np.arange(len(lengths_NF), dtype=np.int32)
    same = np.zeros_like(lengths_NF)
    return Index(lengths_NF, same, same, same, 0 * numbers_N, numbers_N, 0 * numbers_N, 0 * numbers_N, same[:0, 0])


def gsm8k_like(count):
    place_N = np.random.default_rng(0).random(count) * 20
    return np.stack([np.interp(place_N, np.arange(21), quantiles).astype(int) for quantiles in GSM8K], 1)


def long_ones(count, median):
    rng = np.random.default_rng(1)
    lengths_N = np.clip(np.exp(rng.normal(np.log(median), 0.6, count)), 4000, 30_000)
    return np.stack([lengths_N, lengths_N * rng.uniform(0.85, 0.95, count)], 1).astype(int)


@pytest.fixture(scope="module")
def schedule(store):
    return Schedule(Corpus(store, CONFIG).index, CONFIG)


def documents_of(schedule, windows):
    return [document for window in windows for row in schedule.window_rows(window) for document in row]


def test_a_pass_has_every_record_once_in_the_share_of_forms(schedule):
    assert schedule.windows_per_pass > 1
    for epoch, share in enumerate(CONFIG.shares):
        windows = range(epoch * schedule.windows_per_pass, (epoch + 1) * schedule.windows_per_pass)
        drawn = documents_of(schedule, windows)
        assert sorted(document.record for document in drawn) == list(range(len(schedule.index)))
        assert Counter(document.form for document in drawn)["multiverse"] == round(share * len(schedule.index))


def test_rows_hold_the_forms_that_are_drawn(schedule):
    for window in range(6):
        for row in schedule.window_rows(window):
            lengths = [schedule.index.length_NF[record, FORMS.index(form)] for record, form in row]
            assert 0 < sum(lengths) <= CONFIG.row_length


def test_with_equal_records_a_step_does_not_depend_on_the_forms(schedule):
    """Twins trained on the two forms see the same problems in the same steps."""

    def drawn(share, equal_records):
        config = replace(CONFIG, shares=(share,), equal_records=equal_records)
        other = Schedule(schedule.index, config)
        return [[record for record, _ in row] for window in range(8) for row in other.window_rows(window)]

    assert drawn(0.0, True) == drawn(0.4, True) == drawn(1.0, True)
    assert drawn(0.0, False) != drawn(1.0, False)


def test_repeated_records(schedule):
    repeat = [2 if index == 0 else 1 for index in range(len(schedule.index))]
    other = Schedule(schedule.index, CONFIG, repeat)
    drawn = Counter(document.record for document in documents_of(other, range(other.windows_per_pass)))
    assert drawn[0] == 2
    assert drawn.total() == len(schedule.index) + 1


def test_without_shuffle_rows_keep_to_the_order(schedule):
    config = replace(CONFIG, shuffle=False, shares=(1.0,))
    kept = Schedule(schedule.index, config)
    for window in range(kept.windows_per_pass):
        firsts = [row[0].record for row in kept.window_rows(window)]
        assert firsts == sorted(firsts)
    assert documents_of(kept, [0])[0] == Document(0, "multiverse")
    assert documents_of(kept, range(2)) == documents_of(kept, range(kept.windows_per_pass, kept.windows_per_pass + 2))


@given(st.integers(0, 60))
def test_a_step_is_found_without_walking_there(schedule, step):
    position = Position(0, 0)
    for _ in range(step):
        rows, position = schedule.take(position)
        assert len(rows) == CONFIG.rows
    assert Schedule(schedule.index, CONFIG).position(step) == position


def test_batches_in_passes_hold_all_rows(schedule):
    for passes in (1, 2, 3):
        last = schedule.position(schedule.batches_in(passes) - 1)
        assert last.window < passes * schedule.windows_per_pass
        assert schedule.position(schedule.batches_in(passes)).window >= passes * schedule.windows_per_pass


def test_facts_are_those_of_the_layouts(store):
    corpus = Corpus(store, CONFIG)
    schedule = Schedule(corpus.index, CONFIG)
    position, degrees = Position(0, 0), []
    for _ in range(schedule.batches_in(3)):
        rows, position = schedule.take(position)
        facts = schedule.facts(rows)
        layouts = [(form, x.layout) for row in rows for (_, form), x in zip(row, corpus.examples(row))]
        assert facts.rows == rows
        assert facts.tokens == sum(len(layout.segment) for _, layout in layouts)
        assert facts.efficiency == facts.tokens / (3 * 1200)
        parallel = [layout for form, layout in layouts if form == "multiverse"]
        critical = sum(layout.critical_path for layout in parallel)
        assert facts.parallel == (sum(layout.new_tokens for layout in parallel) / critical if critical else 1.0)
        degrees.append(facts.parallel)
    assert degrees[0] == 1.0
    assert degrees[-1] > 1.1


@pytest.mark.parametrize(
    ("lengths_NF", "row_length"),
    [(gsm8k_like(6442), row_length) for row_length in (1024, 2048, 4096)]
    + [(gsm8k_like(1000), 1024), (long_ones(1000, 8000), 32_768), (long_ones(4000, 12_000), 32_768)],
)
def test_rows_are_full(lengths_NF, row_length):
    schedule = Schedule(index_of(lengths_NF), PipelineConfig(row_length=row_length))
    facts = []
    for window in range(len(SHARES) * schedule.windows_per_pass):
        facts.append(schedule.facts(schedule.window_rows(window)))
    used = sum(fact.tokens for fact in facts)
    assert used / sum(len(fact.rows) * row_length for fact in facts) > 0.97
    assert min(fact.efficiency for fact in facts) > 0.965
