"""What a model can learn: a file a task; docs/tasks.md says how to add one."""

from raffm_mpi.tasks.base import Task
from raffm_mpi.tasks.registry import TASKS, inspect, task_of

__all__ = ["TASKS", "Task", "inspect", "task_of"]
