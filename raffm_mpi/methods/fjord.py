"""FjORD: ordered dropout.

Horváth et al., FjORD: Fair and Accurate Federated Learning under Heterogeneous Targets with Ordered Dropout, NeurIPS
2021.
"""

from __future__ import annotations

from collections.abc import Sequence

from raffm_mpi.elastic.labels import Selection
from raffm_mpi.learning.objective import Nested
from raffm_mpi.methods.budget import Budgeted, equal_widths


class FjORD(Budgeted):
    """Ordered dropout: at each step a client draws one of the widths up to its own, and trains that prefix alone.

    With ``distillation`` above 0 the client's own width is trained at each step, too, and teaches the drawn one.
    """

    def path(self) -> Sequence[Selection]:
        return equal_widths(self.layout, self.settings.axes)

    def nested(self, round_number: int, client: int, selection: Selection) -> Nested | None:
        alpha = self.settings.distillation
        drawn = self.budgets.within(client)
        return Nested(drawn=tuple(drawn), own=alpha > 0, distillation=alpha, temperature=self.settings.temperature)
