"""What a compiler writes to standard error while it works, as part of a plan: XLA returns no warnings."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass

LINE = re.compile(r"(?:[WEF]\d{4} [\d:.]+ +\d+ \S+|[\d-]+ [\d:.]+: [WEF] \S+):\d+\] (.*)")
"""A line of XLA's log, of which the group is the message."""

WHOLE = re.compile(
    r"Involuntary full rematerialization.*? from sharding (\{.*?\}) to (\{.*?\}) .*?"
    r"HLO operation:? %?\S+ = (\w+\[[\d,]*\])(?:.*?op_name=\"([^\"]*)\")?"
)
"""The partitioner found no direct way from one sharding to another."""

LONGEST = 300


@dataclass(frozen=True)
class CompilerWarning:
    """One thing that a compiler warned of."""

    text: str
    """What, in a line."""
    count: int
    """How often."""


def compiler_warnings(messages: Iterable[str]) -> tuple[CompilerWarning, ...]:
    """Messages of the log, those that say the same as one."""
    return tuple(CompilerWarning(text, count) for text, count in Counter(map(in_words, messages)).items())


def in_words(message: str) -> str:
    """A message in a line."""
    if found := WHOLE.search(message):
        before, after, shape, operation = found.groups()
        place = f" at {operation}" if operation else ""
        return (
            f"involuntary full rematerialization{place}: every chip makes the whole of an array of which it has "
            f"{shape}, to get from sharding {before} to {after}"
        )
    return " ".join(message.split())[:LONGEST]


@contextlib.contextmanager
def heard() -> Generator[list[str]]:
    """The messages that XLA logs while this is entered, once it is left; anything else goes to standard error then.

    XLA writes to the process's file descriptor 2, and only what TF_CPP_MIN_LOG_LEVEL (at most 1 here, as JAX sets it)
    lets through when the process first logs anything.
    """
    messages: list[str] = []
    try:
        before = os.dup(2)
    except OSError:  # The caller has closed it: nothing is heard, nor lost.
        yield messages
        return
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield messages
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines():
                if found := LINE.fullmatch(line):
                    messages.append(found[1])
                else:
                    print(line, file=sys.stderr)
