"""The store: what is committed stays, nothing counts twice, and files that are no such store are told apart."""

import json
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_productions import call, problem, record

from mvjax.curator.production import Finding, Outcome, Reply
from mvjax.curator.store import Store, database
from mvjax.curator.store.counts import count, use
from mvjax.curator.store.differences import first_difference
from mvjax.curator.store.stored import DUPLICATE
from mvjax.curator.text.dedup import digest, normalised, share
from mvjax.data.records import Fault
from mvjax.errors import UserError


def memory(*problems):
    store = Store.open(":memory:")
    store.add(problems)
    return store


def test_everything_outlives_closing(tmp_path):
    path = tmp_path / "deep" / "store.sqlite"
    outcome = Outcome(
        record(problem(1)), "judge", "why", (Finding("judge", "path 1", "no", "judge"),), {"tree": {"steps": []}}
    )
    reply = Reply("é \0 \n", "length", 7, 3, 0.5)
    with Store.open(path, {"model": "m"}) as store:
        assert store.add([problem(1), Fault("in:2", "is empty"), problem(2)]).new == 2
        store.commit(1, 0, call(problem(1), "tree"), reply, 0.25)
        store.finish(1, outcome)
    with Store.open(path, {"model": "m"}) as store:
        assert [entry.id for _, entry in store.pending()] == ["p2"]
        assert store.replies(1) == {0: (call(problem(1), "tree").fingerprint, reply)}
        assert list(store.outcomes()) == [(problem(1), outcome)]
        assert store.outcome("p1") == outcome
        assert store.outcome("p2") is None
        assert store.problem("p2") == problem(2)
        assert store.problem("p3") is None
        assert list(store.faults()) == [(Fault("in:2", "is empty"), "unusable input")]
        assert store.spent() == (7, 3, 0.25)
        assert store.calls("p1")[0].reply == reply
        assert list(store.ids()) == ["p1", "p2"]
    assert [entry.name for entry in path.parent.iterdir()] == ["store.sqlite"]


def test_a_reply_or_outcome_is_committed_once():
    store = memory(problem(1))
    store.commit(1, 0, call(problem(1), "tree"), Reply("one"))
    with pytest.raises(sqlite3.IntegrityError):
        store.commit(1, 0, call(problem(1), "tree"), Reply("two"))
    store.finish(1, Outcome(None, "answer"))
    with pytest.raises(sqlite3.IntegrityError):
        store.finish(1, Outcome(None, "answer"))


def test_same_ids_and_same_contents():
    store = memory()
    added = store.add([problem(1), problem(1), problem(1, answer="9"), problem(3, id="twin", question="What is 3+1 ?")])
    assert (added.new, added.known, added.faults, added.duplicates) == (2, 1, 1, 0)
    assert "unique" in added.first_fault.reason
    added = store.add([problem(1, id="copy", question="what is  1+1?"), problem(1)])
    assert (added.new, added.known, added.duplicates) == (1, 1, 1)
    outcome = store.outcome("copy")
    assert (outcome.state, outcome.check) == ("rejected", DUPLICATE)
    assert "p1" in outcome.reason
    counts = count(store)
    assert (counts.total, counts.pending, counts.rejected) == (3, 2, 1)


def test_faults_are_those_of_the_last_reading():
    store = memory()
    store.add([Fault("a:1", "is bad"), Fault("a:2", "is bad")], "a")
    store.add([Fault("b:1", "is bad")], "b")
    store.add([problem(1), Fault("a:2", "is bad")], "a")
    assert [fault.name for fault, _ in store.faults()] == ["b:1", "a:2"]
    assert count(store).reasons == {"unusable input": 2}


def test_adding_is_all_or_nothing():
    def broken():
        yield problem(2)
        raise UserError("too many bad lines")

    store = memory(problem(1))
    with pytest.raises(UserError, match="too many"):
        store.add(broken())
    assert list(store.ids()) == ["p1"]
    assert store.add([problem(2)]).new == 1


def test_half_a_surrogate_pair_is_a_fault():
    added = memory().add([problem(1, question="a \ud800 b")])
    assert (added.new, added.faults) == (0, 1)


def test_pending_goes_on_after_an_ordinal():
    store = memory(*map(problem, range(10)))
    store.finish(3, Outcome(None, "answer"))
    assert [number for number, _ in store.pending(limit=3)] == [1, 2, 4]
    assert [number for number, _ in store.pending(after=4, limit=99)] == [5, 6, 7, 8, 9, 10]


def test_dropped_calls_are_paid_for_all_the_same():
    store = memory(problem(1))
    for number in range(4):
        store.commit(1, number, call(problem(1), "tree"), Reply("text", prompt_tokens=5), 0.1)
    assert store.drop(1, 2) == 2
    assert sorted(store.replies(1)) == [0, 1]
    store.commit(1, 2, call(problem(1), "tree"), Reply("new", prompt_tokens=5), 0.1)
    assert store.spent()[0] == 25
    assert [entry.number for entry in store.calls("p1")] == [0, 1, 2, None, None]
    (stage,) = use(store)
    assert (stage.calls, stage.dropped, stage.prompt_tokens) == (5, 2, 25)


def test_again_drops_failed_replies_only():
    store = memory(problem(1), problem(2), problem(1, id="copy"))
    for record_number in (1, 2):
        store.commit(record_number, 0, call(problem(1), "tree"), Reply("fine"))
        store.commit(record_number, 1, call(problem(1), "paths"), Reply("down", "failed"))
    store.finish(1, Outcome(None, "endpoint", "down"))
    store.finish(2, Outcome(None, "answer", "lost"))
    assert store.again("endpoint") == 1
    assert sorted(store.replies(1)) == [0]
    assert sorted(store.replies(2)) == [0, 1]
    assert [number for number, _ in store.pending()] == [1]
    assert store.again(DUPLICATE) == 0


def test_settings_are_fixed_once_there_is_work(tmp_path):
    path = tmp_path / "s"
    with Store.open(path, {"model": "a"}) as store:
        store.add([problem(1), problem(1, id="copy")])
    with Store.open(path, {"model": "b", "llm": {"retries": 2}}) as store:
        store.commit(1, 0, call(problem(1), "tree"), Reply("text"))
    with pytest.raises(UserError, match=r"llm\.retries = 2, now llm\.retries = 3") as caught:
        Store.open(path, {"model": "b", "llm": {"retries": 3}})
    assert "--accept-new-settings" in str(caught.value)
    with Store.open(path, {"model": "b", "llm": {"retries": 3}}, accept_new_settings=True):
        pass
    with Store.open(path) as store:
        assert store.fact("settings") == {"model": "b", "llm": {"retries": 3}}


def test_one_process_writes_and_others_read(tmp_path):
    path = tmp_path / "s"
    with Store.open(path, {}) as store:
        store.add([problem(1)])
        attempt = (
            "import sys; from mvjax.curator.store import Store; from mvjax.errors import UserError\n"
            "try: Store.open(sys.argv[1])\nexcept UserError as error: print(error)\n"
            "with Store.read(sys.argv[1]) as store: print(list(store.ids()))"
        )
        ran = subprocess.run([sys.executable, "-c", attempt, str(path)], capture_output=True, text=True, check=True)
        assert "is working on this store" in ran.stdout
        assert "['p1']" in ran.stdout
        with Store.read(path) as reader, pytest.raises(sqlite3.OperationalError):
            reader.keep("name", 1)
        store.finish(1, Outcome(None, "answer"))
    with Store.open(path) as store:
        assert store.pending() == []


def foreign(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE other (value)")
    other.close()


def newer(path):
    Store.open(path).close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {database.FORMAT + 1}")
    other.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text('{"question": "?"}\n' * 100), "is no store of the curator"),
        (foreign, "is a database of another program"),
        (newer, "is a store of another version of mvjax (format 3, this one has 2)"),
        (lambda path: path.mkdir(), "is a directory"),
    ],
)
@pytest.mark.parametrize("way", [Store.open, Store.read])
def test_files_that_are_no_such_store(tmp_path, make, message, way):
    path = tmp_path / "s"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(UserError) as caught:
        way(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not path.is_file() or path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_no_file_and_empty_file(tmp_path):
    with pytest.raises(UserError, match="there is no such store"):
        Store.read(tmp_path / "s")
    (tmp_path / "s").touch()
    with pytest.raises(UserError, match="is an empty file"):
        Store.read(tmp_path / "s")
    Store.open(tmp_path / "s").close()


def test_a_file_that_may_only_be_read(tmp_path):
    path = tmp_path / "s"
    with Store.open(path) as store:
        store.add([problem(1)])
    assert database._address(path, writes=False).endswith("mode=rw")
    for address in (f"file:{path}?mode=ro&immutable=1",):
        assert sqlite3.connect(address, uri=True).execute("SELECT count(*) FROM problems").fetchone() == (1,)


def test_counts_and_use():
    store = memory(*map(problem, range(5)), Fault("in:9", "is bad"))
    store.commit(1, 0, call(problem(0), "tree"), Reply("{", prompt_tokens=3, completion_tokens=1, seconds=0.5), 0.5)
    again = call(problem(0), "tree")
    store.commit(1, 1, type(again)(again.stage, "", again.messages, why="no JSON"), Reply("", "refused"))
    found = (Finding("cyclic graph", "", "S1 needs S2"), Finding("judge", "path 1", "no"), Finding("judge", "", "no"))
    store.finish(1, Outcome(record(problem(0)), "judge", "one block fell back", found))
    store.finish(2, Outcome(record(problem(1), parallel=False)))
    store.finish(3, Outcome(None, "answer", "it is lost"))
    counts = count(store)
    assert (counts.total, counts.pending, counts.parallel, counts.sequential, counts.rejected) == (6, 2, 1, 1, 2)
    assert counts.done == 4
    assert counts.reasons == {"answer": 1, "unusable input": 1}
    assert counts.limited == {"judge": 1}
    assert counts.findings == {"judge": 2, "cyclic graph": 1}
    (stage,) = use(store)
    assert (stage.stage, stage.calls, stage.retries, stage.faulty, stage.cost) == ("tree", 2, 1, 1, 0.5)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\\"))


@given(TEXTS, TEXTS)
@settings(max_examples=50, deadline=None)
def test_spaces_around_a_text_do_not_count(text, other):
    assert normalised(f" {text}  ") == normalised(text)
    assert 0 <= share(text, other) < 1
    assert digest(text, other) == digest(f"{text}\n", f" {other}")


def test_copies_of_a_question():
    assert normalised("Find $x$:  \\(x+1\\)=\n2.") == normalised("find x: x+1=2")
    assert normalised("Find x: x+1=2") != normalised("Find x: x+12")


@given(*[st.dictionaries(st.sampled_from("abc"), st.sampled_from([None, 1, {}, {"a": 1}, {"b": 2}]))] * 2)
def test_differences_are_named(before, now):
    if before != now:
        assert ", now " in first_difference(before, now)
    assert json.dumps(before)
