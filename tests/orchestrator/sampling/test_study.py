import optuna
import pytest
from optuna.trial import TrialState

from orchestrator.policies.budget import Ended
from orchestrator.policies.looks import Refusal, SizeLook
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import SpaceExhausted, Study
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.recipe import Recipe

SPACE = CascadeSpace(num_assistants=(0, 2))
DEFAULTS = CascadeDefaults()
OBJECTIVES = ("val_accuracy", "macs_kept")


def open_study(tmp_path, seed=0, **options):
    return Study(StudyAddress(place=tmp_path / "study.journal", objectives=OBJECTIVES), seed=seed, **options)


def test_what_was_told_is_there_after_reopening(tmp_path):
    study = open_study(tmp_path)
    done, failed, left = (study.ask(SPACE, DEFAULTS) for _ in range(3))
    study.tell(done.number, [0.9, 0.1])
    study.fail(failed.number, "diverged")
    again = open_study(tmp_path)
    assert again.running() == (left,)
    assert again.failures() == {failed.number: "diverged"}
    assert (again.num_started, again.num_ended) == (3, 2)


def test_what_belongs_together_is_forced_to_the_disk_once_and_then_it_is_there(tmp_path, monkeypatch):
    forced = []
    monkeypatch.setattr("os.fsync", lambda number: forced.append((tmp_path / "study.journal").read_bytes()))
    study = open_study(tmp_path)

    def newly_forced(action):
        forced.clear()
        result = action()
        assert forced[-1] == (tmp_path / "study.journal").read_bytes()  # nothing was written behind it
        return len(forced), result

    number, asked = newly_forced(lambda: study.ask(SPACE, DEFAULTS))
    assert number == 1
    assert newly_forced(lambda: study.tell(asked.number, [0.9, 0.1], measured={"macs": 1.0}))[0] == 1

    def all_of_it():
        other = study.ask(SPACE, DEFAULTS)
        with study.together():
            study.note_end(other.number, Ended(order=1, epochs=2, hypervolume=0.5))
            study.stop(other.number, "behind")

    assert newly_forced(all_of_it)[0] == 2
    assert open_study(tmp_path).stopped() == {1: "behind"}


def test_a_failure_within_leaves_on_the_disk_what_came_before(tmp_path, monkeypatch):
    study = open_study(tmp_path)
    asked = study.ask(SPACE, DEFAULTS)
    forced = []
    monkeypatch.setattr("os.fsync", forced.append)

    def fail_within():
        with study.together():
            study.fail(asked.number, "diverged")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert len(forced) == 1
    study.enqueue([{"student_macs_kept": 0.1}])
    assert len(forced) > 1  # afterwards each line is forced again


def test_telling_twice_changes_nothing(tmp_path):
    study = open_study(tmp_path)
    asked = study.ask(SPACE, DEFAULTS)
    study.tell(asked.number, [0.9, 0.1])
    study.tell(asked.number, [0.1, 0.9])
    study.fail(asked.number, "late")
    assert study.failures() == {}
    assert study._study.trials[asked.number].values == [0.9, 0.1]


def test_a_stopped_trial_is_pruned_without_values_and_counts(tmp_path):
    study = open_study(tmp_path)
    first, second = study.ask(SPACE, DEFAULTS), study.ask(SPACE, DEFAULTS)
    study.stop(first.number, "behind")
    study.stop(first.number, "again")
    study.tell(first.number, [0.9, 0.1])
    study.tell(second.number, [0.9, 0.1])
    study.stop(second.number, "late")
    again = open_study(tmp_path)
    assert again.stopped() == {first.number: "behind"}
    assert (again.num_started, again.num_ended, again.failures()) == (2, 2, {})
    assert [trial.number for trial in again._study.best_trials] == [second.number]
    assert again._study.trials[first.number].state is TrialState.PRUNED
    assert again.ask(SPACE, DEFAULTS).number == 2  # the sampler can do with it


def test_a_resumed_study_does_not_suggest_its_first_trials_again(tmp_path):
    first = open_study(tmp_path).ask(SPACE, DEFAULTS)
    second = open_study(tmp_path).ask(SPACE, DEFAULTS)
    assert first.cascade.macs_kept != second.cascade.macs_kept


def test_the_same_seed_asks_the_same(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    asked = [open_study(tmp_path / name, seed=3).ask(SPACE, DEFAULTS) for name in "ab"]
    assert asked[0] == asked[1]


def test_starting_points_come_first_and_once(tmp_path):
    points = SPACE.starting_points(2)
    study = open_study(tmp_path)
    study.enqueue(points)
    study.ask(SPACE, DEFAULTS)
    again = open_study(tmp_path)
    again.enqueue(points)
    second, third = again.ask(SPACE, DEFAULTS), again.ask(SPACE, DEFAULTS)
    assert second.cascade.macs_kept[-1] == pytest.approx(points[1]["student_macs_kept"], rel=1e-3)
    assert third.cascade.macs_kept[-1] != second.cascade.macs_kept[-1]


def test_starting_points_that_a_killed_start_left_out_are_added(tmp_path):
    points = SPACE.starting_points(3)
    study = open_study(tmp_path)
    study._study.enqueue_trial(points[0])
    again = open_study(tmp_path)
    again.enqueue(points)
    sizes = [again.ask(SPACE, DEFAULTS).cascade.macs_kept[-1] for _ in range(3)]
    assert sizes == pytest.approx([point["student_macs_kept"] for point in points], rel=1e-3)


def test_equal_starting_points_are_tried_once(tmp_path):
    study = open_study(tmp_path)
    study.enqueue([{"temperature": 2.0}, {"temperature": 3.0}, {"temperature": 2.0}])
    temperatures = [study.ask(SPACE, DEFAULTS).cascade.temperature for _ in range(3)]
    assert temperatures[:2] == [2.0, 3.0]
    assert temperatures[2] != 2.0


def test_many_starting_points_are_laid_out_without_reading_all_for_each(tmp_path, monkeypatch):
    study = open_study(tmp_path)
    reads = []
    read = optuna.Study.get_trials
    monkeypatch.setattr(optuna.Study, "get_trials", lambda *args, **named: reads.append(1) or read(*args, **named))
    study.enqueue(SPACE.starting_points(100))
    assert len(reads) < 10


def test_starts_draw_differently_though_starting_points_wait(tmp_path):
    temperatures = []
    for _ in range(3):
        study = open_study(tmp_path, sampler="random")
        study.enqueue([{"student_macs_kept": 0.1 + number / 100} for number in range(9)])
        temperatures += [study.ask(SPACE, DEFAULTS).cascade.temperature for _ in range(2)]
    assert len(set(temperatures)) == 6


class SometimesImpossible:
    """Gives a cascade that cannot be for every other trial."""

    def __call__(self, trial, defaults):
        size = trial.suggest_float("size", 0.1, 0.9)
        return CascadeConfig(macs_kept=(size,) if trial.number % 2 else (size, size), recipe=defaults.recipe)


class Impossible:
    def __call__(self, trial, defaults):
        return CascadeConfig(macs_kept=(0.5, 0.1), schedule="sequential", recipe=Recipe(epochs=1))


def test_impossible_cascades_are_drawn_again_and_do_not_count(tmp_path):
    study = open_study(tmp_path)
    asked = study.ask(SometimesImpossible(), DEFAULTS)
    assert asked.number == 1
    assert study.num_started == 1


def test_a_space_without_a_possible_cascade_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"no valid cascade.*at least one epoch a level"):
        open_study(tmp_path).ask(Impossible(), DEFAULTS)


class FourCascades:
    def __call__(self, trial, defaults):
        size = trial.suggest_categorical("size", [0.1, 0.2, 0.3, 0.4])
        return CascadeConfig(macs_kept=(size,), recipe=defaults.recipe, seed=trial.number)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_nothing_is_run_twice_and_an_exhausted_space_says_so(tmp_path, sampler):
    study = open_study(tmp_path, sampler=sampler)
    asked = [study.ask(FourCascades(), DEFAULTS) for _ in range(2)]
    study.tell(asked[0].number, [0.9, 0.1])
    study.fail(asked[1].number, "diverged")
    study = open_study(tmp_path, sampler=sampler)  # what was tried before counts too
    asked += [study.ask(FourCascades(), DEFAULTS) for _ in range(2)]
    assert {one.cascade.macs_kept for one in asked} == {(0.1,), (0.2,), (0.3,), (0.4,)}
    with pytest.raises(SpaceExhausted, match="500 draws gave nothing new to run; the last one: equal to trial"):
        study.ask(FourCascades(), DEFAULTS)
    assert study.num_started == 4
    assert study.running() == tuple(asked[2:])
    assert study.failures() == {asked[1].number: "diverged"}


def test_what_cannot_reach_its_size_is_not_run_and_the_sampler_knows(tmp_path):
    study = open_study(tmp_path)
    look = SizeLook(smallest_kept=lambda pruning: 0.05 * pruning.min_channels)
    sizes = [study.ask(SPACE, DEFAULTS, look).cascade.macs_kept[-1] for _ in range(20)]
    assert min(sizes) >= 0.05
    refused = [trial for trial in study._study.trials if trial.state is TrialState.PRUNED]
    assert refused
    assert all(trial.constraints["smallest_macs_kept"] > 0 for trial in refused)
    assert "must be at least 0.05, as every channel group is at its floor there" in refused[0].user_attrs["refusal"]


def test_the_small_part_of_a_space_that_a_look_leaves_is_found(tmp_path):
    def look(cascade):
        return None if cascade.macs_kept[-1] < 0.0206 else Refusal(reason="too large")

    study = open_study(tmp_path)
    assert all(study.ask(SPACE, DEFAULTS, look).cascade.macs_kept[-1] < 0.0206 for _ in range(3))
    # Most of what was refused never came near the study.
    assert len(study._study.trials) <= 3 * 11


def test_what_is_found_beside_the_study_follows_from_the_seed(tmp_path):
    def look(cascade):
        return None if 0.1 < cascade.macs_kept[-1] < 0.105 else Refusal(reason="too large or too small")

    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        study = open_study(tmp_path / name, seed=seed, sampler="random")
        found.append([study.ask(SPACE, DEFAULTS, look).cascade for _ in range(2)])
        assert study._study.trials[10].system_attrs["fixed_params"]  # found beside it
    first, again, other = found
    assert first == again
    assert all(one.macs_kept != another.macs_kept for one, another in zip(first, other, strict=True))


def test_a_look_that_refuses_everything_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no valid cascade in 500 draws; the last one: too large"):
        open_study(tmp_path).ask(SPACE, DEFAULTS, lambda _: Refusal(reason="too large"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_an_objective_that_is_no_number_fails_the_trial(tmp_path, value):
    study = open_study(tmp_path)
    asked = study.ask(SPACE, DEFAULTS)
    study.tell(asked.number, [value, 0.1])
    study.tell(asked.number, [0.9, 0.1])
    assert study.failures() == {0: f"val_accuracy is {value}, but is an objective and must be a finite number"}


def test_the_sampler_keeps_to_constraints(tmp_path):
    def sizes(name, constrained):
        study = open_study(tmp_path / name)
        found = []
        for _ in range(30):
            asked = study.ask(SPACE, DEFAULTS)
            size = asked.cascade.macs_kept[-1]
            broken = {"val_accuracy": 0.1 - size} if constrained else {}
            study.tell(asked.number, [0.9 + size / 10, size], constraints=broken)
            found.append(size)
        return found[15:]

    for name in ("free", "bound"):
        (tmp_path / name).mkdir()
    kept, free = ([size >= 0.1 for size in sizes(name, name == "bound")] for name in ("bound", "free"))
    assert sum(kept) > sum(free)


class Failing:
    def __call__(self, trial, defaults):
        trial.suggest_float("size", 0.1, 0.9)
        raise ZeroDivisionError


def test_a_space_that_fails_leaves_nothing_running(tmp_path):
    study = open_study(tmp_path)
    with pytest.raises(ZeroDivisionError):
        study.ask(Failing(), DEFAULTS)
    assert [trial.state for trial in study._study.trials] == [TrialState.FAIL]
    assert study.num_started == 0


def test_what_was_half_drawn_when_the_driver_died_is_ended_and_its_point_laid_out_again(tmp_path):
    study = open_study(tmp_path)
    study.enqueue([{"student_macs_kept": 0.123}])
    study._study.ask()  # killed before the space was called
    study._study.ask()
    again = open_study(tmp_path)
    again.settle()
    assert [trial.state for trial in again._study.trials[:2]] == [TrialState.FAIL] * 2
    assert (again.num_started, again.failures()) == (0, {})
    assert again.ask(SPACE, DEFAULTS).cascade.macs_kept[-1] == pytest.approx(0.123)
    again.settle()
    assert len(again.running()) == 1
