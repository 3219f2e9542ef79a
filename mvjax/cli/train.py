"""`mvjax train CONFIG.py`: fine-tune a model into a Multiverse model."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mvjax.errors import UserError

EXIT_INTERRUPTED = 130

USAGE = """usage: mvjax train CONFIG.py [--restart] [--SECTION.FIELD VALUE ...]

Fine-tunes the model of a configuration (a preset of configs/, or a Python file with `config = TrainConfig(...)`).
The run lives in OUTPUT.DIRECTORY/NAME; a second start resumes it from its newest checkpoint, and so does a start after
Ctrl-C. --restart begins again. Every field of the configuration can be given on the command line:

"""


def main(argv: list[str]) -> int:
    """Run the verb; returns 0, or 130 (Ctrl-C, `stop_after`) and 75 (SIGTERM) where it was interrupted and saved."""
    from mvjax.training.config_file import describe_fields, load_config, override

    if not argv or {"-h", "--help"} & set(argv):
        print(USAGE, end="")
        config = load_config(Path(argv[0])) if argv and not argv[0].startswith("-") else None
        print(describe_fields(config))
        return 0
    if argv[0].startswith("-"):
        raise UserError(f"train: the configuration comes first, as in `mvjax train configs/demo.py {argv[0]} ...`")
    restart = "--restart" in argv
    config = override(load_config(Path(argv[0])), [word for word in argv[1:] if word != "--restart"]).validate()

    from mvjax.training import distributed

    distributed.start()
    from mvjax.training.bucket_directory import StorageAway
    from mvjax.training.train import train

    try:
        result = train(config, restart=restart)
    except StorageAway as error:
        print(f"error: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(distributed.EXIT_AGAIN)  # threads that write to the bucket would be waited for
    if result.finished:
        return 0
    return distributed.EXIT_AGAIN if result.stopped_by == signal.SIGTERM else EXIT_INTERRUPTED
