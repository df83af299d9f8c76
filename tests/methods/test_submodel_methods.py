"""The sub-model methods of the literature: what a client holds, by hand."""

from __future__ import annotations

import copy
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForSequenceClassification, ViTConfig
from transformers import ViTForImageClassification as ViT

from raffm_mpi.aggregation.exact import ExactSum, apply_update
from raffm_mpi.config import METHOD_SETTINGS, CustomSettings, RaFFMSettings
from raffm_mpi.elastic.adapters import whole_layout
from raffm_mpi.elastic.cost import cost
from raffm_mpi.elastic.factors import factor_pairs
from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.labels import DENSITY, DEPTH, FULL, union, within
from raffm_mpi.errors import UserMistake
from raffm_mpi.log import open_run
from raffm_mpi.methods import METHODS, Method, check_method, make_method, prepare_model
from raffm_mpi.methods.fedrolex import window
from support import tiny
from support.small_federation import run_alone, write_config

SIZES = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48, "num_labels": 3}
COHORT = [7, 3, 11, 2, 9]
NAMES = [name for name in METHOD_SETTINGS if ":" not in name]


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    vit = ViT(ViTConfig(**{**tiny.VIT, **SIZES}))
    bert = BertForSequenceClassification(BertConfig(**{**tiny.BERT, **SIZES}))
    return {"vit": vit.eval(), "bert": bert.eval()}


@pytest.fixture(scope="module")
def make(models):
    def build(name, family="vit", seed=0, **settings):
        layout = whole_layout(prepare_model(METHOD_SETTINGS[name](**settings), copy.deepcopy(models[family])))
        lengths = {"num_tokens": 9.0} if family == "bert" else {}
        return make_method(METHOD_SETTINGS[name](**settings), layout, seed, partial(cost, layout, **lengths))

    return build


def drawn(*shares):
    return {"kind": "drawn", "shares": list(shares)}


def test_every_method_of_the_settings_has_a_class():
    assert set(METHODS) == {METHOD_SETTINGS[name] for name in NAMES}


@pytest.mark.parametrize("name", [name for name in NAMES if "budget" in METHOD_SETTINGS[name].model_fields])
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_a_budget_is_kept_over_the_rounds_and_nearly_used(make, name, family):
    budgets = [1.0, 0.8, 0.6]
    extra = {"space": {"residual": [0.25, 0.5, 0.75, 1.0]}} if name == "raffm" else {}
    method = make(name, family, budget=drawn(*budgets), **extra)
    clients = list(range(40))
    first, later = (
        [method.price(selection).parameters / method.price(FULL).parameters for selection in selections]
        for selections in (method.selections(0, clients), method.selections(5, clients))
    )
    assert first == later
    distinct = sorted(set(first), reverse=True)
    assert len(distinct) == 3
    assert all(share <= budget for share, budget in zip(distinct, budgets, strict=True))
    assert distinct[0] == 1.0
    assert method.ladder()[0] == FULL
    parameters = [method.price(selection).parameters for selection in method.ladder()]
    assert parameters == sorted(parameters, reverse=True)
    assert len(parameters) == 3


def test_a_window_of_fedrolex_moves_by_one_and_wraps_around():
    assert [window(number, 3, 5).tolist() for number in range(5)] == [
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [0, 3, 4],
        [0, 1, 4],
    ]


def test_fedrolex_holds_every_index_equally_often_over_as_many_rounds_as_the_axis_is_long(make):
    method = make("fedrolex", budget=drawn(0.75), axes=["ffn"])
    held = np.zeros(48)
    for number in range(48):
        (selection,) = method.selections(number, [0])
        held[selection["ffn[1]"].numpy()] += 1
    assert held.min() == held.max() > 0


def test_heterofl_keeps_the_same_leading_share_of_every_axis(make):
    selection = make("heterofl", budget=drawn(0.5)).selections(3, [0])[0]
    shares = {size / {"ffn": 48, "head": 4, "residual": 24}[d.partition("[")[0]] for d, size in selection.items()}
    assert all(isinstance(size, int) for size in selection.values())
    assert max(shares) - min(shares) <= 1 / 4  # a head is a quarter of the heads
    assert {d.partition("[")[0] for d in selection} == {"ffn", "head", "residual"}


def test_fjord_draws_the_widths_up_to_the_clients_own(make):
    method = make("fjord", budget=drawn(1.0, 0.7, 0.4))
    largest = max(range(20), key=method.budgets.place)
    smallest = min(range(20), key=method.budgets.place)
    assert len(method.nested(0, largest, FULL).drawn) == 3
    own = method.selections(0, [smallest])[0]
    nested = method.nested(0, smallest, own)
    assert nested.drawn == (own,)
    assert not nested.own
    taught = make("fjord", budget=drawn(1.0, 0.7, 0.4), distillation=0.5).nested(0, largest, FULL)
    assert taught.own and taught.distillation == 0.5
    assert [often for _, often in taught.trained(FULL)] == [1 / 3] * 3 + [1.0]


def test_depthfl_holds_the_first_layers_and_refuses_two_stacks(make):
    method = make("depthfl", budget=drawn(1.0, 0.8, 0.6))
    depths = {selection.get(DEPTH, 3) for selection in method.selections(0, range(30))}
    assert depths == {3, 2, 1}
    config = T5Config(**tiny.T5, num_labels=2)
    with pytest.raises(UserMistake, match=r"method.depth: family 't5' has none; known: "):
        check_method(METHOD_SETTINGS["depthfl"](), layout_of(T5ForSequenceClassification(config)))


def test_fiarse_holds_the_largest_entries_of_every_matrix(make):
    method = make("fiarse", budget=drawn(0.3))
    (selection,) = method.selections(0, [0])
    assert set(selection) == {DENSITY}
    found = method.price(selection).parameters / method.price(FULL).parameters
    assert 0.298 <= found <= 0.3


def test_prunefl_gives_all_clients_one_sparse_model_between_dense_rounds(make):
    method = make("prunefl", density=0.25, reconfigure_every=3)
    for number in range(7):
        selections = method.selections(number, range(4))
        assert selections == [FULL if number % 3 == 0 else {DENSITY: 250}] * 4
    assert method.ladder() == [FULL, {DENSITY: 250}]


def test_only_who_holds_the_full_model_distils_in_raffm(make):
    method = make("raffm", distillation=0.5)
    full, smallest, *_ = method.selections(0, COHORT)
    nested = method.nested(0, COHORT[0], full)
    assert nested.own and nested.always == (method.space.smallest(),)
    assert method.nested(0, COHORT[1], smallest) is None
    assert make("raffm").nested(0, COHORT[0], full) is None


def test_first_order_salience_is_weight_times_update(make, models):
    method = make("raffm", salience="first_order")
    tensors = {name: parameter.detach() for name, parameter in models["vit"].named_parameters()}
    update = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    layout = method.layout
    name = next(name for name, label in layout.labels.items() if label == (("ffn[1]",), ("residual",)))
    update[name][5] = 1.0
    assert method.needs_update
    assert method.order(tensors, update)["ffn[1]"][0] == 5
    assert method.order(tensors)["ffn[1]"].tolist() == make("raffm").order(tensors)["ffn[1]"].tolist()


def test_prism_draws_principal_components_more_often(make, models):
    method = make("prism", budget=drawn(0.5))
    model = prepare_model(METHOD_SETTINGS["prism"](), copy.deepcopy(models["vit"]))
    method.begin({name: parameter.detach() for name, parameter in model.named_parameters()})
    rank = next(dimension for dimension in method.layout.sizes if dimension.startswith("rank["))
    held = np.zeros(method.layout.sizes[rank])
    for number in range(200):
        (selection,) = method.selections(number, [0])
        held[selection[rank].numpy()] += 1
    third = len(held) // 3
    assert held[:third].mean() > 1.3 * held[-third:].mean()
    assert held.min() > 0


def test_prism_decomposes_what_was_aggregated_again(make, models):
    method = make("prism", budget=drawn(0.5))
    tensors = {name: torch.randn(shape) for name, shape in method.layout.shapes.items()}
    up, down, _ = factor_pairs(method.layout)[0]
    product = tensors[up] @ tensors[down]
    method.rewrite(tensors)
    torch.testing.assert_close(tensors[up] @ tensors[down], product, atol=1e-4, rtol=1e-4)
    gram = tensors[up].T @ tensors[up]
    torch.testing.assert_close(gram, torch.diag(gram.diag()), atol=1e-3, rtol=1e-3)
    assert (gram.diag().diff() <= 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["vit", "bert"])
def test_where_every_client_returns_what_it_got_the_models_bits_stay(make, models, name, family):
    method = make(name, family, **({"budget": drawn(1.0, 0.7)} if name == "depthfl" else {}))
    layout = method.layout
    model = prepare_model(method.settings, copy.deepcopy(models[family]))
    tensors = {n: p.detach().clone() for n, p in model.named_parameters()}
    before = {n: tensor.clone() for n, tensor in tensors.items()}
    selections = method.selections(4, COHORT)
    envelope = union(layout, selections)
    total = ExactSum.zeros(layout.restrict(envelope), 5 * 7)
    for selection in selections:
        received = layout.take(layout.take(tensors, envelope), within(envelope, selection))
        total.add(within(envelope, selection), {n: t - t for n, t in received.items()}, 7)
    apply_update(tensors, layout, total, envelope, selections, [7] * 5)
    assert all(torch.equal(tensors[n].view(torch.int32), before[n].view(torch.int32)) for n in tensors)


OWN_METHOD = '''
from raffm_mpi.methods import Method

class Halves(Method):
    """Odd clients hold half of every FFN."""

    def selections(self, round, cohort):
        divisor = self.settings.options["divisor"]
        half = {d: size // divisor for d, size in self.layout.sizes.items() if d.startswith("ffn")}
        return [half if client % 2 else {} for client in cohort]
'''


def test_a_method_from_a_users_own_file_is_one_class(tmp_path, make):
    file = tmp_path / "own.py"
    file.write_text(OWN_METHOD)
    layout = make("fedavg").layout
    settings = CustomSettings(name=f"{file}:Halves", options={"divisor": 2})
    method = make_method(settings, layout, 0, partial(cost, layout))
    assert method.selections(0, [1, 2]) == [{f"ffn[{layer}]": 24 for layer in range(3)}, FULL]
    for name, sentence in (
        (f"{tmp_path}/none.py:Halves", "there is no file"),
        (f"{file}:Whole", "the file has no class 'Whole' of raffm_mpi.methods.Method"),
    ):
        with pytest.raises(UserMistake, match=sentence):
            check_method(CustomSettings(name=name), layout)
    file.write_text("1 / 0")
    with pytest.raises(UserMistake, match="cannot be run: ZeroDivisionError"):
        check_method(settings, layout)


@pytest.fixture
def documented(tmp_path):
    """The worked example of docs/methods.md, as a file."""
    docs = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", docs, re.DOTALL)
    (tmp_path / "shares.py").write_text(code)
    return f"{tmp_path}/shares.py:Shares"


def test_the_worked_example_of_the_docs_trains(documented, tmp_path):
    config = write_config(tmp_path)
    method = yaml.safe_dump({"name": documented, "options": {"shares": [0.25, 0.5]}}, default_flow_style=True)
    result = run_alone(config, f"method={method}", f"output={tmp_path / 'run'}", "federation.num_rounds=2")
    assert result.returncode == 0, result.stderr
    with open_run(tmp_path / "run") as log:
        assert log.status == "finished" and (log.clients["status"] == "trained").all()
        assert log.clients["parameters"].nunique() == 2 and log.evaluation["submodel"].nunique() == 3
        assert (log.clients["parameters"] < log.submodels["parameters"][0]).all()


def test_the_worked_example_of_the_docs_refuses_and_orders_what_it_says(documented, make, models):
    layout = make("fedavg").layout
    with pytest.raises(UserMistake, match=r"^method.options.shares: \[2\] is not allowed; allowed are fractions"):
        check_method(CustomSettings(name=documented, options={"shares": [2]}), layout)
    settings = CustomSettings(name=documented, options={"shares": [0.5]})
    check_method(settings, layout)
    method = make_method(settings, layout, 0, partial(cost, layout))
    tensors = {name: parameter.detach() for name, parameter in models["vit"].named_parameters()}
    assert method.order(tensors).keys() == {"ffn[0]", "ffn[1]", "ffn[2]"}
    assert method.ladder() == [FULL, {f"ffn[{layer}]": 24 for layer in range(3)}]


def test_every_hook_of_a_method_is_listed_in_the_docs():
    docs = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    hooks = {name for name in vars(Method) if not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)\(", docs, re.MULTILINE)) | {"needs_update"} == hooks
    assert all(vars(Method)[hook].__doc__ or hook == "needs_update" for hook in hooks)


def test_budgets_below_the_smallest_sub_model_are_refused_by_every_method(make):
    for name in ("depthfl", "fjord"):
        with pytest.raises(
            UserMistake, match=r"method.budget.shares: 0.001 is below the smallest sub-model, which is 0\.\d+"
        ):
            make(name, budget=drawn(0.001))
    with pytest.raises(UserMistake, match=r"method.budget.shares: 0.05 is below the smallest"):
        make_method(RaFFMSettings(budget=drawn(0.05)), make("fedavg").layout, 0, make("fedavg").price)
