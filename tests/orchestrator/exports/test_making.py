"""A card says of a network how it was made, and nothing that its cascade did otherwise."""

import pytest

from orchestrator.exports.making import made
from tests.orchestrator.exports.test_card import CARD, changed, markdown
from trainables.config import CascadeConfig
from trainables.pruning_config import Pruning

CHAIN = "the next larger one, the first from the teacher"


@pytest.mark.parametrize(
    ("values", "learned_from"),
    [
        ({}, CHAIN),
        ({"schedule": "sequential"}, CHAIN),
        ({"learns_from": "teacher"}, "the teacher"),
        ({"distillation_weight": 0.0}, "the labels alone"),
        ({"distillation_weight": 0.0, "learns_from": "teacher"}, "the labels alone"),
        ({"distillation_weight": 0.0, "feature_weight": 1.0}, CHAIN),
    ],
)
def test_a_level_learned_from_whom_the_cascade_says(values, learned_from):
    cascade = CascadeConfig(macs_kept=(0.3, 0.04), **values)
    assert made(cascade) == f"each level was pruned on its own loss and learned from {learned_from}"


@pytest.mark.parametrize(
    ("values", "pruned"),
    [
        ({}, "on its own loss"),
        ({"saliency_loss": "labels"}, "on the loss of the labels alone"),
        ({"saliency": "absolute-gate-gradient"}, "on its own loss"),
        ({"saliency": "random", "saliency_loss": "labels"}, "at random"),
        ({"saliency": "filter-l1"}, "by `filter-l1`"),
        ({"saliency": "my.package:criterion"}, "by `my.package:criterion`"),
    ],
)
def test_a_level_was_pruned_by_what_the_cascade_says(values, pruned):
    cascade = CascadeConfig(macs_kept=(0.3,), pruning=Pruning(**values))
    assert made(cascade) == f"its one level was pruned {pruned} and learned from the teacher"


def test_the_card_says_it():
    assert f"of the search `cifar`: {made(CARD.cascade)}.\n\n```json" in markdown(CARD)
    alone = CascadeConfig(macs_kept=(0.3, 0.04), distillation_weight=0.0)
    assert "learned from the labels alone." in markdown(changed(cascade=alone))
