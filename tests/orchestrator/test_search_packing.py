"""When a search finds out how many of its trials share a card."""

from types import SimpleNamespace

import pytest

from orchestrator import search
from orchestrator.experiment.config import parse_experiment


class Reached(Exception):  # noqa: N818 - a place, not an error
    """As far as a test goes."""


@pytest.mark.parametrize(
    ("num_trials", "num_ended", "num_begun", "most", "at_once"),
    [
        (4, 0, 0, None, 4),
        (4, 3, 1, None, 4),
        (4, 4, 0, None, None),
        (2, 3, 0, None, None),
        (2, 3, 3, None, 3),  # num_trials was lowered: what was begun goes on all the same
        (2, 3, 3, 2, 2),
        (2, 0, 3, None, 3),
    ],
)
def test_trials_that_will_run_share_cards(
    monkeypatch, tmp_path, num_trials, num_ended, num_begun, most, at_once
) -> None:
    asked = []

    def pack(*_, at_once, **__):
        asked.append(at_once)
        raise Reached

    def enqueue(_):
        raise Reached

    study = SimpleNamespace(num_ended=num_ended, running=lambda: (None,) * num_begun, enqueue=enqueue)
    monkeypatch.setattr(search, "open_study", lambda *_: study)
    monkeypatch.setattr(search, "_prepare_teacher", lambda *_: None)
    monkeypatch.setattr(search, "pack", pack)
    resources = {"gpus_per_trial": "auto", "max_concurrent": most}
    begun = SimpleNamespace(
        experiment=parse_experiment({"num_trials": num_trials, "resources": resources}),
        folder=SimpleNamespace(path=tmp_path),
        budget=None,
        mirror=None,
        task=None,
        data=None,
        look=None,
        watcher=SimpleNamespace(note=print),
    )
    with pytest.raises(Reached):
        search._run(begun)
    assert asked == ([] if at_once is None else [at_once])
