"""`cascade simulate`: on a file of curves, on a search's own, and what it refuses."""

import json
from dataclasses import replace

import pytest

from orchestrator.experiment.config import Experiment
from orchestrator.replay.comparison import compare
from orchestrator.replay.policy import Policy
from orchestrator.searches.asked import Asked
from orchestrator.searches.curves import Curves, read_table, write_table
from orchestrator.simulations import print_simulation
from trainables.errors import InputError
from trainables.results import EpochProgress, LevelProgress

EXPERIMENT = {
    "space": {"num_assistants": [1, 1], "student_macs_kept": [0.01, 0.2]},
    "cascade": {"recipe": {"epochs": 4}},
}


@pytest.fixture
def curves_file(tmp_path, make_curve):
    """One recorded trial in a file."""
    curve = make_curve()
    curves = Curves(tmp_path / "curves")
    curves.started(Asked(number=0, cascade=curve.cascade), {})
    for epoch in range(1, 5):
        levels = [point for point in curve.points if point.trial_epoch == epoch]
        progress = EpochProgress(
            stage="cascade",
            epoch=epoch,
            num_epochs=4,
            trial_epoch=epoch,
            learning_rate=0.1,
            seconds=1.0,
            levels=tuple(
                LevelProgress(
                    level=point.level, macs_kept=point.macs_kept, train_loss=1.0, val_accuracy=point.val_accuracy
                )
                for point in levels
            ),
        )
        curves.epoch(0, progress, trained=progress.trial_epoch)
    curves.ended(0, "finished", curve.results)
    write_table(tmp_path / "curves.parquet", read_table(tmp_path / "curves"), experiment=EXPERIMENT)
    return tmp_path / "curves.parquet"


def simulate(source, **others):
    options = {
        "policies": ["random"],
        "num_trials": 3,
        "until": 0.95,
        "num_seeds": 1,
        "num_workers": 2,
        "work": "epochs",
        "corner": "teacher",
        "format": "json",
    }
    print_simulation(str(source), storage=source.parent, **options | others)


def test_a_file_of_curves_is_replayed(curves_file, capsys):
    simulate(curves_file, policies=["random", "tpe+start:2"])
    random, tpe = json.loads(capsys.readouterr().out)
    assert (random["policy"], tpe["policy"]) == ("random", "tpe+start:2")
    # The one trial answers everything: the two that run side by side spend eight epochs, less the second's last.
    assert random["work"]["mean"] == tpe["work"]["mean"] == 7.0
    assert (random["share"]["mean"], random["num_trials"], random["num_short"]) == (1.0, 2.0, 0)


def test_a_table_is_printed_and_what_was_not_reached_is_said(curves_file, capsys, monkeypatch):
    def fell_short(*given, **others):
        return [replace(found, num_short=1) for found in compare(*given, **others)]

    with monkeypatch.context() as patched:  # with one recorded trial all searches reach it
        patched.setattr("orchestrator.simulations.compare", fell_short)
        simulate(curves_file, num_trials=1, format="text")
    assert "not reached within 4, which is what they count with: random 1" in capsys.readouterr().out
    simulate(curves_file, num_trials=1, format="text")
    said = capsys.readouterr().out
    assert "1 recorded trial, seeds of each policy: 1, 1 worker; work in epochs" in said
    assert "not reached" not in said
    assert "note: 1 recorded trial stands for all cascades, which take 100 or so" in said


def test_there_are_no_more_workers_than_trials(curves_file, capsys):
    simulate(curves_file, num_trials=1, num_workers=8)
    (random,) = json.loads(capsys.readouterr().out)
    assert (random["num_trials"], random["work"]["mean"]) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"until": 0.0}, "--until is 0, but must be a fraction"),
        ({"policies": ["best"]}, "'best' is no sampler"),
        ({"policies": ["tpe+asha"]}, r"must be SAMPLER\[\+start"),
    ],
)
def test_what_cannot_be_is_said(curves_file, options, says):
    with pytest.raises(InputError, match=says):
        simulate(curves_file, **options)


def test_constraints_of_the_experiment_hold(curves_file):
    constraints = {"macs_kept": {"at_most": 0.05}}
    write_table(
        curves_file,
        read_table(curves_file.with_name("curves")),
        experiment={**EXPERIMENT, "constraints": constraints},
    )
    with pytest.raises(InputError, match=r"constraints: no recorded network meets macs_kept at most 0\.05"):
        simulate(curves_file)


def test_a_file_that_says_no_experiment_is_refused(curves_file):
    other = curves_file.with_name("other.parquet")
    write_table(other, read_table(curves_file.with_name("curves")))
    with pytest.raises(InputError, match="does not say which search its curves come from"):
        simulate(other)


def test_a_space_that_a_file_names_is_not_imported(curves_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spaces.py").write_text("open('it_ran', 'w')\n")
    write_table(
        curves_file, read_table(curves_file.with_name("curves")), experiment={**EXPERIMENT, "space": "spaces:own"}
    )
    with pytest.raises(InputError, match=r"recorded in the space spaces:own, which is not imported from a file's word"):
        simulate(curves_file)
    assert not (tmp_path / "it_ran").exists()


def test_a_search_is_by_default_what_the_benchmarks_hold_against_others():
    from benchmarks import policies, real_search

    default, experiment = Policy.parse(policies.DEFAULT), Experiment()
    assert (default.sampler, default.num_starting_points) == (experiment.sampler, experiment.num_starting_points)
    assert default.early_stopping is experiment.early_stopping is None
    replayed = real_search.POLICIES[real_search.DEFAULT]
    assert replayed == {"sampler": default.sampler, "num_starting_points": default.num_starting_points}


@pytest.mark.integration
def test_a_search_is_replayed_from_its_own_curves(tiny_search, cascade_commands):
    words = ["--trials", "2", "--seeds", "2", "--workers", "1", "--policy", "random", "--format", "json"]
    (done,) = cascade_commands(["simulate", "tiny", *words], cwd=tiny_search)
    (random,) = done.json()
    assert random["num_trials"] == 2.0
