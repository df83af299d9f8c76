"""Accuracy of sub-models cut out of a federated model without more training, by our slicing and by the official one.

    python benchmarks/cut_out.py RUN [RUN …]     folders of finished runs that differ in their seed; their data must
                                                 still be there

Both keep the same share of every layer's FFN and attention. Ours keeps whole heads. The official code keeps the number
of heads and the first rows of the fused axis, so that rows cross the borders between heads, and scales by the new
width.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from workloads import spread

from raffm_mpi import data
from raffm_mpi.config import ModelSettings, load_settings
from raffm_mpi.elastic.cost import count_parameters
from raffm_mpi.elastic.families import layout_of
from raffm_mpi.elastic.labels import FULL, Selection
from raffm_mpi.elastic.submodel import Shell, extract
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.federation.experiment import look
from raffm_mpi.learning.evaluation import evaluate, score_split
from raffm_mpi.learning.model import load_model
from raffm_mpi.learning.training import Processor
from raffm_mpi.tasks import task_of

SHARES = (0.75, 0.5, 0.25)


def keep(layout: ModelLayout, share: float, *settings: str) -> Selection:
    """The share of every dimension of some settings of an elastic space, rounded."""
    axes = [axis for setting in settings for axis in layout.axes_of(setting)]
    return {dimension: max(1, round(share * layout.sizes[dimension])) for axis in axes for dimension in axis}


def ours(model: nn.Module, layout: ModelLayout, share: float) -> nn.Module:
    """Whole heads, and the front of the FFN."""
    return extract(model, layout, keep(layout, share, "ffn", "heads"))


def official(model: nn.Module, layout: ModelLayout, share: float) -> nn.Module:
    """The first rows and columns of every matrix, read as the full number of narrower heads."""
    small = layout.restrict(keep(layout, share, "ffn", "head_width"))
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.detach()[tuple(slice(length) for length in small.shapes[name])].clone()
    submodel = Shell(model).fill(small, tensors)
    for module in submodel.modules():
        if hasattr(module, "scaling") and hasattr(module, "attention_head_size"):
            module.scaling = module.attention_head_size**-0.5
    return submodel


def scores_of(run: Path) -> dict[tuple[str, int, float], list[float]]:
    """Scores on each split of what is cut out of a run's model, by name, parameters and share of the elastic ones."""
    settings = load_settings(run / "config.yaml")
    looked = look(settings)
    info, task = looked.info, task_of(looked.info.task)
    examples = data.open_data(data.prepare(info, task, settings.data, looked.inputs, settings.seed), task)
    model = load_model(ModelSettings(name=str(run / "model")), looked.config, info, 0, examples.pad_token_id)
    layout = layout_of(model)
    torch.set_num_threads(2)
    metric, *_ = task.metrics(info, settings.data.subset)
    frame = count_parameters(layout, dict.fromkeys(keep(layout, 1.0, "ffn", "heads"), 0))
    elastic = count_parameters(layout) - frame
    rows = [("full", extract(model, layout, FULL))]
    for share in SHARES:
        rows += [(f"{rule.__name__} {share:.0%}", rule(model, layout, share)) for rule in (ours, official)]
    found = {}
    for name, submodel in rows:
        size = sum(parameter.numel() for parameter in submodel.parameters())
        scores = []
        for split in filter(None, (examples.validation, examples.test)):
            predictions = evaluate(submodel, split, info, Processor(torch.device("cpu")), 64)
            scores.append(score_split(info, (metric,), predictions, split)[metric])
        found[name, size, (size - frame) / elastic] = scores
    return found


def main() -> None:
    runs = [scores_of(Path(folder)) for folder in sys.argv[1:]]
    if not runs:
        raise SystemExit(__doc__)
    splits = ("validation", "test")[-len(next(iter(runs[0].values()))) :]
    print(f"| model | parameters | of the elastic ones | {' | '.join(splits)} | seeds |\n{'|---' * (4 + len(splits))}|")
    for name, size, share in runs[0]:
        scores = zip(*(run[name, size, share] for run in runs), strict=True)
        cells = (name, f"{size:,}", f"{share:.0%}", *(spread(values) for values in scores), str(len(runs)))
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
