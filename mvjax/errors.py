"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do about it, in one line.

    The command line prints it without a traceback and exits with status 2.
    """
