"""LoRA: what has adapters and how they are labelled, and each aggregation's formula worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raffm_mpi.aggregation import Gathered, make_aggregator
from raffm_mpi.aggregation.exact import LARGEST_UPDATE, ExactSum, fraction_bits
from raffm_mpi.aggregation.lora import norm_weight
from raffm_mpi.config import ModelSettings, Settings, check_settings
from raffm_mpi.data import Columns, DataInfo
from raffm_mpi.elastic.adapters import adapters_of, rank_dimensions, whole_layout
from raffm_mpi.elastic.cost import cost, count_parameters, peak_training_bytes
from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.kinds import Dimension, Kind
from raffm_mpi.elastic.labels import parse, parse_dimension, union, within
from raffm_mpi.elastic.submodel import ElasticModel
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake
from raffm_mpi.federation.frozen import check_alike
from raffm_mpi.learning.model import load_config, load_model, model_structure
from raffm_mpi.methods.adapter_ranks import AdapterRanks
from support import tiny

pytest.importorskip("peft", reason="LoRA needs peft (pip install peft)")

# Each family's attention and its head, which is trained: (family, config, task, attention, head).
FAMILIES = {
    "vit": (tiny.VIT, "image_classification", {"q_proj", "k_proj", "v_proj", "o_proj"}, {"classifier"}),
    "bert": (tiny.BERT, "text_classification", {"query", "key", "value", "dense"}, {"classifier"}),
    "distilbert": (
        tiny.DISTILBERT,
        "text_classification",
        {"q_lin", "k_lin", "v_lin", "out_lin"},
        {"pre_classifier", "classifier"},
    ),
    "llama": (
        tiny.LLAMA,
        "text_classification",
        {"q_proj", "k_proj", "v_proj", "o_proj"},
        {"score"},
    ),
    "gpt2": (tiny.GPT2, "causal_lm", {"c_attn", "c_proj"}, set()),
    "t5": ({**tiny.T5, "d_kv": 8}, "seq2seq", {"q", "k", "v", "o"}, set()),
}


def info(task):
    return DataInfo(task, Columns(), ("a", "b", "c") if task.endswith("classification") else (), ())


def built(family, **lora):
    """A tiny model of a family with adapters."""
    config, task, *_ = FAMILIES[family]
    settings = ModelSettings(family=family, config=config, lora={"rank": 4, **lora})
    return load_model(settings, load_config(settings, info(task)), info(task), 0, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_has_adapters_and_they_and_the_head_alone_are_trained(family):
    config, task, attention, head = FAMILIES[family]
    settings = ModelSettings(family=family, config=config, lora={})
    layout = whole_layout(model_structure(settings, load_config(settings, info(task)), info(task)))
    paths = {adapter.base.removesuffix(".base_layer.weight") for adapter in adapters_of(layout)}
    assert {path.rpartition(".")[2] for path in paths} == attention
    assert not any(
        "mlp" in path or "intermediate" in path or ".output.dense" in f".{path}".replace("attention.output.dense", "")
        for path in paths
    )
    others = [name for name in layout.trained if ".lora_" not in name]
    assert {name.split(".")[2] for name in others} == head
    assert all(".modules_to_save." in name for name in others)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapters_product_is_what_peft_adds_to_its_base(family):
    model = built(family)
    tensors = {name: p.detach().normal_(std=0.3) for name, p in model.named_parameters()}
    modules = dict(model.named_modules())
    adapters = adapters_of(whole_layout(model))
    for adapter in adapters:
        wrapper = modules[adapter.base.removesuffix(".base_layer.weight")]
        expected = wrapper.get_delta_weight("default")
        assert tensors[adapter.base].shape == expected.shape
        torch.testing.assert_close(16 / 4 * adapter.product(tensors).float(), expected)
    assert len(adapters) == len([m for m in modules.values() if hasattr(m, "lora_A")]) > 0


def test_adapters_begin_from_the_seed_and_change_nothing_at_first():
    one, same, other = (
        load_model(
            settings := ModelSettings(family="vit", config=FAMILIES["vit"][0], lora={"rank": 4}),
            load_config(settings, info("image_classification")),
            info("image_classification"),
            seed,
            None,
        )
        for seed in (0, 0, 1)
    )
    a = adapters_of(whole_layout(one))[0].a
    tensors = [dict(model.named_parameters()) for model in (one, same, other)]
    assert torch.equal(tensors[0][a], tensors[1][a]) and not torch.equal(tensors[0][a], tensors[2][a])
    assert all((tensors[0][adapter.b] == 0).all() for adapter in adapters_of(whole_layout(one)))


@pytest.mark.parametrize("family", ["vit", "gpt2", "t5"])
def test_a_narrow_rank_computes_what_the_full_one_does_with_the_rest_at_zero(family):
    model = built(family).eval()
    layout = whole_layout(model)
    tensors = {name: p.detach().normal_(std=0.3) for name, p in model.named_parameters()}
    sent = layout.part(layout.trained)
    elastic = ElasticModel(model, layout, sent, torch.device("cpu"))
    narrow = dict.fromkeys(rank_dimensions(layout), 2)
    own = sent.take({name: tensors[name] for name in sent.labels}, narrow)
    padded = {name: tensor.clone() for name, tensor in tensors.items() if name in sent.labels}
    for adapter in adapters_of(layout):
        padded[adapter.b][:, 2:] = 0
    outputs = []
    for selection, given in ((narrow, own), ({}, padded)):
        filled = elastic.fill(selection, given).eval()
        with torch.no_grad():
            outputs.append(filled(**inputs(family)).logits)
        assert {name for name, p in filled.named_parameters() if p.requires_grad} == set(sent.labels)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)


def inputs(family):
    tokens = torch.randint(2, 60, (2, 7), generator=torch.Generator().manual_seed(0))
    if family == "vit":
        return {"pixel_values": torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))}
    return {"input_ids": tokens, **({"decoder_input_ids": tokens[:, :3]} if family == "t5" else {})}


def test_a_frozen_matrix_costs_two_passes_of_three_and_what_is_trained_alone_counts_as_sent():
    model = built("vit", targets=["q_proj"])
    layout = whole_layout(model)
    bare = layout_of(model.get_base_model().__class__(model.config))
    price, full = cost(layout), cost(bare)
    tokens, matrix, rank = 5, 24 * 24, 4
    adapters = 2 * 2 * tokens * (24 * rank + rank * 24)  # forward, two layers
    assert price.forward_flops == full.forward_flops + adapters
    patches = 2 * 4 * 24 * 1 * 16
    frozen = 2 * 2 * tokens * (4 * matrix + 2 * 24 * 40)
    assert full.training_flops + 3 * adapters - frozen - patches == price.training_flops
    assert price.parameters == 2 * 2 * 24 * rank + 24 * 3 + 3
    assert price.bytes == 4 * price.parameters
    assert count_parameters(layout) == count_parameters(bare) + price.parameters  # peft keeps the old head, too
    trains_all = ModelLayout(**{**vars(layout), "frozen": frozenset()})
    saved = peak_training_bytes(trains_all, batch_size=1) - peak_training_bytes(layout, batch_size=1)
    assert saved == 4 * 3 * (count_parameters(layout) - price.parameters)  # gradients and AdamW's two moments


# ---- Formulas. A base weight W of 2 x 2 with factors of rank 2, and a head of two numbers.

A, B, W, HEAD = "w.lora_A.default.weight", "w.lora_B.default.weight", "w.base_layer.weight", "head"
R = "rank[w.default]"


def two_by_two():
    labels = {W: parse("out in"), A: parse(f"{R} in"), B: parse(f"out {R}"), HEAD: parse("class")}
    return ModelLayout(
        labels=labels,
        shapes={W: (2, 2), A: (2, 2), B: (2, 2), HEAD: (2,)},
        sizes={"out": 2, "in": 2, R: 2, "class": 2},
        family=None,
        dimensions={"out": Dimension("out", Kind.RESIDUAL), R: Dimension("rank", Kind.RANK)},
        slots={},
        numbers={},
        places={},
        matmuls=(),
        transposed=frozenset(),
        products=(),
        lengths={},
        frozen=frozenset({W}),
    )


def aggregator(name, rank=2, alpha=1.0, seed=0):
    values = {
        "output": "x",
        "seed": seed,
        "model": {"family": "vit", "lora": {"rank": rank, "alpha": alpha}},
        "federation": {"num_clients": 2},
        "aggregation": name,
    }
    return make_aggregator(Settings.model_validate(values), two_by_two())


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def aggregate(way, tensors, clients, round_number=0):
    """The tensors after a round of clients, each (selection, examples, what it returns, given what it received)."""
    layout = two_by_two()
    tensors = {name: tensors[name].clone() for name in way.sent.labels}
    selections = [selection for selection, _, _ in clients]
    envelope = union(layout, selections)
    weights = [way.weight(examples) for _, examples, _ in clients]
    total = ExactSum.zeros(way.summed.restrict(envelope), way.total_weight(weights))
    received = way.sent.restrict(envelope).take(way.sent.take(tensors, envelope), {})
    reported = []
    for (selection, _, trained), weight in zip(clients, weights, strict=True):
        inner = within(envelope, selection)
        got = way.sent.restrict(envelope).take(received, inner)
        own = {name: t.clone(memory_format=torch.contiguous_format) for name, t in got.items() if name != W}
        contribution = way.contribution(got, own | trained(own))
        reported.append(way.add(total, inner, contribution, weight))
    way.apply(tensors, total, Gathered(round_number, envelope, selections, weights, reported))
    return tensors


def returns(**tensors):
    names = {"a": A, "b": B, "head": HEAD}
    return lambda own: {names[name]: value.clone() for name, value in tensors.items()}


START = {A: tensor([1, 2], [3, 4]), B: tensor([1, 0], [0, 1]), W: tensor([1, 1], [1, 1]), HEAD: torch.zeros(2)}


def test_the_mean_of_factors_is_over_those_that_hold_them():
    """Row 0 of A: (1 x 5 + 3 x 1) / 4 = 2. Row 1 and the second column of B have the second client alone."""
    first = ({R: 1}, 1, returns(a=tensor([5, 2]), b=tensor([1], [4]), head=torch.tensor([4.0, 0])))
    second = ({}, 3, returns(a=tensor([1, 2], [7, 8]), b=tensor([1, 9], [0, 1]), head=torch.tensor([0, 4.0])))
    after = aggregate(aggregator("mean"), START, [first, second])
    assert after.keys() == {A, B, HEAD}
    assert torch.equal(after[A], tensor([2, 2], [7, 8]))
    assert torch.equal(after[B], tensor([1, 9], [1, 1]))
    assert torch.equal(after[HEAD], torch.tensor([1.0, 3.0]))


def test_hetlora_pads_with_zeros_and_weighs_by_what_the_adapters_do():
    """Norms: |(3, 4)^T (1, 0)| = 5 and |diag(6, 8)| = 10, so weights 1/3 and 2/3; the head by 1/4 and 3/4."""
    first = ({R: 1}, 1, returns(a=tensor([1, 0]), b=tensor([3], [4]), head=torch.tensor([4.0, 0])))
    second = ({}, 3, returns(a=tensor([1, 0], [0, 1]), b=tensor([6, 0], [0, 8]), head=torch.tensor([0, 4.0])))
    after = aggregate(aggregator("hetlora"), START, [first, second])
    torch.testing.assert_close(after[A], tensor([1, 0], [0, 2 / 3]))
    torch.testing.assert_close(after[B], tensor([5, 0], [4 / 3, 16 / 3]))
    assert torch.equal(after[HEAD], torch.tensor([1.0, 3.0]))


def test_hetlora_pads_to_the_largest_rank_that_came_back():
    """A rank that no client has would be zero in A and B, and stay so: it keeps its values."""
    after = aggregate(aggregator("hetlora"), START, [({R: 1}, 1, returns(a=tensor([1, 0]), b=tensor([3], [4])))] * 2)
    torch.testing.assert_close(after[A], tensor([1, 0], [3, 4]))
    torch.testing.assert_close(after[B], tensor([3, 0], [4, 1]))


def test_flexlora_decomposes_the_mean_of_products():
    """Products diag(2, 0) of one example and diag(2, 4) of three: their mean is diag(2, 3), singular values 3 and 2."""
    first = ({R: 1}, 1, returns(a=tensor([1, 0]), b=tensor([2], [0]), head=torch.tensor([4.0, 0])))
    second = ({}, 3, returns(a=tensor([1, 0], [0, 1]), b=tensor([2, 0], [0, 4]), head=torch.tensor([0, 4.0])))
    after = aggregate(aggregator("flexlora"), START, [first, second])
    torch.testing.assert_close(after[B] @ after[A], tensor([2, 0], [0, 3]))
    torch.testing.assert_close(after[B][:, :1] @ after[A][:1], tensor([0, 0], [0, 3]))  # what a client of rank 1 gets
    torch.testing.assert_close(after[B].norm(dim=0), torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(after[A] @ after[A].T, torch.eye(2))
    assert torch.equal(after[HEAD], torch.tensor([1.0, 3.0]))


def test_stacking_merges_the_mean_of_products_into_the_base_and_begins_anew():
    """Half (alpha / r) of diag(2, 3) is added to W."""
    way = aggregator("stacking")
    first = ({R: 1}, 1, returns(a=tensor([1, 0]), b=tensor([2], [0]), head=torch.tensor([4.0, 0])))
    second = ({}, 3, returns(a=tensor([1, 0], [0, 1]), b=tensor([2, 0], [0, 4]), head=torch.tensor([0, 4.0])))
    after = aggregate(way, START, [first, second])
    assert torch.equal(after[W], tensor([2, 1], [1, 2.5]))
    assert torch.equal(after[HEAD], torch.tensor([1.0, 3.0]))
    assert (after[B] == 0).all() and (after[A].abs() <= 2**-0.5).all() and after[A].unique().numel() == 4
    assert torch.equal(after[A], aggregate(way, START, [first, second])[A])
    assert not torch.equal(after[A], aggregate(way, START, [first, second], round_number=1)[A])
    assert not torch.equal(after[A], aggregate(aggregator("stacking", seed=1), START, [first, second])[A])


def test_a_client_of_stacking_gets_the_stack_of_all_ranks_and_sends_its_own():
    """Ranks 1 and 2 in a cohort: 3 x (2 + 2) numbers and the head's two down; 2 x 4 or 1 x 4 and two up."""
    way = aggregator("stacking")
    selections = [{R: 1}, {}]
    up = np.array([4 * (4 + 2), 4 * (8 + 2)])
    assert way.bytes_down(up, selections).tolist() == [4 * (12 + 2)] * 2
    assert aggregator("hetlora").bytes_down(up, selections).tolist() == up.tolist()


def random_start(seed):
    generator = torch.Generator().manual_seed(seed)
    start = {name: torch.randn(shape, generator=generator) for name, shape in two_by_two().shapes.items()}
    start[A][0, 0] = -0.0
    return start


@pytest.mark.parametrize("seed", range(5))
def test_with_clients_that_return_what_they_got_the_mean_keeps_every_bit_and_flexlora_the_product(seed):
    start = random_start(seed)
    after = aggregate(aggregator("mean"), start, [({R: 1}, 3, returns()), ({}, 7, returns())])
    assert all(torch.equal(after[name].view(torch.int32), start[name].view(torch.int32)) for name in after)
    after = aggregate(aggregator("flexlora"), start, [({}, 3, returns()), ({}, 7, returns())])
    torch.testing.assert_close(after[B] @ after[A], start[B] @ start[A], rtol=1e-5, atol=1e-6)
    again = aggregate(aggregator("flexlora"), after, [({}, 3, returns()), ({}, 7, returns())])
    torch.testing.assert_close(again[B] @ again[A], start[B] @ start[A], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["hetlora", "flexlora", "stacking"])
def test_the_order_of_clients_shows_in_no_bit(name):
    clients = []
    for seed in range(4):
        own = random_start(seed)
        rank = 1 + seed % 2
        selection = {R: 1} if rank == 1 else {}
        clients.append((selection, 3 + seed, returns(a=own[A][:rank], b=own[B][:, :rank], head=own[HEAD])))
    one, other = (aggregate(aggregator(name), START, order) for order in (clients, clients[::-1]))
    assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)


def test_flexlora_keeps_what_no_clients_width_holds():
    """A client of half the outputs sends the first row of the product alone; the second stays that of the server."""
    after = aggregate(aggregator("flexlora"), START, [({"out": 1}, 5, returns(b=tensor([2, 0])))])
    torch.testing.assert_close(after[B] @ after[A], tensor([2, 4], [3, 4]))


def test_a_norm_is_that_of_all_products_and_its_weight_is_bounded():
    adapters = adapters_of(two_by_two())
    start = random_start(1)
    norm = float((start[B].double() @ start[A].double()).norm())
    assert norm_weight(adapters, start) == pytest.approx(norm * 2**21, abs=1)
    assert norm_weight(adapters, {A: START[A], B: torch.zeros(2, 2)}) == 1
    assert norm_weight(adapters, {A: START[A] * 1e9, B: START[B]}) == 2**31


@pytest.mark.parametrize("num_clients", [1, 7, 1000])
def test_no_sum_of_hetloras_weights_overflows(num_clients):
    total = aggregator("hetlora").total_weight([1] * num_clients)
    assert (num_clients << 31) * int(LARGEST_UPDATE) << fraction_bits(total) < 2**63


def test_each_client_keeps_its_rank_and_the_full_one_leaves_nothing_out():
    layout = two_by_two()
    lora = ModelSettings(family="vit", lora={"rank": 2, "ranks": [1, 2]}).lora
    ranks = AdapterRanks.of(lora, layout, 0)
    drawn = [ranks.of_client(client) for client in range(20)]
    assert drawn == [ranks.of_client(client) for client in range(20)]
    assert {str(selection) for selection in drawn} == {str({R: 1}), "{}"}
    assert ranks.smallest() == {R: 1}
    alike = AdapterRanks.of(ModelSettings(family="vit", lora={"rank": 2, "ranks": [2, 2]}).lora, layout, 0)
    assert alike.of_client(3) == alike.smallest() == AdapterRanks.of(None, layout, 0).of_client(3) == {}


class Ranks2:
    """Two ranks, of which this is the second."""

    rank, host = 1, "n1"

    def describe(self, text):
        return ["ab" * 32, text]

    def together(self, step):
        return step()


def test_a_node_with_other_frozen_weights_is_named():
    check_alike("ab" * 32, Ranks2())
    with pytest.raises(UserMistake, match=r"model: rank 1 on n1 has other frozen weights than rank 0 \(SHA-256 cdcd"):
        check_alike("cd" * 32, Ranks2())


MISTAKES = {
    "ranks above rank": ({"rank": 4, "ranks": [2, 8]}, {}, "model.lora: ranks has 8, which is more than rank 4"),
    "aggregation of 0.1": ({"aggregation": "hetlora"}, {}, "model.lora.aggregation is now aggregation: hetlora"),
    "unknown key": ({"rnak": 4}, {}, "model.lora.rnak: unknown key, did you mean 'rank'?"),
    "rank zero": ({"ranks": [0]}, {}, "model.lora.ranks.0: 0 is not allowed"),
    "no targets": ({"targets": []}, {}, "model.lora.targets: [] is not allowed"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_contradiction_is_one_sentence(mistake):
    lora, federation, sentence = MISTAKES[mistake]
    values = {
        "output": "x",
        "model": {"family": "vit", "lora": lora},
        "federation": {"num_clients": 2, **federation},
    }
    with pytest.raises(UserMistake, match="model") as caught:
        check_settings(values, "config")
    (line,) = str(caught.value).splitlines()
    assert sentence in line


@pytest.mark.parametrize("target", ["qproj", "classifier", "projection"])
def test_a_target_that_is_no_linear_layer_is_named_with_those_that_are(target):
    settings = ModelSettings(family="vit", config=FAMILIES["vit"][0], lora={"targets": ["q_proj", target]})
    config = load_config(settings, info("image_classification"))
    with pytest.raises(UserMistake, match="targets") as caught:
        model_structure(settings, config, info("image_classification"))
    assert str(caught.value) == (
        f"model.lora.targets: '{target}' is no linear layer of family 'vit'; known: q_proj, k_proj, v_proj, o_proj, "
        "fc1, fc2"
    )


def test_targets_are_full_paths_or_ends_of_such():
    for targets, expected in ((["fc1", "q_proj"], 4), (["vit.layers.1.mlp.fc1"], 1)):
        adapters = adapters_of(whole_layout(built("vit", targets=targets)))
        assert len(adapters) == expected
        assert all(any(a.base.endswith(f"{t}.base_layer.weight") for t in targets) for a in adapters)
    assert {parse_dimension(d)[0] for d in rank_dimensions(whole_layout(built("vit")))} == {"rank"}
