"""What holds for a search before anything of it runs."""

import os
import time
from types import SimpleNamespace

import pytest

from orchestrator.beginning import alone_if_timed, begin, removed_if_unused
from orchestrator.experiment.config import Experiment, parse_experiment
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.reuse import StageFolder
from trainables.data_config import DataConfig
from trainables.errors import InputError


@pytest.mark.parametrize("at_once", [None, 3])
def test_one_trial_runs_at_a_time_where_latency_is_measured(at_once):
    values = {"resources": {"max_concurrent": at_once}}
    assert alone_if_timed(parse_experiment(values)).resources.max_concurrent == at_once
    timed = alone_if_timed(parse_experiment(values | {"objectives": ["val_accuracy", "latency_ms"]}))
    assert timed.resources.max_concurrent == 1
    assert timed.resources.at_once(5) == 1


@pytest.mark.parametrize("other", [None, "notes.txt"])
def test_a_folder_that_nothing_was_begun_in_is_removed(tmp_path, other):
    folder = SearchFolder(storage=tmp_path, name="mine")
    folder.path.mkdir()
    (folder.path / "lock").touch()
    if other is not None:
        (folder.path / other).touch()
    with pytest.raises(InputError), removed_if_unused(folder):
        raise InputError("a check")
    assert folder.path.exists() == (other is not None)


def test_a_search_begins_without_what_others_were_killed_over_among_the_stages(tmp_path):
    folder = SearchFolder(storage=tmp_path, name="mine")
    left = folder.stages / f".{'a' * 32}.7-abcdefgh"
    left.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(left, (two_days_ago, two_days_ago))
    checks = SimpleNamespace(digest="d" * 64, images=DataConfig())
    task = SimpleNamespace(finished_stages=StageFolder(folder.stages))
    begin(Experiment(), folder, checks, task=task, table=None, mirror=None)
    assert not any(folder.stages.iterdir())
