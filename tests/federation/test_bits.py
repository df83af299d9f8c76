"""The result is bit-identical on any number of ranks."""

from __future__ import annotations

import yaml

from support.final_hashes import hashes_on

VARIANTS = {
    "raffm": {},
    "fedavg": {"method": {"name": "fedavg"}},
    "seed": {"seed": 1},
    "fedadam": {"server": {"optimizer": "fedadam"}},
}


def test_the_final_model_has_the_same_bits_on_1_2_3_and_4_ranks_and_others_with_another_seed(
    mpirun, federations, tmp_path
):
    configs = []
    for model in ("vit", "bert"):
        settings = yaml.safe_load((federations / f"{model}.yaml").read_text())
        for variant, change in VARIANTS.items():
            configs.append(tmp_path / f"{model}-{variant}.yaml")
            configs[-1].write_text(yaml.safe_dump({**settings, **change}))
    hashes = [hashes_on(mpirun, ranks, tmp_path, configs) for ranks in (1, 2, 3, 4)]
    assert hashes[0] == hashes[1] == hashes[2] == hashes[3]
    assert len(set(hashes[0].values())) == 8  # each model, method, seed and server optimizer has its own


def test_every_family_and_task_trains_to_the_same_bits_on_3_ranks_as_on_1(mpirun, family_configs, tmp_path):
    assert hashes_on(mpirun, 1, tmp_path, family_configs) == hashes_on(mpirun, 3, tmp_path, family_configs)
    for config in family_configs:
        assert_it_learned_something(tmp_path / f"{config.stem}-3")


def assert_it_learned_something(output):
    """The log is complete, and a metric of the task is there for the full model and its sub-models."""
    from raffm_mpi.log import open_run

    run = open_run(output)
    assert run.status == "finished"
    assert run.rounds["num_trained"].tolist() == [4, 4]
    assert run.clients["mean_loss"].between(0, 20).all()
    assert run.evaluation["score"].notna().all()
    assert run.evaluation["submodel"].nunique() > 1
    assert set(run.attributes["metrics"]) <= set(run.metrics["metric"])
    assert (run.personal["num_clients"] > 0).all()
