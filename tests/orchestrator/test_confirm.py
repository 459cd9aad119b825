import shutil
import subprocess
import sys

import pytest

from orchestrator.confirm import RepeatQueue, new_seed
from orchestrator.front.archive import Archive
from orchestrator.front.repeats import RepeatFile
from orchestrator.searches.folder import SearchFolder
from trainables.config import CascadeConfig

CASCADES = {0: CascadeConfig(macs_kept=(0.5,)), 12: CascadeConfig(macs_kept=(0.5, 0.2), seed=4)}


def test_each_cascade_is_repeated_with_seeds_of_its_own(tmp_path):
    queue = RepeatQueue(SearchFolder(storage=tmp_path, name="mine"), CASCADES, num_seeds=3)
    assert queue.num_new == 6
    configs = [queue.next() for _ in range(6)]
    assert queue.next() is None
    cascades = [CascadeConfig.from_dict(config["cascade"]) for config in configs]
    assert len({config["trial"] for config in configs}) == 6
    assert len({cascade.seed for cascade in cascades}) == 6
    assert all(cascade.seed not in (0, 4) for cascade in cascades)
    assert {cascade.macs_kept for cascade in cascades} == {(0.5,), (0.5, 0.2)}


def test_what_is_done_is_not_done_again_and_more_seeds_add_to_it(tmp_path):
    folder = SearchFolder(storage=tmp_path, name="mine")
    first = RepeatQueue(folder, CASCADES, num_seeds=2)
    number = first.next()["trial"]
    repeat = first.repeat(number)
    first.file.add(repeat)
    second = RepeatQueue(folder, CASCADES, num_seeds=3)
    assert number not in second.unfinished
    assert second.num_new == 5
    assert repeat.seed == new_seed(CASCADES[repeat.trial], repeat.index)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_a_front_is_confirmed_and_the_search_is_left_as_it_is(tiny_search, cascade_commands, tmp_path):
    from mlflow import MlflowClient

    shutil.copytree(tiny_search, tmp_path / "copy")
    here = tmp_path / "copy"
    before = Archive(here / "runs/tiny/archive.parquet").path.read_bytes()
    journal = (here / "runs/tiny/study.journal").read_bytes()
    gone = here / "runs/tiny/experiment.yaml"
    gone.write_text(gone.read_text().replace("address: local", "address: 127.0.0.1:1"))  # as of a cluster that ended
    with subprocess.Popen([sys.executable, "-c", ""]) as killed:
        killed.wait()
    half_written = here / f"runs/tiny/.confirm.parquet.{killed.pid}"
    half_written.touch()
    elsewhere = ["--set", "resources.address=local"]
    shown, refused, first, second, again = cascade_commands(
        ["front", "tiny", "--format", "json"],
        ["confirm", "tiny", "--seeds", "2"],
        ["confirm", "tiny", "--seeds", "2", "--pick", "knee", "--format", "json", *elsewhere],
        ["confirm", "tiny", "--seeds", "2", "--format", "json", *elsewhere],
        ["confirm", "tiny", "--seeds", "2"],
        cwd=here,
        codes=[0, 2, 0, 0, 0],
    )
    assert "nothing answers there; --set resources.address=local starts one on this machine" in refused.err
    front = [row for row in shown.json() if row["on_front"]]
    (knee,) = first.json()
    assert knee["val_accuracy"] == next(row["val_accuracy"] for row in front if row["knee"])
    assert len(knee["val_accuracies"]) == 2
    assert knee["low"] <= knee["mean"] <= knee["high"]
    rows = {(row["trial"], row["level"]): row for row in second.json()}
    assert set(rows) == {(row["trial"], row["level"]) for row in front}
    assert rows[knee["trial"], knee["level"]] == knee
    assert f"trial {knee['trial']}, seed 1 of 2" not in second.err  # kept from before
    assert "95 % interval" in again.out
    assert "seed 1 of 2" not in again.out
    assert (here / "runs/tiny/archive.parquet").read_bytes() == before
    assert (here / "runs/tiny/study.journal").read_bytes() == journal
    assert not (here / "runs/tiny/confirm").exists()
    assert not half_written.exists()
    repeats = RepeatFile(here / "runs/tiny/confirm.parquet").read()
    (num_val,) = {repeat.num_val for repeat in repeats}
    hits = [accuracy * num_val for repeat in repeats for accuracy in repeat.val_accuracies]
    assert hits == pytest.approx([round(number) for number in hits])
    client = MlflowClient(f"sqlite:///{here}/runs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'cascade'")
    runs = client.search_runs([experiment.experiment_id], "tags.`cascade.kind` = 'confirm'")
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.info.end_time > run.info.start_time for run in runs), "they trained meanwhile"
    assert len(runs) == len(repeats) == 2 * len({trial for trial, _ in rows})
    (search,) = client.search_runs([experiment.experiment_id], "tags.`cascade.kind` = 'search'")
    assert search.info.status == "FINISHED"


@pytest.mark.integration
def test_what_cannot_be_confirmed_is_said(tiny_search, cascade_commands):
    wrong = [
        (["nothing"], "there is no search 'nothing'"),
        (["tiny", "--seeds", "1"], "--seeds is 1, but must be within 2 … 999"),
        (["tiny", "--pick", "best"], "'best', but must be one of"),
        (["tiny", "--pick", "9:1"], "trial 9 has no candidate"),
        (["tiny", "--set", "num_trials=9"], "--set 'num_trials=9' must be of resources, such as resources.address="),
    ]
    *refused, front = cascade_commands(
        *(["confirm", *words] for words, _ in wrong),
        ["front", "tiny", "--format", "json"],
        cwd=tiny_search,
        codes=[2] * len(wrong) + [0],
    )
    for done, (_, message) in zip(refused, wrong, strict=True):
        assert message in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert front.json()
