"""The ranks of clients' adapters: a matter of the client's device, whatever the method chooses of the backbone."""

from __future__ import annotations

from dataclasses import dataclass

from raffm_mpi.config import LoRASettings
from raffm_mpi.elastic.adapters import rank_dimensions
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.seeds import generator


@dataclass(frozen=True)
class AdapterRanks:
    """The ranks that clients have, of which each keeps one over all rounds; one rank for all its adapters."""

    dimensions: tuple[str, ...]
    full: int
    choices: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, settings: LoRASettings | None, layout: ModelLayout, seed: int) -> AdapterRanks:
        """The ranks that the settings describe for a model; no choice where all are alike, or it has no adapters."""
        if settings is None:
            return cls((), 0, (), seed)
        return cls(tuple(rank_dimensions(layout)), settings.rank, tuple(settings.ranks), seed)

    def of_client(self, client: int) -> Selection:
        """The leading part of every adapter that a client holds; nothing is left out at the full rank."""
        if not self.choices:
            return FULL
        return self._leading(self.choices[generator(self.seed, "rank", client).integers(len(self.choices))])

    def smallest(self) -> Selection:
        """What the clients of the smallest rank hold."""
        return self._leading(min(self.choices, default=self.full))

    def _leading(self, rank: int) -> Selection:
        return dict.fromkeys(self.dimensions, rank) if rank < self.full else FULL
