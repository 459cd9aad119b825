import pytest

from orchestrator.experiment.config import Experiment
from orchestrator.experiment.dead_choices import dead_notes
from orchestrator.experiment.idle import idle_notes
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe

REGROWING = CascadeDefaults(pruning=Pruning(regrowth=0.2))
SHORT = CascadeDefaults(recipe=Recipe(epochs=2))


@pytest.mark.parametrize(
    ("space", "cascade", "notes"),
    [
        (CascadeSpace(nested=(False, True), schedule=("joint", "sequential")), CascadeDefaults(), []),
        (CascadeSpace(num_assistants=(0, 3)), SHORT, []),
        (
            CascadeSpace(nested=(False, True)),
            REGROWING,
            ["space.nested has true, but no cascade can have it: pruning.regrowth is 0.2, but pruning.nested is true"],
        ),
        (
            CascadeSpace(nested=(True, False), schedule=("joint", "sequential"), num_assistants=(0, 3)),
            CascadeDefaults(recipe=Recipe(epochs=2), pruning=Pruning(regrowth=0.2)),
            [
                "space.nested has true, but no cascade can have it: pruning.regrowth is 0.2",
                "space.num_assistants goes up to 3, but sequential cascades can have at most 1: recipe.epochs is 2",
            ],
        ),
        (
            CascadeSpace(schedule=("joint", "sequential"), num_assistants=(2, 3)),
            SHORT,
            ["space.schedule has sequential, but no cascade can have it: recipe.epochs is 2, but"],
        ),
    ],
)
def test_choices_that_no_cascade_can_have_are_named_with_the_reason(space, cascade, notes):
    experiment = Experiment(space=space, cascade=cascade)
    said = list(dead_notes(experiment))
    assert [line[: len(note)] for line, note in zip(said, notes, strict=True)] == notes
    assert set(said) <= set(idle_notes(experiment))


def test_ready_spaces_have_only_choices_that_can_be():
    assert list(dead_notes(Experiment())) == []
