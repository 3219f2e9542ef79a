"""Hidden parallelism: from stages, labels and transcripts to the table."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator import prompt_files
from mvjax.curator.analysis.parallelism import PAPER, PAPER_TOTAL, analyze, table
from mvjax.curator.analysis.splits import Split, of_labels, of_outcome, of_record, span, splits, words, work
from mvjax.curator.production import Outcome, Problem, Reply
from mvjax.curator.run import run
from mvjax.curator.sources import gsm8k
from mvjax.curator.sources.synthetic import SyntheticConfig, generate
from mvjax.curator.stages import labels
from mvjax.curator.stages.replies import Faulty
from mvjax.curator.store import Store
from mvjax.curator.text import sentences
from mvjax.data.records import Record

lengths = st.integers(1, 9)
traces = st.recursive(
    st.lists(lengths, min_size=1, max_size=3).map(tuple),
    lambda inner: st.lists(
        st.one_of(
            lengths,
            st.builds(
                Split,
                st.just("collective"),
                st.sampled_from(["case study", "sub-task"]),
                st.lists(inner, min_size=2, max_size=3).map(tuple),
            ),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    max_leaves=10,
)


@given(st.lists(traces, min_size=1, max_size=4))
def test_counts_add_up(some):
    result = analyze(some)
    facts = result.to_dict()
    total = sum(len(split.branches) for trace in some for _, split in splits(trace))
    assert facts["branches"] == total == result.consecutive + result.recursive
    assert sum(row["share"] for row in facts["kinds"]) == pytest.approx(1 if total else 0, abs=1e-3)
    assert sum(row["per_trace"] for row in facts["kinds"]) == pytest.approx(total / len(some), abs=5e-3)
    assert (result.recursive > 0) == (result.splitting > 0) == (result.recursive_traces > 0)
    assert 0 <= facts["share_in_branches"] <= 1
    for trace in some:
        assert span(trace) <= work(trace)
        assert (span(trace) < work(trace)) == any(True for _ in splits(trace))
    assert facts["attainable"]["of_all_text"] <= max(work(t) / span(t) for t in some) + 1e-3
    # Amdahl: no more than what stands outside of branches allows.
    outside = result.length - result.in_branches
    if outside:
        assert result.length / result.left <= result.length / outside
    table(result, "made up")


def test_a_small_trace_by_hand():
    inner = Split("selective", "path exploration", ((10,), (30,)))
    trace = (20, Split("collective", "case study", ((10, inner), (40,), (5,))), 15)
    facts = analyze([trace, (50,)]).to_dict()
    assert (work(trace), span(trace)) == (130, 20 + 40 + 15)
    assert facts["attainable"] == {
        "mean": pytest.approx((1.73 + 1) / 2, abs=0.01),
        "mean_of_those_with_branches": 1.73,
        "of_all_text": 1.44,
        "max": 1.73,
    }
    assert facts["share_in_branches"] == pytest.approx(95 / 180, abs=1e-4)
    assert (facts["branches"], facts["branches_per_trace"], facts["branches_per_split"]) == (5, 2.5, 2.5)
    assert (facts["consecutive_share"], facts["recursive_share"], facts["splitting_share"]) == (0.6, 0.4, 0.2)
    shares = {(row["kind"], row["case"]): row["share"] for row in facts["kinds"]}
    assert shares["collective", "case study"] == 0.6
    assert shares["selective", "path exploration"] == 0.4
    assert (facts["traces_with_branches"], facts["traces_with_recursion"]) == (1, 1)


def test_the_papers_figures_add_up():
    for column in (0, 1):
        assert sum(figures[column][0] for figures in PAPER.values()) == pytest.approx(0.98, abs=0.011)
        assert sum(figures[column][1] for figures in PAPER.values()) == pytest.approx(PAPER_TOTAL[column], abs=0.011)


def test_transcripts_without_map_and_reduce():
    """What is counted is the text that the sequential form has: labels, goals and conclusions are not in it."""
    for record in generate(SyntheticConfig(nesting=(0, 2)), 10):
        trace = of_record(record)
        assert work(trace) == pytest.approx(words(record.autoregressive), rel=0.12)
        assert sum(1 for _ in splits(trace)) == record.response.count("<Parallel>")
        assert len(trace[1].branches) == record.meta["degree"]
    question, answer = (
        "Two and 3?",
        "She has 3+4=<<3+4=7>>7 pears.\nHe has 2*5=<<2*5=10>>10 figs.\nSo 7+10=<<7+10=17>>17.",
    )
    record = gsm8k.curate("g", question, f"{answer}\n#### 17")
    assert of_record(record) == (Split("collective", "sub-task", ((4,), (4,))), 6)


def test_thoughts_and_attempts_are_text():
    record = Record("t", ({"role": "user", "content": "q"},), "<Think>\none two\n</Think>\nthree", "", "", "test", {})
    assert of_record(record) == (3,)


REASONING = "We look. Area of one. It is two words. Area of two. Sum it up now. Done."
STAGES = {
    "groups": {
        "groups": [
            {"branches": [["S2"], ["S3"]], "kind": "selective", "case": "path exploration"},
            {"branches": [["S2.1"], ["S2.2"]], "kind": "collective", "case": "case study"},
        ]
    },
    "structure": {
        "structure": [
            {"step": "S1", "inside": []},
            {
                "parallel": [
                    [{"step": "S2", "inside": [{"parallel": [["S2.1"], [{"step": "S2.2", "inside": []}]]}]}],
                    [{"step": "S3", "inside": []}],
                ]
            },
            {"step": "S4"},
        ]
    },
    "refill": {"refill": {"S1": "1", "S2": "", "S2.1": "2", "S2.2": "3", "S3": "4", "S4": "5", "S4.1": "6"}},
}


def test_stages_of_a_curated_problem():
    problem, outcome = Problem("p", "q", REASONING), Outcome(None, "answer", stages=STAGES)
    inner = Split("collective", "case study", ((3,), (4,)))
    # The sub-step of S4 that the structure leaves out follows it.
    assert of_outcome(problem, outcome) == (2, Split("selective", "path exploration", ((inner,), (3,))), 5)
    assert of_outcome(problem, outcome, len)[0] == len("We look. ")
    assert of_outcome(problem, Outcome(None, "tree")) is None


def blocks(*entries):
    return [{"kind": kind, "case": case, "branches": [list(b) for b in branches]} for kind, case, branches in entries]


def test_labelled_sentences():
    pieces = [f"{'w ' * count}. " for count in (1, 2, 3, 4, 5, 6, 7, 8)]
    sizes = [words(piece) for piece in pieces]
    outer, inner = ("selective", "other", [(2, 5), (6, 6)]), ("collective", "sub-task", [(2, 3), (4, 4)])
    last = ("collective", "other", [(7, 7), (8, 8)])
    trace = of_labels(pieces, blocks(last, inner, outer))
    within = Split("collective", "sub-task", ((sizes[1] + sizes[2],), (sizes[3],)))
    assert trace == (
        sizes[0],
        Split("selective", "other", ((within, sizes[4]), (sizes[5],))),
        Split("collective", "other", ((sizes[6],), (sizes[7],))),
    )
    assert work(of_labels(pieces, [])) == sum(sizes)


def reply(*entries, **more):
    return Reply(json.dumps({"blocks": [{"reason": "", **entry} for entry in entries]}), **more)


def block(*branches, kind="collective", case="sub-task"):
    return {"kind": kind, "case": case, "branches": list(branches)}


def test_labels_are_read():
    found = labels.read(reply(block("5", "6 - 7"), block("1-3", "4"), block("1", "2-3", case="other")).text, 7)
    assert [entry["branches"] for entry in found] == [[[1, 3], [4, 4]], [[1, 1], [2, 3]], [[5, 5], [6, 7]]]
    assert labels.read('Here it is:\n```json\n{"blocks": []}\n```', 7) == []


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        (Reply("no"), "malformed JSON"),
        (Reply('{"blocks": {}}'), "wrong type"),
        (Reply('{"blocks": ["1-2"]}'), "wrong type"),
        (reply({"kind": "collective", "case": "sub-task"}), "wrong type"),
        (reply(block("1", "two")), "wrong type"),
        (reply(block("1", "2", case="path exploration")), "unknown kind"),
        (reply(block("1", "2", kind="both")), "unknown kind"),
        (reply(block("1-2")), "path count"),
        (reply(block("1-2", "4")), "not contiguous"),
        (reply(block("1-2", "2-4")), "not contiguous"),
        (reply(block("6", "7-8")), "invented sentence"),
        (reply(block("0", "1")), "invented sentence"),
        (reply(block("3-2", "4")), "invented sentence"),
        (reply(block("1-2", "3-4"), block("2", "3")), "overlapping blocks"),
        (reply(block("1-2", "3-4"), block("1-2", "3-4")), "overlapping blocks"),
    ],
)
def test_faulty_labels(answer, check):
    with pytest.raises(Faulty) as caught:
        labels.read(answer.text, 7)
    assert check in [finding.check for finding in caught.value.findings]


SETTINGS = SimpleNamespace(prompts=prompt_files.load(), retries=1, max_tokens=100)


def drive(replies, **fields):
    """The calls and the outcome of a production that gets these replies."""
    production = labels.label(Problem("p", "How much?", fields.pop("reasoning", REASONING), "6", **fields), SETTINGS)
    calls, answers = [], iter(replies)
    try:
        asked = next(production)
        while True:
            calls.extend(asked)
            asked = production.send((next(answers),))
    except StopIteration as end:
        return calls, end.value


def test_a_label_pass():
    calls, outcome = drive([reply(block("2-3", "4"))])
    (call,) = calls
    assert call.stage == "labels"
    assert "How much?" in call.messages[1]["content"]
    assert "4. Area of two." in call.messages[1]["content"]
    assert outcome.state == "sequential"
    assert outcome.record.response == REASONING
    assert of_outcome(Problem("p", "", REASONING), outcome) == (2, Split("collective", "sub-task", ((7,), (3,))), 5)
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_a_faulty_reply_goes_back_with_its_reason():
    calls, outcome = drive([reply(block("1", "9")), reply(block("1", "2"))])
    assert calls[1].messages[:2] == calls[0].messages
    assert "9 is no range of the sentences 1-6" in calls[1].messages[3]["content"]
    assert "9 is no range" in calls[1].why
    assert [(finding.check, finding.stage) for finding in outcome.findings] == [("invented sentence", "labels")]
    assert outcome.record is not None


def test_what_cannot_be_labelled_is_rejected():
    calls, outcome = drive([Reply("a"), Reply("b")])
    assert (len(calls), outcome.state, outcome.check) == (2, "rejected", "malformed JSON")
    refused = [Reply("I will not", finish="refused"), Reply('{"blocks": [', finish="length")]
    assert [finding.check for finding in drive(refused)[1].findings] == ["refused", "cut reply"]
    assert drive([Reply("down", finish="failed")])[1].check == "endpoint"
    assert drive([], reasoning="")[1].check == "empty reasoning"
    assert drive([], reasoning="It says <Path> here.")[1].check == "control tag"


def test_labels_go_through_store_and_run():
    class Client:
        async def preflight(self):
            pass

        async def complete(self, call):
            return reply(block("2-3", "4"))

        async def close(self):
            pass

    with Store.open(":memory:", {"producer": "labels"}) as store:
        store.add([Problem(f"p{number}", f"q{number}", REASONING) for number in range(5)])
        run(store, lambda problem: labels.label(problem, SETTINGS), Client(), concurrency=2)
        result = analyze(of_outcome(problem, outcome) for problem, outcome in store.outcomes())
    assert (result.traces, result.splits, result.branches["collective", "sub-task"]) == (5, 5, 10)
    assert result.length == 5 * sum(map(words, sentences.split(REASONING)))
