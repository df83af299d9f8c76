"""The user's mistakes, apart from faults of the program; and errors of libraries and the system in words."""

from __future__ import annotations


class UserMistake(Exception):
    """Something that the user can put right: one sentence a line, each with the value, its place and what is allowed.

    It is raised where input is checked. A command says it without a traceback and ends with exit status 2, on every
    rank. Any other error is a fault: it shows its place and its traceback, and the exit status is 1.
    """

    exit_status = 2


def sentence(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing.

    >>> sentence(ValueError("some   words")), sentence(MemoryError())
    ('some words', 'MemoryError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def reason(error: BaseException) -> str:
    """What an error says beside the path that it is about, for a sentence that names the path itself.

    >>> reason(OSError(28, "No space left on device", "run.h5")), reason(ValueError("not UTF-8"))
    ('No space left on device', 'not UTF-8')
    """
    return (error.strerror if isinstance(error, OSError) else None) or sentence(error)
