"""The processes that compare answers: ended in time, started again, used from threads; what does not need them."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mvjax.errors import UserError
from mvjax.grading import grade, worker
from mvjax.grading.worker import Workers

HOSTILE = {
    "a tower of powers": r"\boxed{9^{9^{9^9}}}",
    "a tower without braces": r"The answer is 9^9^9^9.",
    "a power of a power": r"\boxed{(9^{999})^{(9^{999})}}",
    "a factorial": r"\boxed{1000000000!}",
    "a factorial of a factorial": r"\boxed{((99!)!)!}",
    "a large number": r"\boxed{" + "7" * 100_000 + "}",
    "braces in braces": r"\boxed{" + "{" * 10_000 + "5" + "}" * 10_000 + "}",
    "brackets in brackets": "The answer is " + "(" * 9_000 + "5" + ")" * 9_000 + ".",
    "tuples in tuples": r"\boxed{" + "(1," * 600 + "5" + ")" * 600 + "}",
    "commas in brackets": r"\boxed{" + "(1,2)," * 300 + "5}",
    "dollars": "The answer is " + "$" * 10_000 + r"\(" * 3_000,
    "roots in roots": r"\boxed{" + r"\sqrt{" * 300 + "5" + "}" * 301,
    "boxes in boxes": r"\boxed{" * 10_000 + "8" + "}" * 10_000,
    "a megabyte of words": "so on and on " * 80_000,
    "a megabyte of boxes": r"\boxed{6} " * 100_000,
    "a megabyte of answers": "the answer is " * 75_000,
    "a megabyte without a space": "x" * 1_000_000,
    "a megabyte of spaces": "answer" + " " * 1_000_000,
    "a megabyte of digits": "The answer is " + "1," * 500_000,
    "a long sum": r"\boxed{" + "+".join(["x_1^{99}"] * 200) + "}",
}


@pytest.mark.parametrize("response", HOSTILE.values(), ids=HOSTILE)
def test_what_cannot_be_worked_out_is_wrong_and_the_next_one_is_graded(response):
    assert not grade(response, "5").correct
    assert not grade(response, "x+5").correct
    assert grade(r"\boxed{\sqrt{50}}", r"5\sqrt{2}").correct


@pytest.fixture(scope="module")
def workers():
    found = Workers(most=1, seconds=30)
    yield found
    found.end()


def test_a_comparison_that_takes_too_long_ends_its_process_and_the_next_one_has_another(workers):
    assert workers.equal(r"\sqrt{12}", r"2\sqrt{3}", "math")
    (first,) = workers._idle
    assert workers.equal(r"\sqrt{18}", r"3\sqrt{2}", "math")
    assert workers._idle == [first]  # used again
    workers._seconds = 0.0
    assert not workers.equal(r"\sqrt{12}", r"2\sqrt{3}", "math")
    assert first._process.poll() is not None
    assert workers._idle == []
    workers._seconds = 30
    assert workers.equal(r"\sqrt{12}", r"2\sqrt{3}", "math")
    # One that dies between two comparisons is replaced.
    workers._idle[0]._process.kill()
    workers._idle[0]._process.wait()
    assert workers.equal(r"\sqrt{12}", r"2\sqrt{3}", "math")


def test_any_thread_may_ask(monkeypatch, workers):
    monkeypatch.setattr("mvjax.grading.grader.WORKERS", workers)
    right, wrong = (r"\boxed{\sqrt{12}}", r"2\sqrt{3}"), (r"\boxed{\sqrt{13}}", r"2\sqrt{3}")
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda pair: grade(*pair).correct, [right, wrong] * 12))
    assert verdicts == [True, False] * 12
    found = []
    thread = threading.Thread(target=lambda: found.append(grade(*right).correct))
    thread.start()
    thread.join()
    assert found == [True]


def test_a_forked_process_has_its_own(monkeypatch, workers):
    assert workers.equal(r"\sqrt{12}", r"2\sqrt{3}", "math")
    (ours,) = workers._idle
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert workers._pid != os.getpid()
    workers.end()  # of the parent's it ends none
    assert ours.alive()
    assert workers._idle == [ours]
    workers._new()
    assert workers._idle == []
    assert ours.alive()
    ours.end()


PROGRAM = r"""
import json, sys
from mvjax.grading import grade
verdicts = [grade("The answer is 18 dollars.", "18"), grade("(B)", "B"), grade(r"\boxed{\sqrt{12}}", r"2\sqrt{3}")]
heavy = sorted({"jax", "sympy", "math_verify"} & set(sys.modules))
print(json.dumps([[verdict.correct for verdict in verdicts], heavy]))
"""


def test_a_script_needs_no_guard_and_imports_nothing_heavy(tmp_path):
    """Without `if __name__ == "__main__"`, from a folder with a module of a library's name."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=True,
    )
    assert json.loads(done.stdout) == [[True, True, True], []]


def test_the_process_imports_no_jax():
    code = "import sys, mvjax.grading.child, mvjax.grading.expressions; assert 'jax' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=True,
    )


def test_without_math_verify_numbers_are_compared_and_the_rest_says_what_to_install(monkeypatch):
    monkeypatch.setattr(worker.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("mvjax.grading.grader.WORKERS", Workers())
    assert grade("The answer is 18.", "18").correct
    assert not grade("The answer is 1, 2.", "2, 1", "list").correct
    with pytest.raises(UserError, match=r"pip install 'mvjax\[evaluate\]'"):
        grade(r"\boxed{\sqrt{12}}", r"2\sqrt{3}")


@pytest.mark.slow
def test_the_hardest_are_wrong_within_six_seconds():
    grade(r"\boxed{\sqrt{12}}", r"2\sqrt{3}")
    for response in HOSTILE.values():
        start = time.monotonic()
        assert not grade(response, "x+5").correct
        assert time.monotonic() - start < 6
