"""The base of every error that a user is meant to read."""


class TaperigError(Exception):
    """One sentence for the user: what is wrong, where, and how to mend it.

    The message is shown as it is, without a traceback, so it never contains a key or a PIN.
    """
