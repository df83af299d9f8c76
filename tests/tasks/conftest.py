"""The tests of tasks leave nothing in the home folder."""

from made_sets import no_traces_at_home

__all__ = ["no_traces_at_home"]
