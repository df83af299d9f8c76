"""Every method trains ViT and BERT, to the same bits on any number of ranks."""

from __future__ import annotations

import yaml

from raffm_mpi.config import METHOD_SETTINGS
from raffm_mpi.log import open_run
from support.final_hashes import hashes_on

BUDGETS = {"budget": {"kind": "drawn", "shares": [1.0, 0.8, 0.65]}}
OWN = """
from raffm_mpi.methods import Method

class Halves(Method):
    def selections(self, round, cohort):
        narrow = {d: size // 2 for d, size in self.layout.sizes.items() if d.startswith("ffn")}
        return [narrow if client % 2 else {} for client in cohort]
"""
VARIANTS = {
    "fedavg": {"method": {"name": "fedavg"}},
    "fedprox": {"method": {"name": "fedavg"}, "training": {"proximal": 0.1}},
    "heterofl": {"method": {"name": "heterofl", **BUDGETS}},
    "fedrolex": {"method": {"name": "fedrolex", **BUDGETS}},
    "fjord": {"method": {"name": "fjord", **BUDGETS}},
    "fjord-distilled": {"method": {"name": "fjord", **BUDGETS, "distillation": 0.5, "temperature": 2.0}},
    "depthfl": {"method": {"name": "depthfl", **BUDGETS}},
    "fiarse": {"method": {"name": "fiarse", **BUDGETS}, "training": {"proximal": 0.1}},
    "prunefl": {"method": {"name": "prunefl", "density": 0.6}},
    "prism": {"method": {"name": "prism", **BUDGETS}},
    "raffm": {"method": {"name": "raffm", "salience": "first_order", "distillation": 0.5}},
}
WHOLE = ("fedavg", "fedprox")  # what a client holds is the full model


def test_every_method_trains_two_rounds_to_the_same_bits_on_3_ranks_as_on_1(mpirun, federations, tmp_path):
    assert {settings["method"]["name"] for settings in VARIANTS.values()} == {
        n for n in METHOD_SETTINGS if ":" not in n
    }
    (tmp_path / "own.py").write_text(OWN)
    own = {"own": {"method": {"name": f"{tmp_path}/own.py:Halves"}}}
    configs = []
    for model in ("vit", "bert"):
        base = yaml.safe_load((federations / f"{model}.yaml").read_text())
        for name, change in {**VARIANTS, **own}.items():
            training = {**base["training"], **change.get("training", {})}
            configs.append(tmp_path / f"{model}-{name}.yaml")
            configs[-1].write_text(yaml.safe_dump({**base, **change, "training": training}))
    alone = hashes_on(mpirun, 1, tmp_path, configs)
    assert alone == hashes_on(mpirun, 3, tmp_path, configs)
    assert len(set(alone.values())) == len(configs)  # each method and model has its own
    for config in configs:
        with open_run(tmp_path / f"{config.stem}-3") as log:
            assert log.status == "finished"
            assert (log.clients["status"] == "trained").all()
            name = config.stem.partition("-")[2]
            fewer = log.clients["parameters"] < log.submodels["parameters"][0]
            assert fewer.any() != (name in WHOLE)
            assert (log.evaluation["submodel"].nunique() > 1) != (name in (*WHOLE, "own"))
