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
from mvjax.data.schedule import Document, DocumentSchedule, PipelineConfig, Position, RowSchedule, schedule_of
from mvjax.data.store import Index
from mvjax.errors import UserError

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
    return RowSchedule(Corpus(store, CONFIG).index, CONFIG)


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
        other = RowSchedule(schedule.index, config)
        return [[record for record, _ in row] for window in range(8) for row in other.window_rows(window)]

    assert drawn(0.0, True) == drawn(0.4, True) == drawn(1.0, True)
    assert drawn(0.0, False) != drawn(1.0, False)


def test_repeated_records(schedule):
    repeat = [2 if index == 0 else 1 for index in range(len(schedule.index))]
    other = RowSchedule(schedule.index, CONFIG, repeat)
    drawn = Counter(document.record for document in documents_of(other, range(other.windows_per_pass)))
    assert drawn[0] == 2
    assert drawn.total() == len(schedule.index) + 1


def test_without_shuffle_rows_keep_to_the_order(schedule):
    config = replace(CONFIG, shuffle=False, shares=(1.0,))
    kept = RowSchedule(schedule.index, config)
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
    assert RowSchedule(schedule.index, CONFIG).position(step) == position


def test_batches_in_passes_hold_all_rows(schedule):
    for passes in (1, 2, 3):
        last = schedule.position(schedule.batches_in(passes) - 1)
        assert last.window < passes * schedule.windows_per_pass
        assert schedule.position(schedule.batches_in(passes)).window >= passes * schedule.windows_per_pass


def test_facts_are_those_of_the_layouts(store):
    corpus = Corpus(store, CONFIG)
    schedule = RowSchedule(corpus.index, CONFIG)
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
    schedule = RowSchedule(index_of(lengths_NF), PipelineConfig(row_length=row_length))
    facts = []
    for window in range(len(SHARES) * schedule.windows_per_pass):
        facts.append(schedule.facts(schedule.window_rows(window)))
    used = sum(fact.tokens for fact in facts)
    assert used / sum(len(fact.rows) * row_length for fact in facts) > 0.97
    assert min(fact.efficiency for fact in facts) > 0.965


# ---------------------------------------------------------------------------------------- Batches counted in documents


def recipe(**options):
    """The paper's batch: 16 transcripts a step of 1,000 that have 10,000 tokens on average, in rows of 32,768."""
    settings = {"row_length": 32_768, "rows": 16, "transcripts": 16, "seed": 42} | options
    return schedule_of(index_of(long_ones(1000, 8500)), PipelineConfig(**settings))


def documents_at(schedule, step):
    rows, _ = schedule.take(schedule.position(step))
    return [document for row in rows for document in row]


def walk(schedule, steps):
    position, taken = Position(0, 0), []
    for _ in range(steps):
        rows, position = schedule.take(position)
        taken.append(rows)
    return taken, position


def test_sixteen_transcripts_a_step_are_five_hundred_steps_of_the_paper_s_recipe():
    schedule = recipe()
    assert isinstance(schedule, DocumentSchedule)
    assert schedule.batches_in(8) == 500
    taken, position = walk(schedule, 500)
    assert position == schedule.position(500) == Position(8, 0)
    assert all([len(row) for row in rows] == [1] * 16 for rows in taken)
    drawn = [document for rows in taken for row in rows for document in row]
    for epoch in range(8):
        # Steps reach over the end of a pass, and rows are in order of length: 62.5 steps are a pass.
        assert set(drawn[1000 * epoch + 8 : 1000 * epoch + 992]) <= set(schedule_documents(schedule, epoch))
    assert Counter(document.record for document in drawn) == dict.fromkeys(range(1000), 8)
    schedule.check(500)


def schedule_documents(schedule, epoch):
    records_N, multiverse_N = schedule.curriculum.draws(epoch)
    return [Document(int(record), FORMS[not parallel]) for record, parallel in zip(records_N, multiverse_N)]


def test_fewer_rows_hold_the_same_transcripts():
    wide, narrow = recipe(), recipe(rows=8)
    narrow.check(500)
    for step in (0, 62, 63, 499):
        assert sorted(documents_at(wide, step)) == sorted(documents_at(narrow, step))
        rows, _ = narrow.take(narrow.position(step))
        assert len(rows) == 8
        assert max(narrow.facts([row]).tokens for row in rows) <= 32_768


def test_rows_that_are_too_few_are_refused_with_the_number_that_is_needed():
    with pytest.raises(
        UserError, match=r"data.rows = 4 of 32,768 tokens are too few for step \d+, .* to \d+ or more"
    ) as told:
        recipe(rows=4).check(500)
    needed = int(str(told.value).split()[-3])
    recipe(rows=needed).check(500)
    with pytest.raises(UserError):
        recipe(rows=needed - 1).check(500)


@given(st.integers(1, 40), st.integers(0, 30), st.booleans())
def test_the_position_of_a_step_counted_in_documents(transcripts, step, by_tokens):
    """Passes of 37 records: a step may hold more than one of them."""
    config = PipelineConfig(row_length=1024, rows=40, shares=(0.0, 0.5), shuffle=False)
    config = replace(config, **({"tokens": 150 * transcripts} if by_tokens else {"transcripts": transcripts}))
    schedule = schedule_of(index_of(gsm8k_like(37)), config)
    taken, position = walk(schedule, step)
    assert schedule.position(step) == position
    records = [document.record for rows in taken for row in rows for document in row]
    assert Counter(records) == Counter(place % 37 for place in range(len(records)))
    if not by_tokens:
        assert len(records) == step * transcripts


def test_a_step_of_at_most_so_many_tokens():
    schedule = recipe(transcripts=0, tokens=160_000, rows=8)
    steps = schedule.batches_in(8)
    taken, position = walk(schedule, steps)
    assert position.window == 8
    facts = [schedule.facts(rows) for rows in taken]
    assert max(fact.tokens for fact in facts) <= 160_000
    assert min(fact.tokens for fact in facts) > 160_000 - 30_000
    assert sum(fact.tokens for fact in facts[:-1]) < 8 * schedule.index.length_NF.max(1).sum()


def test_a_document_longer_than_a_step_s_tokens_is_a_step():
    schedule = recipe(transcripts=0, tokens=5000, rows=1)
    assert all(len(rows[0]) == 1 for rows in walk(schedule, 20)[0] if schedule.facts(rows).tokens > 5000)
    assert any(schedule.facts(rows).tokens > 5000 for rows in walk(schedule, 20)[0])


def test_twins_see_the_same_transcripts_in_a_step_counted_in_documents():
    parallel, sequential = recipe(shares=(1.0,)), recipe(shares=(0.0,))
    for step in (0, 100):
        one, other = documents_at(parallel, step), documents_at(sequential, step)
        assert {document.record for document in one} == {document.record for document in other}
        assert {document.form for document in one} != {document.form for document in other}
