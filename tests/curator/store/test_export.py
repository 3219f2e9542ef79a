"""What leaves a store: order, parts that share no problem, no duplicates, nothing of a benchmark."""

import json
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_productions import problem, record

from mvjax.curator.production import Outcome, Problem
from mvjax.curator.store import Store
from mvjax.curator.store.export import Exported, Selection, export, path_of_test_part, questions_of, records
from mvjax.curator.text.dedup import digest
from mvjax.data.sources import read_records
from mvjax.errors import UserError


def stored(outcomes):
    """A store of problems that ended so."""
    store = Store.open(":memory:")
    store.add(problem for problem, _ in outcomes)
    for number, (_, outcome) in enumerate(outcomes, 1):
        if outcome is not None:
            store.finish(number, outcome)
    return store


def accepted(number, parallel=True, **fields):
    entry = problem(number, **fields)
    return entry, Outcome(record(entry, parallel))


def ids(store, part="train", **fields):
    return [record.id for record in records(store, Selection(**fields), part)]


def test_order_and_selection():
    store = stored(
        [accepted(5), accepted(2, parallel=False), (problem(9), None), (problem(4), Outcome(None, "answer"))]
    )
    assert ids(store) == ["p5", "p2"]
    assert ids(store, sequential=False) == ["p5"]
    assert ids(store, "test") == []


def test_shuffling_is_by_seed():
    store = stored([accepted(number) for number in range(30)])
    first, second = ids(store, shuffle=1), ids(store, shuffle=2)
    assert sorted(first) == sorted(second) == sorted(ids(store))
    assert len({tuple(first), tuple(second), tuple(ids(store))}) == 3
    assert first == ids(store, shuffle=1)
    fewer = stored([accepted(number) for number in range(0, 30, 2)])
    assert ids(fewer, shuffle=1) == [id for id in first if int(id[1:]) % 2 == 0]


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc"), st.booleans()), unique=True), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_all_records_of_a_problem_are_in_one_part(chosen, share):
    outcomes = [
        accepted(number, id=f"{number}{way}{loud}", reasoning=f"{way}{loud}", question=f"Find {number}{'!' * loud} ")
        for number, way, loud in chosen
    ]
    outcomes = [(entry, Outcome(replace(outcome.record, response=entry.id))) for entry, outcome in outcomes]
    store = stored(outcomes)
    parts = {part: ids(store, part, test_share=share) for part in ("train", "test")}
    assert sorted(parts["train"] + parts["test"]) == sorted(entry.id for entry, _ in outcomes)
    questions = {part: {digest(store.problem(id).question) for id in parts[part]} for part in parts}
    assert not questions["train"] & questions["test"]
    half = stored(outcomes[::2])
    assert set(ids(half, "test", test_share=share)) <= set(parts["test"])


def test_shares_are_kept():
    store = stored([accepted(number) for number in range(400)])
    assert 10 <= len(ids(store, "test", test_share=0.05)) <= 32
    assert ids(store, "test", test_share=0.0) == []
    assert ids(store, "train", test_share=1.0) == []


def test_duplicates_and_benchmarks_are_counted(tmp_path):
    twin = problem(1, id="twin", reasoning="Another way to it.")
    store = stored([accepted(1), (twin, Outcome(replace(record(twin), autoregressive="x"))), accepted(2), accepted(3)])
    bench = tmp_path / "bench.jsonl"
    lines = [{"problem": "What is $2+1$?", "answer": "3"}, {"question": "what is  3+1 ?", "answer": "#### 4"}]
    lines.append({"messages": [{"role": "user", "content": "Another?"}], "answer": "4"})
    bench.write_text("\n".join(map(json.dumps, lines)))
    exported = Exported()
    selection = Selection(exclude=questions_of(bench))
    assert [entry.id for entry in records(store, selection, "train", exported)] == ["p1"]
    assert exported.left_out == {"benchmark problem": 2, "duplicate record": 1}


def test_files(tmp_path):
    store = stored([accepted(number) for number in range(60)])
    output = tmp_path / "new" / "records.jsonl"
    exported = export(store, output, Selection(test_share=0.3, shuffle=0))
    train, test = read_records(output), read_records(path_of_test_part(output))
    assert path_of_test_part(output).name == "records.test.jsonl"
    assert (exported.train, exported.test) == (len(train), len(test))
    assert len(train) + len(test) == 60
    assert test
    with pytest.raises(UserError, match=r"there is no record to write \(answer 1\)"):
        export(stored([(problem(1), Outcome(None, "answer"))]), tmp_path / "none.jsonl", Selection())
    assert not (tmp_path / "none.jsonl").exists()
    with pytest.raises(UserError, match="No such file"):
        questions_of(tmp_path / "missing.jsonl")


def test_memory_does_not_grow_with_the_number_of_records(tmp_path):
    def peak(number):
        def problems():
            for k in range(number):
                yield Problem(f"p{k}", f"Question {k}?", "long " * 400)

        with Store.open(tmp_path / f"{number}.sqlite") as store:
            tracemalloc.start()
            store.add(problems())
            after = 0
            while batch := store.pending(after=after):
                for after, entry in batch:
                    store.finish(after, Outcome(record(entry)))
            export(store, tmp_path / "out.jsonl", Selection(shuffle=1, test_share=0.5))
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    peak(20)
    assert peak(400) < peak(150) + 250_000  # the problems alone are 2 kB each


def test_states_of_a_store_are_left_alone(tmp_path):
    store = stored([accepted(1), (problem(2), None)])
    export(store, tmp_path / "out.jsonl", Selection())
    assert Counter(entry.id for _, entry in store.pending()) == {"p2": 1}
