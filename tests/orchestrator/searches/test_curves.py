"""Curves are whole after any number of starts, kept once, and read back as they were heard."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.searches.asked import Asked
from orchestrator.searches.curves import CurvePoint, Curves, read_curves, read_table, write_table
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.recipe import Recipe
from trainables.results import EpochProgress, LevelProgress, LevelResult

CASCADE = CascadeConfig(macs_kept=(0.5, 0.25), recipe=Recipe(epochs=3))
PARAMETERS = {"student_macs_kept": 0.25, "num_assistants": 1}


def asked(number=0):
    return Asked(number=number, cascade=CASCADE)


def progress(epoch, accuracy=0.5):
    levels = tuple(
        LevelProgress(level=level, macs_kept=0.5 / level, train_loss=0.25, val_accuracy=accuracy) for level in (1, 2)
    )
    return EpochProgress(
        stage="cascade", epoch=epoch, num_epochs=3, trial_epoch=epoch, learning_rate=0.1, seconds=2.0, levels=levels
    )


def result(level):
    return LevelResult(
        level=level,
        num_levels=2,
        val_accuracy=1 / 3,
        val_accuracy_before_recalibration=0.5,
        macs=1000,
        macs_kept=0.5 / level,
        params=10,
        params_kept=0.1,
    )


def run(curves, number, epochs):
    curves.started(asked(number), PARAMETERS)
    for epoch in epochs:
        curves.epoch(number, progress(epoch), trained=epoch)


def test_a_trial_comes_back_as_it_was_heard(tmp_path):
    curves = Curves(tmp_path / "curves")
    run(curves, 3, [1, 2])
    curves.ended(3, "finished", [result(1), result(2)])
    (curve,) = read_curves(tmp_path / "curves")
    assert (curve.trial, curve.end, curve.parameters, curve.cascade) == (3, "finished", PARAMETERS, CASCADE)
    assert curve.results == (result(1), result(2))
    assert curve.points[2] == CurvePoint(
        level=1,
        stage="cascade",
        epoch=2,
        trial_epoch=2,
        macs_kept=0.5,
        val_accuracy=0.5,
        train_loss=0.25,
        seconds=2.0,
    )
    assert [(point.trial_epoch, point.level) for point in curve.points] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_any_reader_of_parquet_reads_the_folder_while_trials_run(tmp_path):
    curves = Curves(tmp_path)
    run(curves, 0, [1])
    run(curves, 1, [1, 2])
    curves.ended(0, "finished")
    assert pq.read_table(tmp_path)["trial"].to_pylist() == [0, 0]


def test_how_much_a_trial_trained_itself_is_known_in_another_start(tmp_path):
    curves = Curves(tmp_path)
    curves.started(asked(), PARAMETERS)
    for epoch in (1, 2, 3, 4, 3):  # the first two it took over, and then its process died
        curves.epoch(0, progress(epoch), trained=max(0, epoch - 2))
    curves.started(asked(1), PARAMETERS)
    spool = tmp_path / "_running/00000.jsonl"
    spool.write_bytes(spool.read_bytes() + b'{"trained": 100, "stage": "casc')  # killed as it wrote
    again = Curves(tmp_path)
    assert [again.trained(number) for number in (0, 1, 2)] == [2, None, None]
    again.ended(0, "finished")
    assert again.trained(0) is None


def test_epochs_of_a_version_that_did_not_say_who_trained_them_are_kept(tmp_path):
    run(Curves(tmp_path), 0, [])
    spool = tmp_path / "_running/00000.jsonl"
    spool.write_text(f"{spool.read_text()}{json.dumps(progress(1).to_dict())}\n")
    assert Curves(tmp_path).trained(0) is None
    Curves(tmp_path).ended(0, "finished")
    assert len(read_curves(tmp_path)) == 1


def test_a_trial_whose_driver_died_before_it_kept_the_curve_has_one(tmp_path):
    curves = Curves(tmp_path)
    for number in range(3):
        run(curves, number, [1, 2])
    Curves(tmp_path).settle({0: "stopped", 2: "failed", 7: "finished"}, lambda number: [result(1)] * (number == 0))
    stopped, failed = read_curves(tmp_path)
    assert [(curve.trial, curve.end, len(curve.results)) for curve in (stopped, failed)] == [
        (0, "stopped", 1),
        (2, "failed", 0),
    ]
    assert [spool.name for spool in (tmp_path / "_running").iterdir()] == ["00001.jsonl"]


def test_a_trial_that_goes_on_in_another_start_has_one_whole_curve(tmp_path):
    run(Curves(tmp_path), 0, [1, 2])
    spool = next(tmp_path.glob("_running/*"))
    spool.write_bytes(spool.read_bytes() + b'\n{"stage": "casc')  # killed as it wrote
    again = Curves(tmp_path)
    again.started(asked(), PARAMETERS)
    again.epoch(0, progress(2, accuracy=0.75), trained=2)  # epoch 2 had no checkpoint yet
    again.epoch(0, progress(3), trained=3)
    again.ended(0, "finished")
    (curve,) = read_curves(tmp_path)
    assert [point.val_accuracy for point in curve.points if point.level == 1] == [0.5, 0.75, 0.5]


def test_ending_twice_changes_nothing_and_leaves_nothing(tmp_path):
    curves = Curves(tmp_path)
    run(curves, 0, [1])
    spool = next(tmp_path.glob("_running/*")).read_bytes()
    curves.ended(0, "finished", [result(1), result(2)])
    before = read_curves(tmp_path)
    # As if the driver had died before the trial's running file was gone.
    (tmp_path / "_running/00000.jsonl").write_bytes(spool)
    curves.ended(0, "failed")
    curves.ended(0, "failed")
    assert read_curves(tmp_path) == before
    assert list((tmp_path / "_running").iterdir()) == []


@pytest.mark.parametrize(("end", "results", "levels"), [("failed", (), []), ("stopped", (result(1),), [1])])
def test_trials_that_do_not_finish_leave_what_there_is(tmp_path, end, results, levels):
    curves = Curves(tmp_path)
    run(curves, 0, [1])
    curves.ended(0, end, results)
    (curve,) = read_curves(tmp_path)
    assert (curve.end, len(curve.points), [found.level for found in curve.results]) == (end, 2, levels)


def test_a_trial_without_an_epoch_leaves_nothing(tmp_path):
    curves = Curves(tmp_path)
    run(curves, 0, [])
    curves.ended(0, "failed")
    assert list(tmp_path.glob("*.parquet")) == list(tmp_path.glob("_running/*")) == []


def test_a_trial_of_which_nothing_was_kept_is_passed_over(tmp_path):
    curves = Curves(tmp_path)
    curves.epoch(7, progress(2), trained=2)
    curves.ended(7, "finished", [result(1)])
    assert list(tmp_path.iterdir()) == []


def test_many_trials_fit_in_one_file(tmp_path):
    curves = Curves(tmp_path / "curves")
    for number in (0, 1):
        run(curves, number, [1, 2, 3])
        curves.ended(number, "finished", [result(1), result(2)])
    write_table(tmp_path / "one.parquet", read_table(tmp_path / "curves"))
    assert read_curves(tmp_path / "one.parquet") == read_curves(tmp_path / "curves")


def test_what_holds_no_curves_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no learning curves; give the folder `curves` of a search"):
        read_curves(tmp_path)
    file = tmp_path / "other.parquet"
    pq.write_table(pa.table({"trial": [1]}), file)
    with pytest.raises(InputError, match=r"other\.parquet is a Parquet file, but holds no learning curves"):
        read_curves(file)
    file.write_bytes(json.dumps({}).encode())
    with pytest.raises(InputError, match=r"other\.parquet cannot be read as Parquet"):
        read_curves(file)


def test_newer_format_is_refused_with_both_versions(tmp_path):
    curves = Curves(tmp_path)
    run(curves, 0, [1])
    curves.ended(0, "finished")
    (part,) = tmp_path.glob("*.parquet")
    table = pq.read_table(part).replace_schema_metadata({b"cascade_curves_format": b"2"})
    pq.write_table(table, part)
    with pytest.raises(InputError, match="format version 2, but this version of the program reads up to 1"):
        read_curves(tmp_path)


def test_a_trial_whose_beginning_a_full_disk_did_not_take_begins_anew(tmp_path, little_room):
    curves = Curves(tmp_path)
    with little_room(50), pytest.raises(OSError, match="File too large"):
        curves.started(asked(), PARAMETERS)
    run(Curves(tmp_path), 0, [1])
    curves.ended(0, "finished")
    (curve,) = read_curves(tmp_path)
    assert (curve.parameters, len(curve.points)) == (PARAMETERS, 2)


def test_a_file_whose_beginning_was_lost_gives_no_curve(tmp_path):
    curves = Curves(tmp_path / "curves")
    curves.started(asked(4), {})
    (spool,) = (tmp_path / "curves").rglob("*.jsonl")
    spool.write_bytes(b"")
    curves.ended(4, "finished")
    assert list((tmp_path / "curves").rglob("*.parquet")) == []
    assert not spool.exists()
