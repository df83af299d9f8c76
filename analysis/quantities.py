"""The numbers behind figures and tables: a run's scores and what they cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from raffm_mpi.log import GLOBAL_MODEL, LOWER_IS_BETTER, Run

# What a run spends, summed from its beginning. All but the last are simulated: they are spent by clients and devices.
COSTS: Mapping[str, str] = {
    "num_rounds": "communication rounds",
    "virtual_s": "simulated time (s)",
    "bytes": "simulated traffic (bytes)",
    "flops": "simulated training (FLOP)",
    "energy_j": "simulated energy (J)",
    "real_s": "real time of the rounds (s)",
}


def costs(run: Run) -> pd.DataFrame:
    """What had been spent when each committed round ended: one row a round, columns ``round`` and :data:`COSTS`.

    Round -1 stands for the beginning, where every cost is 0. Without devices ``virtual_s`` and ``energy_j`` are NaN.
    """
    rounds = run.rounds
    flops = run.clients.groupby("round")["train_flops"].sum().reindex(rounds["round"], fill_value=0.0)
    ends_s = rounds["virtual_start_s"] + rounds["virtual_round_s"]
    spent = pd.DataFrame(
        {
            "round": rounds["round"],
            "num_rounds": np.arange(1, len(rounds) + 1, dtype=float),
            "virtual_s": ends_s.astype(float),
            "bytes": (rounds["bytes_down"] + rounds["bytes_up"]).cumsum().astype(float),
            "flops": flops.cumsum().to_numpy(float),
            "energy_j": rounds["energy_j"].cumsum().astype(float),
            "real_s": rounds["round_s"].astype(float).cumsum(),
        }
    )
    has_devices = not run.devices.empty
    beginning = {name: 0.0 if has_devices or name not in ("virtual_s", "energy_j") else np.nan for name in COSTS}
    return pd.concat([pd.DataFrame([{"round": -1, **beginning}]), spent], ignore_index=True)


def scores(run: Run, split: str) -> pd.DataFrame:
    """Evaluations of the full model on a split with what they had cost.

    The columns are those of :func:`costs`, ``score`` and ``loss``.
    """
    evaluation = run.evaluation
    chosen = evaluation[(evaluation["submodel"] == GLOBAL_MODEL) & (evaluation["split"] == split)]
    return chosen[["round", "score", "loss"]].merge(costs(run), on="round").sort_values("round", ignore_index=True)


def main_split(run: Run) -> str:
    """The split of curves: validation, so that nobody chooses by the test split; test where only that was evaluated."""
    return "test" if set(run.evaluation["split"]) == {"test"} else "validation"


def reaches(metric: str, scores: pd.Series[float], target: float) -> pd.Series[bool]:
    """Which scores of a metric are as good as a target."""
    return scores <= target if metric in LOWER_IS_BETTER else scores >= target


def best(metric: str, scores: pd.Series[float]) -> float:
    """The best of some scores; NaN without any."""
    return float(scores.min() if metric in LOWER_IS_BETTER else scores.max())


def participation(run: Run) -> pd.DataFrame:
    """One row a client: its ``num_examples``, and how often it was ``asked`` and ``trained``."""
    clients = run.clients
    population = run.partition[["client", "num_examples"]]
    asked = clients.groupby("client").size()
    trained = clients[clients["status"] == "trained"].groupby("client").size()
    counted = {
        name: counts.reindex(population["client"], fill_value=0).to_numpy()
        for name, counts in (("asked", asked), ("trained", trained))
    }
    return population.assign(**counted)


def label_shares(run: Run) -> pd.DataFrame:
    """The share of each label among a client's examples: a row a client, a column a label; empty without labels."""
    fixed = {"client", "num_examples", "device"}
    counts = run.partition[[name for name in run.partition if name not in fixed]]
    counts = counts[counts.sum(axis=1) > 0]
    return counts.div(counts.sum(axis=1), axis=0) if len(counts.columns) else pd.DataFrame()


def group_times(run: Run) -> pd.DataFrame:
    """The rows of ``run.groups``, and ``real_start_s``: seconds from the run's start until the round's training."""
    rounds = run.rounds
    starts_s = rounds["round_s"].astype(float).cumsum() - rounds["round_s"] + rounds["broadcast_s"]
    return run.groups.merge(rounds[["round"]].assign(real_start_s=starts_s), on="round")
