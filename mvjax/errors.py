"""What is said to the user in one line: the exception that means "you can mend this", and the warning."""

import warnings


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do about it, in one line.

    The command line prints it without a traceback and exits with status 2.
    """


class Caution(UserWarning):
    """Input that can be used but may not be what was meant. The command line prints it as one line."""


def caution(message: str) -> None:
    """Warn the user: one line that says what was found, where, and what is done about it."""
    warnings.warn(message, Caution, stacklevel=2)
