"""What is damaged or foreign is recognised: an older checkpoint is used, or one sentence says it; nothing is lost."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
from pathlib import Path

import h5py
import pytest

from raffm_mpi.config import load_settings
from raffm_mpi.errors import UserMistake
from raffm_mpi.log import RunLog, open_run
from raffm_mpi.recovery import checkpoint as checkpoints
from raffm_mpi.recovery.resume import MAY_CHANGE, Start, check_identity, find_start

NEWEST, BEFORE = "round_000002", "round_000001"


@pytest.fixture
def broken(half, config, tmp_path):
    """A copy of the half run to break, and the settings that go on with it."""
    output = shutil.copytree(half, tmp_path / "run")
    return output, load_settings(config, [f"output={output}", "resume=auto"])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


def replace_by_a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [1.0, 2.0]}))


DAMAGES = [truncate, flip_a_bit, Path.unlink, replace_by_a_pickle]


@pytest.mark.parametrize("part", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(broken, damage, part):
    output, settings = broken
    damage(output / checkpoints.FOLDER / NEWEST / part)
    start = find_start(settings)
    assert start.next_round == 2
    (remark,) = start.remarks
    assert f"{NEWEST}/{part}'" in remark and remark.endswith("the state before it is used")
    assert any(f"{NEWEST}/{part}" in flaw for flaw in checkpoints.check(output))


def test_a_pickle_with_the_right_checksums_is_still_no_checkpoint(broken):
    output, settings = broken
    folder = output / checkpoints.FOLDER / NEWEST
    replace_by_a_pickle(folder / "model.safetensors")
    state = json.loads((folder / "state.json").read_text())
    del state["sha256"]
    state["parts"]["model.safetensors"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "state.json").write_text(json.dumps({**state, "sha256": checkpoints._digest(state)}))
    start = find_start(settings)
    assert start.next_round == 2
    assert "is no safetensors file" in start.remarks[0]


def test_a_half_written_checkpoint_is_not_even_looked_at(broken):
    output, settings = broken
    (output / checkpoints.FOLDER / NEWEST).rename(output / checkpoints.FOLDER / f".new.{NEWEST}")
    start = find_start(settings)
    assert (start.next_round, start.remarks) == (2, [])


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_kept(broken):
    output, settings = broken
    for folder in (NEWEST, BEFORE):
        flip_a_bit(output / checkpoints.FOLDER / folder / "model.safetensors")
    before = contents(output)
    with pytest.raises(UserMistake, match=r"no checkpoint is whole: .*round_000002.*; .*round_000001"):
        find_start(settings)
    assert contents(output) == before


@pytest.mark.parametrize("seed", range(12))
def test_a_log_that_was_cut_anywhere_is_refused_in_one_sentence_and_kept(broken, seed):
    output, settings = broken
    log = output / "run.h5"
    log.write_bytes(log.read_bytes()[: random.Random(seed).randrange(1, log.stat().st_size - 4096)])
    before = contents(output)
    with pytest.raises(UserMistake, match=r"run\.h5' is (not an HDF5 file|truncated)") as refused:
        find_start(settings)
    assert "\n" not in str(refused.value)
    assert contents(output) == before


def test_checkpoints_and_log_must_be_of_one_run(broken):
    output, settings = broken
    with open_run(output) as run:
        num_rounds = len(run.rounds)
    log = RunLog.reopen(output, num_rounds=num_rounds, attributes={"run_id": "another"})
    log.finish("interrupted")
    with pytest.raises(UserMistake, match="is a checkpoint of another run than the log"):
        find_start(settings)


def test_an_older_copy_of_the_log_is_refused(broken):
    output, settings = broken
    RunLog.reopen(output, num_rounds=2).finish("interrupted")
    with pytest.raises(UserMistake, match="holds 2 committed rounds, but the checkpoint is after 3"):
        find_start(settings)


@pytest.mark.parametrize("name", ["config.yaml", "model", "checkpoints"])
def test_a_folder_with_results_but_no_log_is_refused(half, config, tmp_path, name):
    (tmp_path / "run").mkdir()
    copy = shutil.copytree if (half / name).is_dir() else shutil.copy
    copy(half / name, tmp_path / "run" / name)
    with pytest.raises(UserMistake, match=f"has {name}, but no log"):
        find_start(load_settings(config, [f"output={tmp_path / 'run'}", "resume=auto"]))


def test_settings_that_show_in_the_result_are_refused_by_name_and_others_may_change(broken, config):
    output, _ = broken
    changed = ["seed=1", "training.learning_rate=0.5", "compute.threads_per_group=2"]
    free = [
        "reliability.hang_timeout_s=7",
        "evaluation.placement=server",
        "federation.num_rounds=9",
        "log.file_locking=false",
    ]
    base = [f"output={output}", "resume=auto"]
    with pytest.raises(UserMistake, match=r"compute\.threads_per_group was 1 and is now 2") as refused:
        find_start(load_settings(config, base + changed + free))
    assert "seed was 0 and is now 1" in str(refused.value)
    assert "training.learning_rate was 0.001 and is now 0.5" in str(refused.value)
    assert "hang_timeout_s" not in str(refused.value)
    assert find_start(load_settings(config, base + free)).next_round == 3
    with pytest.raises(UserMistake, match=r"federation\.num_rounds: 2 is fewer than the 3 rounds"):
        find_start(load_settings(config, [*base, "federation.num_rounds=2"]))


def test_every_setting_that_may_change_is_one():
    traces = "devices.availability={kind: file, path: traces.csv}"
    values = load_settings(Path(__file__).parents[2] / "configs" / "devices.yaml", [traces]).model_dump()
    for name in MAY_CHANGE:
        value = values
        for part in name.split("."):
            assert part in value, name
            value = value[part]


def test_other_examples_or_another_model_are_refused():
    own = {"data_sha256": "d", "model_sha256": "m", "devices_sha256": "v"}
    start = Start(is_new=False, attributes=own)
    check_identity(start, own)
    with pytest.raises(UserMistake, match=r"data\.path: this is other examples"):
        check_identity(start, {**own, "data_sha256": "e"})
    with pytest.raises(UserMistake, match="model: this is another model"):
        check_identity(start, {**own, "model_sha256": "n"})
    with pytest.raises(UserMistake, match="devices: these are other devices"):
        check_identity(start, {**own, "devices_sha256": "w"})


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_more_rounds_than_it_had(
    half, resume, assert_undisturbed, tmp_path
):
    output = shutil.copytree(half, tmp_path / "run")
    flip_a_bit(output / checkpoints.FOLDER / NEWEST / "model.safetensors")
    result = resume(output)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("does not have the SHA-256 that 'state.json' gives; the state before it is used") == 1
    assert_undisturbed(output)


def test_a_refusal_ends_with_status_2_and_a_sentence(half, resume, tmp_path):
    output = shutil.copytree(half, tmp_path / "run")
    truncated = (output / "run.h5").read_bytes()[:5000]
    (output / "run.h5").write_bytes(truncated)
    result = resume(output)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("raffm-mpi: ")]
    assert "truncated" in line
    assert "Traceback" not in result.stderr
    assert (output / "run.h5").read_bytes() == truncated


def test_a_finished_run_is_left_alone(half, resume, tmp_path):
    output = shutil.copytree(half, tmp_path / "run")
    before = contents(output)
    result = resume(output, 1, "federation.num_rounds=3")
    assert result.returncode == 0
    assert "is finished already" in result.stderr
    assert contents(output) == before


def test_a_flipped_bit_in_a_column_of_the_log_is_found(broken):
    from raffm_mpi.federation.verify import verify

    output, _ = broken
    assert verify(output) == []
    with h5py.File(output / "run.h5", "r") as file:
        offset = file["clients/mean_loss"].id.get_chunk_info(0).byte_offset
    damaged = bytearray((output / "run.h5").read_bytes())
    damaged[offset + 2] ^= 4
    (output / "run.h5").write_bytes(damaged)
    assert any("checksum" in flaw for flaw in verify(output))
