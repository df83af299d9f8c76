"""The tasks by their names, and the task of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raffm_mpi import data
from raffm_mpi.config import DataSettings, suggestion
from raffm_mpi.data.columns import DISCRETE, Columns, check_type, label_columns, only
from raffm_mpi.errors import UserMistake
from raffm_mpi.tasks.base import Task
from raffm_mpi.tasks.causal_lm import CausalLM
from raffm_mpi.tasks.image_classification import ImageClassification
from raffm_mpi.tasks.multi_label_classification import MultiLabelClassification
from raffm_mpi.tasks.question_answering import QuestionAnswering
from raffm_mpi.tasks.regression import Regression
from raffm_mpi.tasks.seq2seq import Seq2Seq
from raffm_mpi.tasks.text_classification import TextClassification

if TYPE_CHECKING:
    from datasets import Features

# In the order in which they are asked whether a data set is theirs: special cases first.
_TASKS: tuple[Task, ...] = (
    QuestionAnswering(),
    MultiLabelClassification(),
    ImageClassification(),
    Seq2Seq(),
    CausalLM(),
    Regression(),
    TextClassification(),
)
TASKS = {task.name: task for task in _TASKS}


def task_of(name: str) -> Task:
    """The task of a name; raises UserMistake with the known ones."""
    if name not in TASKS:
        raise UserMistake(f"data.task: unknown task '{name}'{suggestion(name, TASKS)}; known: {', '.join(TASKS)}")
    return TASKS[name]


def inspect(settings: DataSettings) -> data.DataInfo:
    """Find the task, columns, classes and splits of ``data.path`` without decoding an example.

    Raises UserMistake with one sentence when something is missing, ambiguous, of the wrong type or not of the task.
    """
    wanted = task_of(settings.task) if settings.task else None
    named = _named(settings, [wanted] if wanted else list(TASKS.values()))
    source = data.load(settings.path, settings.subset)
    train = data.training_split(source, settings)
    _check_named(train.features, named)
    task = wanted or infer(train.features, named)
    columns = task.columns(train.features, named)
    kind = settings.partition.kind
    if kind not in task.partitions:
        raise UserMistake(
            f"data.partition.kind: '{kind}' needs examples of one class each, which {task.name} does not have; "
            f"allowed are {', '.join(task.partitions)}"
        )
    names = task.label_names(train, columns)
    splits = data.find_splits(source, settings, lambda split: task.is_withheld(split, columns, names))
    return data.DataInfo(task.name, columns, names, splits)


def infer(features: Features, named: Columns) -> Task:
    """The first task that claims a data set; raises UserMistake where none does, which is for want of a label."""
    for task in TASKS.values():
        if task.claims(features, named):
            return task
    remedy = f"; set data.task: {CausalLM.name} for texts without one"
    only("label", label_columns(features, named.group), features, remedy)
    raise AssertionError(f"no task claims a data set with one label; columns: {', '.join(features)}")


def _named(settings: DataSettings, tasks: Sequence[Task]) -> Columns:
    """The columns that the settings name; raises UserMistake for a role that none of some tasks has."""
    known = list(dict.fromkeys(role for task in tasks for role in task.roles))
    every = {role for task in TASKS.values() for role in task.roles}
    for role in settings.columns:
        if role not in every:
            near = suggestion(role, known)
            raise UserMistake(f"data.columns.{role}: unknown role{near}; allowed: {', '.join(known)}")
    roles = {role: name if isinstance(name, str) else tuple(name) for role, name in settings.columns.items()}
    return Columns(roles, settings.partition.client_column)


def _check_named(features: Features, named: Columns) -> None:
    places = [(f"columns.{role}", name) for role in named.roles for name in named.every(role)]
    if named.group is not None:
        places.append(("partition.column", named.group))
    for place, name in places:
        if name not in features:
            raise UserMistake(f"data.{place}: column '{name}' is not in the data set; columns: {', '.join(features)}")
    if named.group is not None:
        check_type(features, "partition.column", named.group, DISCRETE)
    names = [name for role in named.roles for name in named.every(role)]
    if len(set(names)) < len(names):
        raise UserMistake(
            f"data.columns: {', '.join(named.roles)} name columns {', '.join(names)}; a column has one role"
        )
