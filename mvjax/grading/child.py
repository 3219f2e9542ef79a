"""The program of a grading process: compares the answers that it reads, one JSON array a line; writes true or false."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys

MEMORY = 4 << 30
"""Bytes of address space at most."""


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no verdict
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's matter
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.setrecursionlimit(2_000)
    import math_verify  # noqa: F401  takes a second: before the first question, not in its time

    from mvjax.grading.compare import equal
    from mvjax.grading.expressions import equal as algebra

    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        given, wanted, kind, seconds = json.loads(line)
        # Ends this process even where the parent cannot.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)
        try:
            verdict = equal(given, wanted, kind, algebra)
        except Exception:  # sympy and the parser raise what they like: then the answers are not equal
            verdict = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(verdict), file=answers, flush=True)


if __name__ == "__main__":
    main()
