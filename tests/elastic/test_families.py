"""Two properties prove a family's table without any reference implementation; the others follow from it."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raffm_mpi.aggregation.exact import ExactSum, apply_update
from raffm_mpi.elastic.binding import bind
from raffm_mpi.elastic.cost import cost, count_parameters, peak_training_bytes
from raffm_mpi.elastic.families import FAMILIES, layout_of
from raffm_mpi.elastic.kinds import Kind
from raffm_mpi.elastic.labels import FULL, union, within
from raffm_mpi.elastic.salience import order, salience
from raffm_mpi.elastic.submodel import Shell, extract
from raffm_mpi.errors import UserMistake

NUM_TOKENS, NUM_TARGETS = 9, 5


def relative_gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def random_permutation(layout, generator):
    """Every dimension in a random order of its own."""
    return {dimension: torch.from_numpy(generator.permutation(size)) for dimension, size in layout.sizes.items()}


def test_the_worked_example_of_the_docs_is_the_family_as_it_stands():
    root = Path(__file__).parents[2]
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / "families.md").read_text(), re.DOTALL)
    assert (root / "raffm_mpi" / "elastic" / "families" / "opt.py").read_text() in blocks


def test_every_family_is_tested(covered_families):
    assert covered_families == set(FAMILIES)


def test_selecting_everything_reproduces_the_model(case):
    assert torch.equal(case.output(extract(case.model, case.layout, FULL)), case.output(case.model))


@pytest.mark.parametrize("seed", range(3))
def test_permuting_every_dimension_keeps_the_output(case, seed):
    permutation = random_permutation(case.layout, np.random.default_rng(seed))
    permuted = extract(case.model, case.layout, permutation)
    assert relative_gap(case.output(permuted), case.output(case.model)) <= 1e-5


def test_ordering_by_salience_keeps_the_output_and_sorts_the_salience(case):
    by_salience = order(case.tensors, case.layout, list(case.layout.sizes))
    assert by_salience.keys() == case.layout.sizes.keys()
    model = extract(case.model, case.layout, by_salience)
    assert relative_gap(case.output(model), case.output(case.model)) <= 1e-5
    ordered = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for dimension, scores in salience(ordered, case.layout, list(case.layout.sizes)).items():
        assert (scores.diff(dim=-1) <= 1e-9).all(), dimension


@pytest.mark.parametrize("name", ["vit", "bert", "distilbert"])
def test_keys_are_ordered_within_each_head(build, name):
    case = build(name)
    scores = salience(case.tensors, case.layout, ["key[0]"])["key[0]"]
    heads, width = case.layout.sizes["head[0]"], case.layout.sizes["key[0]"]
    names = [
        name for name, label in case.layout.labels.items() if label[0] == ("head[0]", "key[0]") and len(label) == 2
    ]
    expected = sum(case.tensors[name].abs().mean(dim=1).reshape(heads, width) for name in names)
    assert len(names) == 2  # Q and K
    torch.testing.assert_close(scores.float(), expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_slice_equals_the_zero_masked_model(case, seed):
    """On heads, head width and FFN, which no norm crosses: what a slice leaves out, a mask puts to zero."""
    uncrossed = tuple(setting for setting in case.layout.family.elastic if setting != "residual")
    selection = case.random_widths(np.random.default_rng(seed), uncrossed)
    masked = {name: torch.zeros_like(tensor) for name, tensor in case.tensors.items()}
    case.layout.put(masked, selection, case.layout.take(case.tensors, selection))
    expected = case.output(Shell(case.model).fill(case.layout, masked))
    assert relative_gap(case.output(extract(case.model, case.layout, selection)), expected) <= 1e-5
    assert relative_gap(expected, case.output(case.model)) > 1e-3  # the mask took something away


def test_a_slice_of_any_indices_equals_the_zero_masked_model(case):
    generator = np.random.default_rng(1)
    selection = {
        dimension: torch.from_numpy(generator.permutation(size := case.layout.sizes[dimension])[: size // 2 + 1])
        for dimension in case.layout.of_kind(Kind.FFN, Kind.HEAD, Kind.KV_HEAD, Kind.GROUP)
    }
    masked = {name: torch.zeros_like(tensor) for name, tensor in case.tensors.items()}
    case.layout.put(masked, selection, case.layout.take(case.tensors, selection))
    expected = case.output(Shell(case.model).fill(case.layout, masked))
    assert relative_gap(case.output(extract(case.model, case.layout, selection)), expected) <= 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_counted_parameters_equal_numel(case, seed):
    selection = FULL if seed == 0 else case.random_widths(np.random.default_rng(seed))
    model = extract(case.model, case.layout, selection)
    assert count_parameters(case.layout, selection) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("seed", range(4))
def test_counted_flops_equal_torchs_counter(case, seed):
    selection = FULL if seed == 0 else case.random_widths(np.random.default_rng(seed))
    model = extract(case.model, case.layout, selection)
    num_targets = NUM_TARGETS if "decoder_input_ids" in case.inputs else None
    counted = cost(case.layout, selection, num_tokens=NUM_TOKENS, num_targets=num_targets)
    with FlopCounterMode(display=False) as forward:
        output = case.said(model(**{name: tensor[:1] for name, tensor in case.inputs.items()}))
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    # In some releases rotary angles are a (tiny) matrix product, which no width changes.
    by_module = forward.get_flop_counts().items()
    angles = sum(sum(counts.values()) for module, counts in by_module if module.endswith("rotary_emb"))
    passed = forward.get_total_flops() - angles
    assert counted.forward_flops == passed
    assert counted.training_flops == passed + backward.get_total_flops()


def test_counted_activations_are_near_those_that_autograd_keeps(case):
    """Within 25 %, with fused attention: the estimate is of what is saved, not of the allocator."""
    case.model.config._attn_implementation = "sdpa"
    case.model.requires_grad_(True)
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not any(tensor.untyped_storage().data_ptr() == p.untyped_storage().data_ptr() for p in parameters):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = list(case.model.parameters())
    inputs = {name: tensor.repeat(16, *[1] * (tensor.ndim - 1)) for name, tensor in case.inputs.items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = case.said(case.model(**inputs))
    measured = sum(kept.values()) - sum(tensor.nbytes for tensor in inputs.values())
    assert output.requires_grad
    states = 4 * 4 * count_parameters(case.layout)  # parameters, gradients and AdamW's two moments
    num_targets = NUM_TARGETS if "decoder_input_ids" in case.inputs else None
    counted = peak_training_bytes(case.layout, batch_size=32, num_tokens=NUM_TOKENS, num_targets=num_targets) - states
    assert 0.75 <= counted / measured <= 1.25


def test_aggregating_untouched_sub_models_returns_the_model_exactly(case):
    tensors = {name: tensor.clone() for name, tensor in case.tensors.items()}
    selections = [case.random_widths(np.random.default_rng(seed)) for seed in range(4)]
    envelope, weights = union(case.layout, selections), [3, 1, 4, 1]
    total = ExactSum.zeros(case.layout.restrict(envelope), sum(weights))
    for selection, weight in zip(selections, weights, strict=True):
        received = case.layout.take(tensors, selection)
        submodel = extract(case.model, case.layout, selection)
        update = {name: (p.detach() - received[name]).contiguous() for name, p in submodel.named_parameters()}
        total.add(within(envelope, selection), update, weight)
    apply_update(tensors, case.layout, total, envelope, selections, weights)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in case.tensors.items())


def test_an_extracted_model_shares_nothing_with_the_full_one(case):
    before = {name: tensor.clone() for name, tensor in case.tensors.items()}
    submodel = extract(case.model, case.layout, case.some_widths())
    for parameter in submodel.parameters():
        parameter.data.add_(1.0)
    assert all(torch.equal(case.tensors[name], tensor) for name, tensor in before.items())


def test_a_sub_model_trains(case):
    """Every parameter that has a gradient in the full model has one in a sub-model."""
    trained = {}
    for selection in (FULL, case.random_widths(np.random.default_rng(0))):
        submodel = extract(case.model, case.layout, selection)
        case.said(submodel(**case.inputs)).square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in submodel.named_parameters()}
        trained[selection is FULL] = {name for name, gradient in gradients.items() if gradient is not None}
        assert all(gradients[name].isfinite().all() for name in trained[selection is FULL])
    assert trained[True] == trained[False]
    assert len(trained[True]) >= len(case.tensors) - 2  # a mask token or a pooler's norm has no part in the output


def test_a_shell_is_filled_again_and_again(case):
    shell = Shell(case.model)
    for seed in range(3):
        selection = case.random_widths(np.random.default_rng(seed))
        tensors = case.layout.take(case.tensors, selection)
        found = case.output(shell.fill(case.layout.restrict(selection), tensors))
        assert torch.equal(found, case.output(extract(case.model, case.layout, selection)))


def test_modules_state_the_shapes_of_a_slice(case):
    submodel = extract(case.model, case.layout, case.some_widths())
    for name, module in submodel.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape), name
        if isinstance(module, torch.nn.LayerNorm):
            assert module.normalized_shape == tuple(module.weight.shape), name


def test_a_table_that_does_not_fit_names_what_it_looked_for_and_found(main_case):
    other = FAMILIES["bert" if main_case.family != "bert" else "vit"]
    with pytest.raises(UserMistake, match="does not fit") as error:
        bind(other, main_case.model)
    looked_for = next(row for row in other.rows if not row.startswith("?")).split(" | ")[0]
    found = next(iter(main_case.layout.labels))
    assert looked_for in str(error.value)
    assert found in str(error.value)


def names_of(row, names):
    """The parameters among some names that a row stands for."""
    patterns = [re.escape(pattern).replace(re.escape("[l]"), r"\d+") for pattern in row.lstrip("?").split(" | ")]
    return [name for name in names if any(re.fullmatch(pattern + r"(\.weight)?", name) for pattern in patterns)]


def ffn_row(case):
    """The row of the first matrix of layer 0 whose outputs are the FFN's."""
    name = next(
        name
        for name, label in case.layout.labels.items()
        if len(label) == 2 and Kind.FFN in case.layout.kinds_on(label[0])
    )
    return next(row for row in case.layout.family.rows if names_of(row, [name]))


@pytest.mark.parametrize("name", ["vit", "bert", "llama", "clip"])
def test_a_missing_row_is_named(build, name):
    case = build(name)
    rows = dict(case.layout.family.rows)
    removed = ffn_row(case)
    del rows[removed]
    with pytest.raises(UserMistake, match="no row for") as error:
        bind(replace(case.layout.family, rows=rows), case.model)
    assert any(pattern in str(error.value) for pattern in removed.lstrip("?").split(" | "))


@pytest.mark.parametrize("name", ["vit", "bert", "llama", "clip"])
def test_a_label_that_contradicts_a_shape_is_refused(build, name):
    case = build(name)
    row = ffn_row(case)
    residual = case.layout.family.rows[row].split()[1]
    with pytest.raises(UserMistake, match="has length"):
        bind(replace(case.layout.family, rows={**case.layout.family.rows, row: f"{residual} {residual}"}), case.model)


DIMENSION = re.compile(r"[a-z_]+(?:\[l\])?")


def mutants(family, names):
    """Every row with one dimension of its label exchanged for another of the family's."""
    dimensions = sorted({name for label in family.rows.values() for name in DIMENSION.findall(label.split("@")[0])})
    for row, label in family.rows.items():
        if not names_of(row, names):
            continue
        for match in DIMENSION.finditer(label.split("@")[0]):
            for other in dimensions:
                if other != match[0] and ("[l]" in row or "[l]" not in other):
                    yield row, label[: match.start()] + other + label[match.end() :]


def survives(case, row, label):
    """Whether a mutated table is accepted and permuting by it keeps the output."""
    try:
        layout = bind(replace(case.layout.family, rows={**case.layout.family.rows, row: label}), case.model)
        permutation = random_permutation(layout, np.random.default_rng(0))
        return relative_gap(case.output(extract(case.model, layout, permutation)), case.output(case.model)) <= 1e-5
    except (UserMistake, ValueError, AssertionError, RuntimeError, IndexError):
        return False


def test_every_mutated_row_is_caught(main_case):
    case = main_case
    tried = list(mutants(case.layout.family, case.layout.labels))
    assert len(tried) > 30
    assert [mutant for mutant in tried if survives(case, *mutant)] == []


def with_kinds(case, **kinds):
    """The case's model bound by its table with other kinds."""
    return bind(replace(case.layout.family, kinds={**case.layout.family.kinds, **kinds}), case.model)


def bound_names(case):
    """The names that the table gives to the model's dimensions."""
    return {dimension.name: dimension.kind for dimension in case.layout.dimensions.values()}


def test_exchanging_the_kinds_of_two_dimensions_is_refused(case):
    kinds = bound_names(case)
    exchanged = [(one, two) for one, two in itertools.combinations(kinds, 2) if kinds[one] is not kinds[two]]
    assert len(exchanged) >= 6
    for one, two in exchanged:
        with pytest.raises(UserMistake, match=f"family '{case.layout.family.name}': dimension '.+' is declared"):
            with_kinds(case, **{one: kinds[two], two: kinds[one]})


def test_a_dimension_of_another_kind_is_refused_and_named(case):
    for name, kind in bound_names(case).items():
        for other in set(Kind) - {kind}:
            with pytest.raises(UserMistake, match="is declared"):
                with_kinds(case, **{name: other})


def test_a_dimension_without_a_kind_is_refused_and_named(main_case):
    family = main_case.layout.family
    for name in bound_names(main_case):
        kinds = {other: kind for other, kind in family.kinds.items() if other != name}
        with pytest.raises(UserMistake, match=f"family '{family.name}': dimension '{name}' has no kind"):
            bind(replace(family, kinds=kinds), main_case.model)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_table_declares_the_dimensions_of_its_rows_and_no_others(name):
    family = FAMILIES[name]
    rows = {m.removesuffix("[l]") for label in family.rows.values() for m in DIMENSION.findall(label.split("@")[0])}
    assert rows == set(family.kinds)
    stacked = [dimension for names in family.stacks.values() for dimension in names]
    assert len(set(stacked)) == len(stacked) and set(stacked) <= rows
    assert (Kind.KEY in family.kinds.values()) != (Kind.KEY in family.lacks)


def test_a_layout_says_kind_stack_and_layer_of_each_dimension(build):
    layout = build("t5").layout
    assert layout.kind_of("cross_key[1]") is Kind.KEY and layout.stack_of("cross_key[1]") == "cross"
    assert layout.kind_of("residual") is Kind.RESIDUAL and layout.stack_of("residual") == ""
    assert layout.of_kind(Kind.HEAD) == ["encoder_head", "decoder_head", "cross_head"]
    assert [layout.dimensions[name].layer for name in ("cross_key[1]", "cross_head", "residual")] == [1, None, None]
    assert layout.axes_of("head_width")[3] == ("decoder_key[1]", "decoder_value[1]")


def test_a_bare_base_model_fits_the_same_table(case):
    layout = layout_of(case.model.base_model)
    assert layout.sizes.items() <= case.layout.sizes.items()


def test_ordering_llama_by_salience_keeps_what_the_official_rule_changes(build):
    """The official code sorts the rows of Q and K in each head, by their own norms; rotary pairs then break."""
    case = build("llama")
    ours = extract(case.model, case.layout, order(case.tensors, case.layout, list(case.layout.sizes)))
    assert relative_gap(case.output(ours), case.output(case.model)) <= 1e-5
    official = extract(case.model, case.layout, FULL)
    for layer in official.model.layers:
        width = layer.self_attn.head_dim
        query, key = (p.weight.data.unflatten(0, (-1, width)) for p in (layer.self_attn.q_proj, layer.self_attn.k_proj))
        groups = len(query) // len(key)
        norms = query.unflatten(0, (-1, groups)).abs().mean(dim=(1, 3)) + key.abs().mean(dim=2)  # alike for Q and K
        by_norm = norms.argsort(dim=1, descending=True)[:, :, None].expand(key.shape)
        key.copy_(key.gather(1, by_norm))
        query.copy_(query.gather(1, by_norm.repeat_interleave(groups, dim=0)))
    assert relative_gap(case.output(official), case.output(case.model)) > 0.02
