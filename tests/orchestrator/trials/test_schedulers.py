"""Rungs are on disk before a decision is acted on, and a trial that is behind finds a note."""

import dataclasses
import errno
import json
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.policies.rungs import STOPPING_OBJECTIVES, EarlyStopping, Rungs
from orchestrator.trials.schedulers import RungScheduler, StoredRungs
from orchestrator.trials.wave import Wave
from trainables.errors import InputError
from trainables.results import Standing
from trainables.tune_adapter import stop_note

SETTINGS = EarlyStopping(reduction_factor=2, first_rung=0.25)


def standing(accuracy, cost=0.5, fraction=0.25):
    return Standing(fraction=fraction, points=({"val_accuracy": accuracy, "macs_kept": cost},)).to_dict()


@pytest.fixture
def open_rungs(tmp_path):
    """Rungs of a file, as a driver's start opens them."""
    return lambda settings=SETTINGS: StoredRungs(tmp_path / "rungs.jsonl", settings, seed=0)


def test_rungs_outlive_the_driver(open_rungs):
    never_killed = Rungs(SETTINGS, objectives=STOPPING_OBJECTIVES, seed=0)
    decisions = []
    for number in range(20):
        told = standing((number * 7 % 20) / 20, cost=(number * 3 % 20 + 1) / 20)
        goes_on = open_rungs().report(number, told)
        assert goes_on == never_killed.report(number, told["fraction"], told["points"])
        decisions.append(goes_on)
    assert set(decisions) == {True, False}


def test_a_report_between_rungs_writes_nothing(open_rungs, tmp_path):
    open_rungs().report(0, standing(0.9, fraction=0.1))
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_goes_on_from_a_checkpoint_is_not_counted_twice(open_rungs, tmp_path):
    open_rungs().report(0, standing(0.9))
    open_rungs().report(1, standing(0.8))
    before = (tmp_path / "rungs.jsonl").read_text()
    assert open_rungs().report(0, standing(0.1))
    assert not open_rungs().report(1, standing(1.0))  # stopped, though the driver died before it was told
    assert (tmp_path / "rungs.jsonl").read_text() == before


def test_a_line_that_was_cut_off_is_dropped(open_rungs, tmp_path):
    path = tmp_path / "rungs.jsonl"
    open_rungs().report(0, standing(0.9))
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    rungs = open_rungs()
    rungs.report(1, standing(0.95))
    assert [json.loads(line)["trial"] for line in path.read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize("line", ["{", "[]", '{"trial": 0}', '{"trial": 0, "rung": 0, "points": 3, "goes_on": true}'])
def test_a_damaged_line_is_an_error_that_names_it(open_rungs, tmp_path, line):
    open_rungs().report(0, standing(0.9))
    with (tmp_path / "rungs.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"line 2 of .*rungs\.jsonl is damaged; remove the file"):
        open_rungs()


def test_a_rung_that_is_not_there_is_an_error(open_rungs):
    open_rungs().report(0, standing(0.9, fraction=0.5))
    with pytest.raises(InputError, match=r"line 1 of .*rungs\.jsonl is of rung 1, but there are 1"):
        open_rungs(dataclasses.replace(SETTINGS, first_rung=0.5))


def test_a_trial_that_is_behind_finds_a_note_and_one_that_is_not_finds_none(open_rungs, tmp_path):
    scheduler = RungScheduler(Wave(None, size=1), open_rungs(), tmp_path)

    def report(number, accuracy):
        told = standing(accuracy)
        flat = {"standing/fraction": told["fraction"], "standing/points": told["points"], "done": False}
        return scheduler.on_trial_result(None, SimpleNamespace(config={"trial": number}), flat)

    assert [report(0, 0.9), report(1, 0.8), report(2, 0.95)] == [TrialScheduler.CONTINUE] * 3
    assert [number for number in range(3) if stop_note(tmp_path, number).exists()] == [1]
    assert stop_note(tmp_path, 1).read_text() == "early stopping after 25 % of its epochs, not among the best 50 % then"


def test_where_machines_share_no_folder_a_trial_is_told_another_way(open_rungs, tmp_path):
    told = []
    scheduler = RungScheduler(Wave(None, size=1), open_rungs(), tmp_path, lambda *words: told.append(words))
    for number, accuracy in enumerate((0.9, 0.8, 0.8)):
        word = standing(accuracy)
        flat = {"standing/fraction": word["fraction"], "standing/points": word["points"], "done": False}
        scheduler.on_trial_result(None, SimpleNamespace(config={"trial": number}), flat)
    assert told[0][0] == {"trial": 1}
    assert told[0][1].startswith("early stopping after 25 %")
    assert not stop_note(tmp_path, 1).exists()


def test_the_last_word_of_a_trial_that_failed_or_was_stopped_is_not_compared(open_rungs, tmp_path):
    scheduler = RungScheduler(Wave(None, size=1), open_rungs(), tmp_path)
    trial = SimpleNamespace(config={"trial": 0})
    assert scheduler.on_trial_result(None, trial, {"done": True, "stopped": "behind"}) == TrialScheduler.CONTINUE
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_breaks_the_wave_and_stops_no_trial(tmp_path):
    wave = Wave(None, size=1)
    scheduler = RungScheduler(wave, StoredRungs(tmp_path / "full", SETTINGS, seed=0), tmp_path)
    (tmp_path / "full").symlink_to("/dev/full")
    told = standing(0.9)
    flat = {"standing/fraction": told["fraction"], "standing/points": told["points"]}
    trial = SimpleNamespace(config={"trial": 0})
    assert scheduler.on_trial_result(None, trial, flat) == TrialScheduler.CONTINUE
    assert wave.broken.errno == errno.ENOSPC
    assert scheduler.on_trial_result(None, trial, flat) == TrialScheduler.CONTINUE
