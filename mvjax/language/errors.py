"""The error of a malformed transcript."""

from __future__ import annotations


class TranscriptError(ValueError):
    """A transcript breaks the grammar (see `mvjax.language.grammar`).

    Attributes:
        record: name of the record, "" where unknown.
        index: index of the offending token (or character, when text is parsed).
        expected: what the grammar allows there.
    """

    def __init__(self, index: int, found: str, expected: str, record: str = "", unit: str = "token"):
        self.record, self.index, self.found, self.expected, self.unit = record, index, found, expected, unit
        super().__init__(record, index, found, expected, unit)

    def __str__(self) -> str:
        record = f"{self.record}: " if self.record else ""
        return f"{record}{self.unit} {self.index}: {self.found}; expected {self.expected}"

    def named(self, record: str) -> TranscriptError:
        """The same error, with the record's name."""
        return TranscriptError(self.index, self.found, self.expected, record, self.unit)
