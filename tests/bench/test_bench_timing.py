"""Repetitions in turn, spreads, and the report that holds them."""

import io
import json

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from mvjax.bench.report import Bar, Report
from mvjax.bench.timing import CompilationCounter, Spread, alternate, number, ratios


def test_spread():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert str(Spread(2.0, 1.0, 3.5, 3)) == "2 (1-3.5)"
    assert ratios([2.0, 9.0], [1.0, 3.0]) == Spread(2.5, 2.0, 3.0, 2)
    assert [number(value) for value in (1234.6, 99.94, 0.01234)] == ["1,235", "99.9", "0.0123"]


def test_sides_take_turns_in_changing_order_and_warm_ups_do_not_count():
    calls = []

    def side(name):
        return lambda: calls.append(name) or len(calls)

    results = alternate({"a": side("a"), "b": side("b")}, 3, warm=1)
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab"
    assert results == {"a": [3, 6, 7], "b": [4, 5, 8]}


def test_compilations_are_counted():
    with CompilationCounter().counting() as counter:
        once = jax.jit(lambda x: x * 3 + 1)
        once(jnp.arange(5.0)).block_until_ready()
        first = counter.count
        once(jnp.arange(5.0)).block_until_ready()
        assert counter.count == first > 0
    jax.jit(lambda x: x * 5 - 1)(jnp.arange(6.0)).block_until_ready()
    assert counter.count == first


@pytest.mark.parametrize(
    ("value", "at_most", "met"),
    [
        (Spread(1.1, 0.9, 1.9, 3), True, True),
        (1.3, True, False),
        (1.3, False, True),
        (Spread(1, 1, 2, 2), False, False),
    ],
)
def test_bars(value, at_most, met):
    assert Bar("x", value, 1.2, at_most).met is met


def test_report(tmp_path):
    report = Report("toy", {"output": tmp_path, "rows": (1, 2)})
    report.rows += [{"rows": 1, "ms": Spread(1.0, 0.5, 2.0, 3)}, {"rows": 2, "same": True}]
    report.bars.append(Bar("ms", 3.0, 2.0))
    report.notes.append("a [note]")
    data = json.loads(report.save(tmp_path / "new").read_text())
    assert data["rows"][0]["ms"] == {"median": 1.0, "low": 0.5, "high": 2.0, "count": 3}
    assert data["config"] == {"output": str(tmp_path), "rows": [1, 2]}
    assert data["bars"] == [{"what": "ms", "value": 3.0, "limit": 2.0, "at_most": True, "met": False}]
    assert data["machine"]["cores"] >= 1
    assert "jax" in data["machine"]["packages"]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    for part in ("1 (0.5-2)", "yes", "at most 2", "missed", "a [note]"):
        assert part in text
