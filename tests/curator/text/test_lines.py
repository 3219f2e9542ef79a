"""Readers that are made of readers of lines."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mvjax.curator.text.lines import LONGEST, by_line


def reader():
    """A reader of words, and how often it has read each line."""
    read = Counter()

    @by_line
    def words(line: str) -> frozenset[str]:
        read[line] += 1
        return frozenset(line.split())

    return words, read


@given(st.lists(st.text(alphabet="ab ", max_size=12)))
def test_all_lines_are_read(lines):
    words, _ = reader()
    assert words("\n".join(lines)) == {word for line in lines for word in line.split()}


def test_no_line_is_read_twice():
    words, read = reader()
    assert words("a b\nc") == {"a", "b", "c"}
    assert words("a b\nc\nd a") == {"a", "b", "c", "d"}
    assert read == {"a b": 1, "c": 1, "d a": 1}


def test_long_lines_are_not_kept():
    words, read = reader()
    long = "a" * (LONGEST + 1)
    assert words(f"{long}\nb") == words(f"{long}\nb") == {long, "b"}
    assert read == {long: 2, "b": 1}
