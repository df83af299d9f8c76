"""The user's mistakes, apart from faults of the program."""

from __future__ import annotations


class UserMistake(Exception):
    """Something that the user can put right: one sentence a line, each with the value, its place and what is allowed.

    It is raised where input is checked. A command says it without a traceback and ends with exit status 2, on every
    rank. Any other error is a fault: it shows its place and its traceback, and the exit status is 1.
    """
