"""Multi-label classification: lists or columns of 0 and 1, of texts or images, from the columns to a federation."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from made_sets import png, prepared, settings_for, write, write_tokenizer
from sklearn import metrics as of_sklearn

from raffm_mpi.config import ModelSettings, check_settings
from raffm_mpi.data import Columns, DataInfo, ImageInput, Partition, TextInput, partition, share
from raffm_mpi.errors import UserMistake
from raffm_mpi.learning.evaluation import blank, evaluate, score_clients, score_split
from raffm_mpi.learning.model import load_config, load_model
from raffm_mpi.learning.training import Processor
from raffm_mpi.tasks import TASKS, inspect
from support.final_hashes import hashes_on

TASK = TASKS["multi_label_classification"]
GREY = ImageInput(1, 4, 4, (0.5,), (0.5,))
NAMED = datasets.List(datasets.ClassLabel(names=["x", "y", "z"]))
TEXTS = ["a fine film", "dull", "long and dull film", "film"]
PICTURES = [png(np.full((4, 4), shade, np.uint8)) for shade in (0, 60, 120, 250)]
TRUTH = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
LISTS = [["z", "x"], [], ["y"], ["z", "z"]]
ONE_HOT = {name: [row[number] for row in TRUTH] for number, name in enumerate("xyz")}


def info(num_labels: int = 3, *names: str) -> DataInfo:
    return DataInfo(TASK.name, Columns({"text": "text", "label": "label"}), names or tuple("xyz"[:num_labels]), ())


# Each way in which labels are written: columns, features, options.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "strings": ({"label": LISTS}, {}, {}),
    "class labels": ({"tags": [["xyz".index(n) for n in row] for row in LISTS]}, {"tags": NAMED}, {"label": "tags"}),
    "whole numbers": ({"labels": [[ord(n) for n in row] for row in LISTS]}, {}, {}),
    "columns of 0 and 1": (ONE_HOT, {}, {"label": ["x", "y", "z"]}),
    "true and false": ({n: [bool(v) for v in c] for n, c in ONE_HOT.items()}, {}, {"label": ["x", "y", "z"]}),
    "0.0 and 1.0": ({n: [float(v) for v in c] for n, c in ONE_HOT.items()}, {}, {"label": ["x", "y", "z"]}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("of", ["texts", "images"])
def test_however_labels_are_written_they_are_read_as_0_and_1(way: str, of: str, tmp_path: Path) -> None:
    columns, features, named = WAYS[way]
    if of == "texts":
        columns = {"text": TEXTS, **columns}
    else:
        columns, features = {"picture": PICTURES, **columns}, {"picture": datasets.Image(), **features}
    settings = settings_for(write(tmp_path / "set", "train", columns, **features), tmp_path, columns=named)
    settings = settings.model_copy(update={"validation_fraction": 0.0})
    found = inspect(settings)
    assert found.task == TASK.name and TASK.takes_images(found.columns) == (of == "images")
    assert found.label_names == (tuple("xyz") if way != "whole numbers" else ("120", "121", "122"))
    inputs = TextInput(write_tokenizer(tmp_path / "tok"), 8) if of == "texts" else GREY
    train = prepared(settings, inputs).train
    assert train.labels.dtype == np.uint8 and train.labels.tolist() == TRUTH
    batch = train.batch(np.array([3, 0]))
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [TRUTH[3], TRUTH[0]]
    assert ("pixel_values" in batch) == (of == "images") and ("input_ids" in batch) == (of == "texts")


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "neither 0 nor 1": (
        {**ONE_HOT, "y": [0, 1, 2, 0]},
        {"label": ["x", "y", "z"]},
        "data.path: split 'train', row 2: label 2 is not 0 or 1 (column 'y')",
    ),
    "a mark that is missing": (
        {**ONE_HOT, "z": [0, None, 1, 0]},
        {"label": ["x", "z"]},
        "data.path: split 'train', row 1: label None is not 0 or 1 (column 'z')",
    ),
    "columns of strings": (
        {"x": list("aabb"), "y": [[1], [], [], []]},
        {"label": ["x", "y"]},
        "data.columns.label: column 'y' holds List(Value('int64')); task multi_label_classification allows 0 and 1 or",
    ),
    "a list that is missing": (
        {"label": [["x"], None, [], []]},
        {},
        "data.path: split 'train', row 1: label None is not a list of any of the 1 classes",
    ),
    "a null in a list": (
        {"label": [["x"], [], ["x", None], []]},
        {},
        "data.path: split 'train', row 2: label ['x', None] is not a list of any of the 1 classes",
    ),
    "no label at all": (
        {"label": [[], [], [], []]},
        {},
        "data.columns.label: column 'label' has no label in any training example",
    ),
    "one class an example": (
        {"label": [0, 1, 0, 1]},
        {"label": "label"},
        "data.columns.label: column 'label' holds int64; task multi_label_classification allows lists of class labels,",
    ),
    "one column twice": (
        ONE_HOT,
        {"label": ["x", "x"]},
        "data.columns: label name columns x, x; a column has one role",
    ),
    "a column that is not there": (
        ONE_HOT,
        {"label": ["x", "w"]},
        "data.columns.label: column 'w' is not in the data set; columns: text, x, y, z",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_are_none_are_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    columns, named, sentence = REFUSED[case]
    features = {"label": datasets.List(datasets.Value("string"))} if case == "no label at all" else {}
    folder = write(tmp_path / "set", "train", {"text": TEXTS, **columns}, **features)
    settings = settings_for(folder, tmp_path, columns=named, task=TASK.name, validation_fraction=0.0)
    with pytest.raises(UserMistake, match=f"^{re.escape(sentence)}") as caught:
        prepared(settings, TextInput(write_tokenizer(tmp_path / "tok"), 8))
    assert "\n" not in str(caught.value)


def test_a_class_that_training_never_shows_is_named_by_row(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"text": TEXTS, "label": LISTS})
    write(folder, "test", {"text": TEXTS, "label": [["x"], ["x", "w"], [], []]})
    with pytest.raises(UserMistake, match=r"split 'test', row 1: label \['x', 'w'\] is not a list of any of the 3 cl"):
        prepared(settings_for(folder, tmp_path), TextInput(write_tokenizer(tmp_path / "tok"), 8))


def test_columns_need_names_and_one_input() -> None:
    values = {"output": "o", "model": {"family": "bert"}, "federation": {"num_clients": 2}}
    for given, shown in (([], r"\[\]"), ([1], r"\[1\]"), (3, "3")):
        with pytest.raises(UserMistake, match=rf"label is {shown}; allowed are the name of a column and a list of n"):
            check_settings({**values, "data": {"columns": {"label": given}}}, "a.yaml")
    features = datasets.Features({"a": datasets.Image(), "b": datasets.Value("string"), "label": NAMED})
    with pytest.raises(UserMistake, match=r"^data.columns: image and text are named; multi_label_classification reads"):
        TASK.columns(features, Columns({"image": "a", "text": "b"}))
    with pytest.raises(UserMistake, match=r"^data.columns.label: x, y are a list of columns; text_classification take"):
        TASKS["text_classification"].columns(features, Columns({"label": ("x", "y")}))


HIDDEN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "a missing list": ({"label": LISTS}, {"label": [*LISTS[:3], None]}, {}),
    "empty lists": ({"label": LISTS}, {"label": [[]] * 4}, {"label": datasets.List(datasets.Value("string"))}),
    "lists of -1": ({"label": [[0], [1], [0], []]}, {"label": [[-1]] * 4}, {}),
    "columns of -1": (ONE_HOT, {**ONE_HOT, "y": [-1] * 4}, {}),
    "a missing mark": (ONE_HOT, {**ONE_HOT, "y": [0, 1, 0, None]}, {}),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_a_test_split_that_hides_its_labels_is_left_out(case: str, tmp_path: Path) -> None:
    columns, hidden, features = HIDDEN[case]
    named = {} if "label" in columns else {"label": ["x", "y", "z"]}
    folder = write(tmp_path / "set", "train", {"text": TEXTS, **columns})
    write(folder, "test", {"text": TEXTS, **columns})
    assert len(inspect(settings_for(folder, tmp_path, columns=named)).splits) == 2
    write(folder, "test", {"text": TEXTS, **hidden}, **features)
    assert len(inspect(settings_for(folder, tmp_path, columns=named)).splits) == 1


def test_examples_are_dealt_by_the_label_that_is_rarest_in_training() -> None:
    train = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]], np.uint8)  # 3, 2 and 1 examples of the labels
    others = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], np.uint8)
    assert TASK.classes(train, train).tolist() == [1, 2, 1, 3]
    assert TASK.classes(others, train).tolist() == [2, 1, 0, 3]
    assert TASK.classes(others, np.ones((2, 3), np.uint8)).tolist() == [0, 0, 0, 3]  # the first of equals


def test_clients_of_few_labels_are_scored_on_examples_of_these(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((600, 4)) < (0.5, 0.3, 0.2, 0.1)).astype(np.uint8)
    settings = settings_for("x", tmp_path, partition={"kind": "shards", "shards_per_client": 1}).partition
    dealt = partition(settings, TASK.classes(truth, truth), 10, 0)
    counts = dealt.count_labels(truth, 4)
    assert counts.sum(0).tolist() == truth.sum(0).tolist()
    assert np.array_equal(counts[3], truth[dealt.client(3)].sum(0))
    owners = share(dealt, TASK.classes(truth, truth), TASK.classes(truth, truth), 0)
    for client in range(10):
        held, scored = (set(TASK.classes(truth, truth)[rows]) for rows in (dealt.client(client), owners == client))
        assert scored <= held and len(held) <= 3


def test_labels_of_one_class_each_are_counted_as_before() -> None:
    dealt = Partition(np.array([0, 2, 1]), np.array([0, 2, 2, 3]))
    assert dealt.count_labels(np.array([1, 0, 1]), 2).tolist() == [[0, 2], [0, 0], [1, 0]]


def test_shots_of_every_class_need_one_class_an_example(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "train", {"text": TEXTS, "label": LISTS})
    sentence = "'k_shot' needs examples of one class each, which multi_label_classification does not have; allowed are"
    with pytest.raises(UserMistake, match=f"^data.partition.kind: {sentence} iid, by_column, dirichlet, shards$"):
        inspect(settings_for(folder, tmp_path, partition={"kind": "k_shot"}))
    assert inspect(settings_for(folder, tmp_path, partition={"kind": "dirichlet"})).task == TASK.name


def scores(logits: Any, truth: Any, about: DataInfo | None = None, **options: Any) -> dict[str, float]:
    about = about or info(np.shape(truth)[1])
    rows = np.column_stack([np.arange(len(truth)), np.array(logits, float)])
    split: Any = SimpleNamespace(labels=np.array(truth, np.uint8))
    metrics = options.get("metrics", TASK.metrics(about))
    return TASK.score(about, metrics, rows, split, np.arange(len(truth)))


def test_scores_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        truth, logits = generator.random((30, 5)) < 0.4, generator.normal(size=(30, 5)).round(1)
        found = scores(logits, truth, info(5, *"abcde"))
        assert found["loss"] == 14.5
        assert found["f1_micro"] == pytest.approx(of_sklearn.f1_score(truth, logits > 0, average="micro"))
        assert found["f1_macro"] == pytest.approx(of_sklearn.f1_score(truth, logits > 0, average="macro"))
        mean = of_sklearn.average_precision_score(truth, logits, average="macro")
        assert found["average_precision"] == pytest.approx(mean)
        own = of_sklearn.average_precision_score(truth[:, 3], logits[:, 3])
        assert found["ap/d"] == pytest.approx(own)
    assert list(found) == ["loss", *TASK.metrics(info(5)), *(f"ap/{name}" for name in "abcde")]


@pytest.mark.filterwarnings("error")
def test_labels_that_never_occur_are_left_out_and_what_is_undefined_is_zero() -> None:
    never = scores([[1, -1, -1], [-1, -1, 1]], [[1, 0, 0], [1, 0, 0]])  # y is neither there nor predicted, z predicted
    expected = {"f1_micro": 2 / 4, "f1_macro": (2 / 3 + 0) / 2, "average_precision": 1.0, "ap/x": 1.0}
    assert never == pytest.approx({"loss": 0.5, **expected})
    nothing = scores([[-1.0, -1.0]], [[0, 0]])
    assert nothing == {"loss": 0.0, "f1_micro": 0.0, "f1_macro": 0.0, "average_precision": 0.0}
    broken = scores([[np.nan, 0], [1, np.inf]], [[1, 1], [0, 1]])
    assert all(0 <= value <= 1 for value in broken.values())
    assert list(scores([[1.0]], [[1]], metrics=("f1_micro",))) == ["loss", "f1_micro"]


def test_a_name_too_long_for_the_log_is_its_number() -> None:
    found = scores([[1.0, -1.0]], [[1, 1]], info(2, "x", "a name that the log would have to cut"))
    assert {"ap/0", "ap/1"} <= found.keys() and "ap/x" not in found


SMALL = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 24}
PIXELS = {"image_size": 4, "patch_size": 2, "num_channels": 1}
SAM = {**PIXELS, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "mlp_dim": 24}
SAM |= {"output_channels": 8, "window_size": 2, "global_attn_indexes": [0]}
BERT = {**SMALL, "vocab_size": 12, "max_position_embeddings": 16}
MODELS = {"bert": BERT, "vit": {**SMALL, **PIXELS}, "sam_vision_model": SAM, "t5": {}, "llama": {}, "clip": {}}
MODELS["t5"] = {"vocab_size": 12, "d_model": 12, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 3}
MODELS["t5"] |= {"eos_token_id": 3}
MODELS["llama"] = {**SMALL, "vocab_size": 12, "num_key_value_heads": 3, "head_dim": 4}
MODELS["clip"] = {"vision_config": {**SMALL, **PIXELS}, "text_config": SMALL, "projection_dim": 4}


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("family", MODELS)
def test_the_loss_of_the_predictions_is_the_loss_that_is_trained(family: str, num_labels: int) -> None:
    of_images = family in ("vit", "sam_vision_model", "clip")
    columns = Columns({"image" if of_images else "text": "x", "label": "label"})
    about = DataInfo(TASK.name, columns, tuple("xyz"[:num_labels]), ())
    settings = ModelSettings(family=family, config=MODELS[family])
    model = load_model(settings, load_config(settings, about), about, 0, 0)
    assert model.config.problem_type == "multi_label_classification"
    labels = torch.tensor(TRUTH)[:, :num_labels].float()
    tokens = torch.tensor([[2, 5, 6, 7, 3]] * 4) + torch.arange(4)[:, None] * torch.tensor([0, 1, 1, 1, 0])
    inputs = {"pixel_values": torch.randn(4, 1, 4, 4)} if of_images else {"input_ids": tokens % 12}
    if family == "t5":
        inputs["input_ids"][:, -1] = 3

    class Four:
        labels = np.array(TRUTH, np.uint8)[:, :num_labels]

        def __len__(self) -> int:
            return 4

        def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
            return {**{name: tensor[rows] for name, tensor in inputs.items()}, "labels": labels[rows]}

    split: Any = Four()
    predictions = evaluate(model, split, about, Processor(torch.device("cpu")), 3)
    assert predictions.shape == blank(about, split).shape == (4, 1 + num_labels)
    with torch.no_grad():
        outputs = model(**inputs, labels=labels)
    assert score_split(about, ("f1_micro",), predictions, split)["loss"] == pytest.approx(float(outputs.loss), rel=1e-5)
    assert predictions[:, 1:] == pytest.approx(outputs.logits.double().numpy(), abs=1e-5)
    own = score_clients(about, ("f1_micro",), predictions, split, np.array([5, -1, 5, 5]))
    assert own.keys() == {5} and own[5].keys() == {"loss", "f1_micro"}


def write_federations(folder: Path) -> list[Path]:
    """Texts and images whose labels are in them, as lists and as columns, each in a federation of two rounds."""
    generator = np.random.default_rng(0)
    tokenizer = write_tokenizer(folder / "tokenizer")
    configs = []
    for size, split in ((96, "train"), (40, "test")):
        truth = generator.random((size, 3)) < (0.5, 0.4, 0.2)
        words = [" ".join(["a", *np.array(["fine", "dull", "long"])[row]]) for row in truth]
        pixels = np.repeat(np.repeat(truth[:, None, :].astype(np.uint8) * 200, 4, axis=1), 2, axis=2)[:, :, :4]
        lists = [np.array(["fine", "dull", "long"])[row].tolist() for row in truth]
        marks = {name: truth[:, number].astype(int) for number, name in enumerate(("fine", "dull", "long"))}
        for of, values in (("texts", {"text": words}), ("images", {"image": [png(image) for image in pixels]})):
            features = {"image": datasets.Image()} if of == "images" else {}
            write(folder / f"{of}-lists", split, {**values, "label": lists}, **features)
            write(folder / f"{of}-columns", split, {**values, **marks}, **features)
    for of, family in (("texts", "bert"), ("images", "vit")):
        for way in ("lists", "columns"):
            named = {"label": ["fine", "dull", "long"]} if way == "columns" else {}
            data = {"path": str(folder / f"{of}-{way}"), "cache": str(folder / "cache"), "columns": named}
            data |= {"tokenizer": tokenizer, "max_length": 8} if of == "texts" else {}
            settings = {
                "output": str(folder / f"{of}-{way}-run"),
                "model": {"family": family, "config": MODELS[family]},
                "data": {**data, "partition": {"kind": "dirichlet", "alpha": 0.5, "min_examples": 2}},
                "federation": {"num_clients": 8, "participation": 0.5, "num_rounds": 3},
                "method": {"name": "raffm", "space": {"ffn": [0.5, 1.0]}},
                "training": {"batch_size": 8, "learning_rate": 1.0e-2},
            }
            configs.append(folder / f"{of}-{way}.yaml")
            configs[-1].write_text(yaml.safe_dump(settings))
    return configs


def test_federations_train_to_the_same_bits_on_3_ranks_as_on_1(mpirun: Any, tmp_path: Path) -> None:
    from raffm_mpi.log import open_run

    configs = write_federations(tmp_path)
    hashes = [hashes_on(mpirun, ranks, tmp_path, configs) for ranks in (1, 3)]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 4
    for of in ("texts", "images"):
        for way in ("lists", "columns"):
            run = open_run(tmp_path / f"{of}-{way}-3")
            assert run.status == "finished" and run.attributes["task"] == TASK.name
            assert list(run.attributes["metrics"]) == list(TASK.metrics(info()))
            found = {"f1_micro", "f1_macro", "average_precision", "ap/fine", "ap/dull", "ap/long"}
            assert set(run.metrics["metric"]) == found
            assert run.metrics["value"].between(0, 1).all() and (run.personal["num_clients"] > 1).all()
