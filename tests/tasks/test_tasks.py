"""What holds for every task of the registry, and for the page that says how to add one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from raffm_mpi.config import DataSettings
from raffm_mpi.data import Columns, DataInfo
from raffm_mpi.errors import UserMistake
from raffm_mpi.log import LOWER_IS_BETTER
from raffm_mpi.tasks import TASKS, inspect, task_of
from raffm_mpi.tasks.metrics import checked
from raffm_mpi.tasks.question_answering import QuestionReader

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
KINDS = {"iid", "by_column", "dirichlet", "shards", "k_shot"}
B, L, K = 5, 7, 3


def info(name: str) -> DataInfo:
    has_classes = "classification" in name
    return DataInfo(name, Columns(), tuple("xyz") if has_classes else (), ())


class Spans(QuestionReader):
    def __init__(self) -> None:
        pass

    def spans(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([np.arange(L), np.arange(L) + 1], axis=1)[None].repeat(len(rows), axis=0)


def made(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """Outputs of a head, and the batch that they are of; a task that is not here takes one class an example."""
    torch.manual_seed(0)
    tokens = torch.randint(K, (B, L))
    outputs = SimpleNamespace(logits=torch.randn(B, K), start_logits=torch.randn(B, L), end_logits=torch.randn(B, L))
    batch = {"labels": torch.randint(K, (B,)), "start_positions": tokens[:, 0], "end_positions": tokens[:, 1]}
    others = {
        "multi_label_classification": (torch.randn(B, K), torch.randint(2, (B, K)).float()),
        "regression": (torch.randn(B, 1), torch.randn(B)),
        "seq2seq": (torch.randn(B, L, K), tokens),
        "causal_lm": (torch.randn(B, L, K), tokens),
    }
    if name in others:
        outputs.logits, batch["labels"] = others[name]
    return outputs, batch


@pytest.mark.parametrize("name", TASKS)
def test_predictions_are_as_wide_as_the_task_says(name: str) -> None:
    task, about, rows = TASKS[name], info(name), np.arange(B)
    outputs, batch = made(name)
    split: Any = SimpleNamespace(reader=Spans(), rows=rows)
    predictions = task.predict(outputs, batch, split, rows)
    assert predictions.dtype == np.float64 and predictions.shape == (B, len(task.predictions(about)))
    assert len(set(task.predictions(about))) == len(task.predictions(about))
    assert np.isfinite(predictions).all() and (predictions[:, 0] > 0).all()
    alone = [task.predict(*part(name, row), split, rows[row : row + 1])[0] for row in range(B)]
    assert np.allclose(alone, predictions, rtol=1e-6)  # a row is of its example alone


def part(name: str, row: int) -> tuple[Any, dict[str, torch.Tensor]]:
    outputs, batch = made(name)
    one = {key: tensor[row : row + 1] for key, tensor in vars(outputs).items()}
    return SimpleNamespace(**one), {key: tensor[row : row + 1] for key, tensor in batch.items()}


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_the_loss_and_then_the_metrics_whichever_rows_are_asked(name: str) -> None:
    task, about = TASKS[name], info(name)
    outputs, batch = made(name)
    truth = SimpleNamespace(example=np.arange(B), contexts=["a b c d"] * B, answers=[["b"], []] + [["c"]] * (B - 2))
    split: Any = SimpleNamespace(
        reader=Spans(), rows=np.arange(B), labels=batch["labels"].double().numpy(), truth=truth
    )
    predictions = task.predict(outputs, batch, split, np.arange(B))
    for metrics in (task.metrics(about), task.metrics(about)[:1]):
        for rows in (np.arange(B), np.array([3, 1])):
            found = task.score(about, metrics, predictions[rows], split, rows)
            assert list(found)[: 1 + len(metrics)] == ["loss", *metrics]
            assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    with pytest.raises(ValueError, match=r"\(0, "):
        task.score(about, (), predictions[:0], split, np.arange(0))


@pytest.mark.parametrize("name", TASKS)
def test_metrics_have_names_of_their_own_that_the_log_takes(name: str) -> None:
    for num_classes in (2, 3):
        about = replace(info(name), label_names=tuple("xyz"[:num_classes]) if info(name).label_names else ())
        metrics = TASKS[name].metrics(about)
        assert metrics and len(set(metrics)) == len(metrics) and "loss" not in metrics
        assert all(len(metric.encode()) <= 32 for metric in metrics)


def test_every_metric_that_is_better_when_lower_is_some_tasks() -> None:
    assert set(LOWER_IS_BETTER) <= {metric for name, task in TASKS.items() for metric in task.metrics(info(name))}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_its_file_its_rows_and_partitions_that_there_are(name: str) -> None:
    task = TASKS[name]
    assert task.name == name and type(task).__module__ == f"raffm_mpi.tasks.{name}"
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` | `{name}.py` | ")]
    assert all(f"`{role}`" in row for role in task.roles)
    assert f"`{name}`" in (ROOT / "README.md").read_text()
    assert {"iid", "by_column"} <= set(task.partitions) <= KINDS
    import transformers

    assert hasattr(transformers, f"AutoModelFor{task.head(Columns())}")
    assert (ROOT / "tests" / "tasks" / f"test_{name}.py").exists()


def test_the_worked_example_of_the_page_is_the_task_as_it_stands() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    package = ROOT / "raffm_mpi" / "tasks"
    assert (package / "multi_label_classification.py").read_text(encoding="utf-8") in blocks
    (line,) = re.findall(r"```\n( +\w+\(\),\n)```", PAGE)
    assert line in (package / "registry.py").read_text(encoding="utf-8")


def test_every_hook_is_on_the_page() -> None:
    from raffm_mpi.data import Format
    from raffm_mpi.tasks import Task

    hooks = PAGE[PAGE.index("## The hooks") : PAGE.index("## Multi-label")]
    said = set(re.findall(r"^\| `(\w+)` \|", hooks, re.MULTILINE))
    defined = {name for kind in (Task, Format) for name in vars(kind) if not name.startswith("_")} - {"columns"}
    assert said == defined | {"name", "roles"}


def test_no_other_room_names_a_task() -> None:
    package = ROOT / "raffm_mpi"
    pattern = re.compile(rf"task\w*(\.name)? [!=]= ['\"]|['\"]({'|'.join(TASKS)})['\"]")
    files = [path for path in package.rglob("*.py") if path.parent.name != "tasks"]
    found = {str(path.relative_to(package)) for path in files if pattern.search(path.read_text(encoding="utf-8"))}
    assert found <= {"doctor/examine.py"}  # which counts a model without a data set


def test_an_unknown_task_or_role_is_named_with_what_there_is() -> None:
    with pytest.raises(UserMistake, match=r"^data\.task: unknown task 'regresion', did you mean 'regression'\?; k"):
        task_of("regresion")
    with pytest.raises(UserMistake, match=r"^data\.task: unknown task 'ner'; known: question_answering, "):
        inspect(DataSettings(task="ner"))
    with pytest.raises(UserMistake, match=r"^data\.columns\.txt: unknown role, did you mean 'text'\?; allowed: quest"):
        inspect(DataSettings(columns={"txt": "x"}))
    with pytest.raises(UserMistake, match=r"^data\.columns\.labl: unknown role, did you mean 'label'\?; allowed: ima"):
        inspect(DataSettings(task="image_classification", columns={"labl": "x"}))


def test_null_columns_of_earlier_releases_are_inferred() -> None:
    settings = DataSettings.model_validate({"columns": {"image": None, "text": None}})
    assert settings.columns == {} and inspect(settings).task == "image_classification"


def test_rows_of_another_width_are_a_fault() -> None:
    with pytest.raises(ValueError, match=r"predictions of x have shape \(2, 3\); expected \[N > 0, 2\]: loss, class"):
        checked(np.zeros((2, 3)), ("loss", "class"), "x")


def test_a_list_of_columns_is_inferred_as_several_labels() -> None:
    value = datasets.Value("int64")
    features = datasets.Features({"text": datasets.Value("string"), "a": value, "b": value})
    found = [name for name, task in TASKS.items() if task.claims(features, Columns({"label": ("a", "b")}))]
    assert found[0] == "multi_label_classification"
