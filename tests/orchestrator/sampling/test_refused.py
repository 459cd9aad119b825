from orchestrator.policies.looks import Refusal, admit
from orchestrator.sampling.refused import RefusedDraws
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.config import CascadeConfig
from trainables.recipe import Recipe

ONE_EPOCH = CascadeDefaults(recipe=Recipe(epochs=1))


class TwoSchedules:
    """Of one epoch, which two levels, one after the other, cannot share."""

    def __call__(self, trial, defaults):
        size = trial.suggest_float("size", 0.1, 0.4)
        schedule = trial.suggest_categorical("schedule", ["joint", "sequential"])
        return CascadeConfig(macs_kept=(0.5, size), schedule=schedule, recipe=defaults.recipe)


def draw(tmp_path, space, look=admit, num_trials=20):
    """Ask for trials; what was said while they were drawn, and what at the end."""
    said = []
    refused = RefusedDraws(said.append)
    study = Study(StudyAddress(place=tmp_path / "study.journal", objectives=("val_accuracy",)), seed=0)
    space, look = refused.watch(space, look)
    for _ in range(num_trials):
        study.ask(space, ONE_EPOCH, look)
    num_refused = len(study._study.trials) - num_trials
    between = len(said)
    refused.sum_up()
    return num_refused, said[:between], said[between:]


def test_the_first_refused_draw_is_told_with_what_was_drawn_and_at_the_end_how_many_there_were(tmp_path):
    num_refused, (first,), (total,) = draw(tmp_path, TwoSchedules())
    assert num_refused > 1
    assert first.startswith("a draw cannot be run, and another takes its place")
    assert "at least one epoch a level" in first
    assert "; drawn were size 0." in first
    assert first.endswith(", schedule sequential")
    assert total.startswith(f"{num_refused} draws could not be run, such as this one: ")
    assert "at least one epoch a level" in total


def test_reasons_that_differ_by_their_numbers_alone_are_one(tmp_path):
    looked = []

    def look(cascade):
        size = cascade.macs_kept[-1]
        looked.append(size)
        sizes = ", ".join(f"{size:.4g}" for size in cascade.macs_kept)
        if size < 0.05:
            return Refusal(reason=f"of {sizes} (level {cascade.num_levels}) one is {size * 1e-6:.3g}, but too small")
        return Refusal(reason=f"{size:.4g} is too large") if size > 0.1 else None

    _, said, totals = draw(tmp_path, CascadeSpace(), look)
    assert len(said) == len(totals) == 2
    assert all("num_assistants " in line.partition("; drawn were ")[2] for line in said)
    assert sum(int(total.split()[0]) for total in totals) == len([size for size in looked if not 0.05 <= size <= 0.1])


def test_what_was_tried_before_is_drawn_again_without_a_word(tmp_path):
    def space(trial, defaults):
        size = trial.suggest_categorical("size", [0.1, 0.2, 0.3, 0.4])
        return CascadeConfig(macs_kept=(size,), recipe=defaults.recipe)

    num_refused, *said = draw(tmp_path, space, num_trials=4)
    assert num_refused
    assert said == [[], []]


def test_a_reason_that_was_met_once_is_not_repeated_at_the_end():
    said = []
    refused = RefusedDraws(said.append)
    _, look = refused.watch(CascadeSpace(), lambda _: Refusal(reason="too large"))
    look(CascadeConfig(macs_kept=(0.5,)))
    refused.sum_up()
    assert said == ["a draw cannot be run, and another takes its place (said once for each reason): too large"]
