"""`mvjax curate`: make parallel training data, and look after the stores that it is made in."""

from __future__ import annotations

import importlib
import sqlite3
import sys

from mvjax.cli.options import parse
from mvjax.errors import UserError

VERBS = {
    "llm": ("llm", "Llm", "run", "reasoning traces of any kind, by an OpenAI-compatible chat endpoint"),
    "gsm8k": ("gsm8k", "Gsm8k", "run", "GSM8K's human solutions, without an LLM"),
    "synthetic": ("synthetic", "Synthetic", "run", "items of a synthetic family with dials"),
    "status": ("status", "Status", "run", "how a store's problems ended and why, and what their calls took"),
    "show": ("show", "Show", "run", "one problem's stages side by side, or as a page"),
    "export": ("export", "Export", "run", "write a store's records for mvjax train"),
    "analyze": ("analyze", "Analyze", "run_analyze", "how much of given traces is parallelisable"),
    "probe": ("analyze", "Probe", "run_probe", "whether a model's hidden states predict a parallel part"),
}
"""Sub-verb -> module `mvjax.cli.curate_...`, dataclass of its options, what runs it, one line of help."""


def usage() -> str:
    """What there is."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, (*_, what) in VERBS.items())
    return (
        "Make parallel training data.\n\n"
        f"usage: mvjax curate VERB [options]      mvjax curate VERB --help says more\n\n{verbs}"
    )


def main(argv: list[str]) -> int:
    """Run one sub-verb; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        raise UserError(f"curate: there is no {verb!r}; mvjax curate --help lists what there is")
    module, options, runs, _ = VERBS[verb]
    module = importlib.import_module(f"mvjax.cli.curate_{module}")
    command = parse(getattr(module, options), rest, f"curate {verb}")
    try:
        return getattr(module, runs)(command)
    except sqlite3.Error as error:
        raise UserError(f"the store cannot be used: {error}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
