import pytest

from orchestrator.experiment.config import Experiment, load_experiment
from orchestrator.policies.budget import Budget, Ended, Stop
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.same_search import require_fresh_or_same
from trainables.errors import InputError


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def past(*volumes, epochs=5):
    return [Ended(order=order, epochs=epochs, hypervolume=volume) for order, volume in enumerate(volumes, start=1)]


def end(budget, number, **known):
    """A trial ends; what is kept of it."""
    with budget.ending(number, **known) as ended:
        return ended


def test_without_limits_nothing_ends_a_search():
    clock = Clock()
    budget = Budget(Stop(), clock=clock)
    budget.recall(past(*[0.5] * 1000))
    clock.seconds = 1e9
    assert budget.reached() is None


def test_minutes_count_from_this_start():
    clock = Clock()
    budget = Budget(Stop(max_minutes=1.5), clock=clock)
    clock.seconds += 89.9
    assert budget.reached() is None
    clock.seconds += 0.1
    assert budget.reached() == "stop.max_minutes: 1.5 minutes have passed"


def test_a_clock_that_people_set_ends_nothing(monkeypatch):
    budget = Budget(Stop(max_minutes=60))
    for jump in (1e12, 0.0):
        monkeypatch.setattr("time.time", lambda jump=jump: jump)
        assert budget.reached() is None


def test_epochs_of_running_and_of_earlier_trials_count():
    budget = Budget(Stop(max_epochs=20))
    budget.recall(past(0.1, 0.2))
    budget.trained(2, 4)
    budget.trained(3, 5)
    assert (budget.epochs, budget.reached()) == (19, None)
    budget.trained(2, 5)
    assert budget.reached() == "stop.max_epochs: 20 epochs or more have been trained"


def test_epochs_that_are_trained_again_after_a_crash_count_once():
    budget = Budget(Stop())
    for trial_epoch in (1, 2, 3, 2, 3, 4):
        budget.trained(0, trial_epoch)
    assert budget.epochs == 4
    assert end(budget, 0, hypervolume=0.5).epochs == 4
    assert budget.epochs == 4


def test_what_a_running_trial_trained_is_known_until_it_ends():
    budget = Budget(Stop())
    budget.trained(0, 3)
    assert (budget.trained_by(0), budget.trained_by(1)) == (3, 0)
    assert end(budget, 0, hypervolume=0.5) == Ended(order=1, epochs=3, hypervolume=0.5)
    assert (budget.trained_by(0), budget.epochs) == (0, 3)


def test_a_trial_whose_end_cannot_be_kept_has_not_ended():
    budget = Budget(Stop())
    budget.trained(0, 3)
    with pytest.raises(OSError, match="full"), budget.ending(0, hypervolume=0.5):
        raise OSError("the disk is full")
    assert (budget.num_ended, budget.epochs) == (0, 3)


def test_order_goes_on_after_earlier_starts():
    budget = Budget(Stop())
    budget.recall(reversed(past(0.1, 0.2, 0.3)))
    assert end(budget, 9, hypervolume=0.3).order == 4


@pytest.mark.parametrize(
    ("volumes", "stands_still"),
    [
        ((0.5, 0.5), False),  # too few to tell
        ((0.5, 0.5, 0.5), True),
        ((0.5, 0.5, 0.6), False),
        ((0.5, 0.6, 0.6), False),
        ((0.5, 0.6, 0.6, 0.6), True),
        ((0.0, 0.0, 0.0), True),  # all failed
        ((0.5, 0.5, 0.5049), True),  # less than a hundredth more
        ((0.5, 0.5, 0.5051), False),
    ],
)
def test_a_hypervolume_that_stands_still(volumes, stands_still):
    budget = Budget(Stop(trials_without_gain=2, min_gain=0.01))
    budget.recall(past(*volumes))
    reason = budget.reached()
    assert (reason is not None) is stands_still
    assert reason is None or reason.startswith("stop.trials_without_gain: the hypervolume grew by ")


def test_a_limit_that_was_reached_stays_reached():
    budget = Budget(Stop(trials_without_gain=1))
    budget.recall(past(0.5, 0.5))
    reason = budget.reached()
    end(budget, 2, hypervolume=0.9)  # one that was still running
    assert budget.reached() == reason is not None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stop.max_minutes=0", "stop.max_minutes is 0, but must be greater than 0"),
        ("stop.max_minutes=.inf", "stop.max_minutes is inf, but must be a finite number"),
        ("stop.max_epochs=0", "stop.max_epochs is 0"),
        ("stop.max_epochs=1.5", "stop.max_epochs is 1.5"),
        ("stop.trials_without_gain=-1", "stop.trials_without_gain is -1"),
        ("stop.min_gain=.nan", "stop.min_gain is nan"),
        ("stop.max_hours=2", "unknown key 'stop.max_hours'; did you mean 'max_"),
        ("stop=3", "stop is 3"),
    ],
)
def test_limits_that_cannot_be_are_named(setting, message):
    with pytest.raises(InputError) as error:
        load_experiment("demo", [setting])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_limits_may_differ_on_resume(tmp_path):
    folder = SearchFolder(storage=tmp_path, name="mine")
    folder.begin(Experiment())
    require_fresh_or_same(folder, Experiment(stop=Stop(max_minutes=3)), resume=True)
