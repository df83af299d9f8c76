"""The population and the rounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raffm_mpi.config.base import Fraction, PositiveInt, SettingsGroup


class FederationSettings(SettingsGroup):
    """How many clients there are, how many of them train in a round, and how many rounds there are."""

    num_clients: PositiveInt | None = None
    """Clients in all; null: one for each value of the column of data.partition kind by_column."""
    participation: Fraction = 0.1
    """The share of the clients that a round's cohort has."""
    num_rounds: PositiveInt = 10
    """Communication rounds."""
    min_trained: PositiveInt = 1
    """Updates that a round needs; with fewer it is repeated with another cohort."""
    max_repeats: Annotated[int, Field(ge=0)] = 3
    """How often a round is repeated before the run stops."""
