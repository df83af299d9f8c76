"""Text classification: a text or a pair of texts, and its class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from raffm_mpi.data import Columns, DataInfo
from raffm_mpi.data.columns import DISCRETE, label_columns
from raffm_mpi.tasks.base import TEXTS, Role, find_label, find_pair
from raffm_mpi.tasks.classification import Classification

if TYPE_CHECKING:
    from datasets import Features

_METRICS_OF_GLUE = {
    "cola": ("matthews",),
    **dict.fromkeys(("mrpc", "qqp"), ("accuracy", "f1")),
    **dict.fromkeys(("sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli"), ("accuracy",)),
}


class TextClassification(Classification):
    """A column of texts or two, and one of labels."""

    name = "text_classification"
    roles: ClassVar[Mapping[str, Role]] = {**TEXTS, "label": Role(DISCRETE)}

    def claims(self, features: Features, named: Columns) -> bool:
        """A label is named, or one column may be it."""
        return "label" in named.roles or len(label_columns(features, named.group)) == 1

    def find(self, features: Features, named: Columns) -> Mapping[str, str | None]:
        label = find_label(features, named)
        return {"label": label, **find_pair(features, named, label)}

    def metrics(self, info: DataInfo, subset: str | None = None) -> tuple[str, ...]:
        """GLUE's own (Wang et al., 2019) of its subsets. ``f1`` is of class 1, as GLUE has it for two classes."""
        usual = ("accuracy", "f1" if info.num_classes == 2 else "f1_macro", "matthews")
        return _METRICS_OF_GLUE.get(subset or "", usual)
