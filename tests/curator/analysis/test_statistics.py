"""Statistics against counts made by hand."""

from collections import Counter

import pytest
from rich.console import Console

from mvjax.curator.analysis.statistics import collect, table
from mvjax.curator.sources.synthetic import SyntheticConfig, generate
from mvjax.data.records import Record
from mvjax.language import TranscriptError

RESPONSE = (
    "Start.\nLet's think in parallel.\n<Parallel>\n<Goal>\n<Outline>\n1: a\n</Outline>\n<Outline>\n2: b\n</Outline>\n"
    "</Goal>\n<Path>\n1: one two three\n</Path>\n<Path>\n2: one\n</Path>\n<Conclusion>\nboth\n</Conclusion>\n"
    "</Parallel>\nEnd."
)


def record(response, name="r", ideal=2.0):
    return Record(name, ({"role": "user", "content": "?"},), response, "x", "1", "test", {"ideal_parallel": ideal})


def test_one_block_by_hand():
    result = collect([record(RESPONSE), record("only text", ideal=1.0)], Counter({"why": 3}))
    assert (result.records, result.parallel, result.sequential) == (2, 1, 1)
    assert result.paths_per_block == {2: 1}
    assert result.nesting == {0: 1}
    assert (result.blocks, result.nested_blocks) == (1, 0)
    # <Path> newline "1:" one two three newline </Path>: 8 pieces; the other path has 6.
    assert result.path_length == {"mean": 7.0, "median": 7.0, "max": 8}
    # The second path and its newline run beside the first.
    length = result.length["max"]
    assert result.degree["max"] == pytest.approx(length / (length - 7), abs=1e-3)
    assert result.ideal == {"mean": 1.5, "max": 2.0}
    assert (result.rejected, result.reasons) == (3, {"why": 3})


def test_a_malformed_response_shows():
    with pytest.raises(TranscriptError, match="broken"):
        collect([record(RESPONSE.replace("</Path>", "", 1), name="broken")])


def test_the_table_has_every_reason():
    console = Console(record=True, width=120, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(collect(generate(SyntheticConfig(), 5), Counter({"too odd": 2})), "title"))
    text = console.export_text()
    assert "too odd" in text
    assert "paths per block" in text
